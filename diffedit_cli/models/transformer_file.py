"""A transformer in a file: from the names of the original code to those of diffusers, by diffusers itself."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..errors import ModelError
from .networks import reading
from .weights import State, refuse_unknown

PREFIX = "model.diffusion_model."
TRANSFORMERS = {"flux": "FLUX", "sd3": "Stable Diffusion 3", "zimage": "Z-Image"}  # by kind
# Pieces of names, by kind; the first that is found counts.
ORIGINAL = {
    "flux": "double_blocks.",
    "sd3": "joint_blocks.",
    "zimage": "noise_refiner.0.attention.qkv.",
}
DIFFUSERS = {
    "flux": "single_transformer_blocks.",
    "sd3": "transformer_blocks.0.attn.add_k_proj",
    "zimage": "noise_refiner.0.attention.to_q.",
}
# Families that are read from folders alone, by a piece of a name that their files have in every layout.
IN_FOLDERS = {
    "distilled_guidance_layer.": "Chroma",
    "double_stream_modulation_img.": "FLUX.2",
    "txt_norm.": "Qwen-Image",
}
OF_GUIDANCE = ("guidance_in.", "guidance_embedder.")  # FLUX.1 dev has them, and schnell has not


def kind_of_transformer(names: Iterable[str]) -> str:
    """A key of ORIGINAL, by the names of the tensors; nothing for other names. ModelError: see IN_FOLDERS."""
    keys = list(names)
    for piece, family in IN_FOLDERS.items():
        if any(piece in key for key in keys):
            raise ModelError(
                f"A transformer of {family} alone in a file is not supported.",
                "Name a whole checkpoint with --model: a folder in diffusers' layout, or a hub id.",
            )
    kinds = (
        kind
        for pieces in (ORIGINAL, DIFFUSERS)
        for kind, piece in pieces.items()
        if any(piece in key for key in keys)
    )
    return next(kinds, "")


def check_kind(what: str, kind: str, config: Mapping[str, Any], state: State) -> None:
    """ModelError where a transformer is of another kind than the checkpoint that its other parts are from."""
    theirs = kind_of_transformer(state)
    if theirs != kind and (theirs or kind in ORIGINAL):
        raise ModelError(
            f"{what} is not a transformer of the same family as its text encoders.",
            "Name a checkpoint of its own family with --text-encoder.",
        )
    is_dev = told_by(state)["guidance_embeds"]
    if kind == "flux" and is_dev != bool(config.get("guidance_embeds")):
        own, other = ("dev", "schnell") if is_dev else ("schnell", "dev")
        raise ModelError(
            f"{what} is FLUX.1 {own}, and its text encoders come from FLUX.1 {other}.",
            f"Name FLUX.1 {own} with --text-encoder.",
        )


def told_by(names: Iterable[str]) -> dict[str, Any]:
    """What the names of its tensors tell of a transformer's config."""
    keys = list(names)
    twice = (re.search(r"blocks\.(\d+)\.(x_block\.)?attn2\.", key) for key in keys)
    return {
        "guidance_embeds": any(piece in key for key in keys for piece in OF_GUIDANCE),
        "qk_norm": "rms_norm" if any(re.search(r"\.(ln|norm)_q\.", key) for key in keys) else None,
        "dual_attention_layers": sorted({int(match[1]) for match in twice if match}),
    }


def config_of(kind: str, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """The config of a transformer of SD3 or FLUX.1, by its tensors under diffusers' names; KeyError: one is
    missing."""
    config = {
        **told_by(shapes),
        "num_layers": count_of("transformer_blocks", shapes),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
    }
    width = shapes["context_embedder.weight"][0]
    head = shapes.get("transformer_blocks.0.attn.norm_q.weight", [64])[0]
    config |= {"attention_head_dim": head, "num_attention_heads": width // head}
    if kind == "flux":
        return config | {"num_single_layers": count_of("single_transformer_blocks", shapes)}
    places = math.isqrt(shapes["pos_embed.pos_embed"][1])
    return config | {"sample_size": 128, "caption_projection_dim": width, "pos_embed_max_size": places}


def count_of(blocks: str, names: Iterable[str]) -> int:
    """How many blocks of this name there are."""
    return len({key.split(".")[1] for key in names if key.startswith(f"{blocks}.")})


def with_own_names(what: str, kind: str, state: State) -> State:
    """The tensors of a transformer under the names of its network; those of other parts are left out.

    ModelError for tensors that are not understood.
    """
    inside = {key.removeprefix(PREFIX): x for key, x in state.items() if key.startswith(PREFIX)}
    found = inside or dict(state)
    if not any(piece in key for key in found for piece in ORIGINAL.values()):
        return found
    from diffusers.loaders.single_file_utils import (
        convert_flux_transformer_checkpoint_to_diffusers,
        convert_sd3_transformer_checkpoint_to_diffusers,
        convert_z_image_transformer_checkpoint_to_diffusers,
    )

    convert = {
        "sd3": convert_sd3_transformer_checkpoint_to_diffusers,
        "flux": convert_flux_transformer_checkpoint_to_diffusers,
        "zimage": convert_z_image_transformer_checkpoint_to_diffusers,
    }
    with reading(what):
        named = convert[kind](found)  # which takes out what it has used
    refuse_unknown(what, found)
    return named
