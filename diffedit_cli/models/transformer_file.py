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
TRANSFORMERS = {  # by kind
    "chroma": "Chroma",
    "flux2": "FLUX.2 klein",
    "flux": "FLUX",
    "qwenimage": "Qwen-Image",
    "sd3": "Stable Diffusion 3",
    "zimage": "Z-Image",
}
# Pieces of names, by kind; the first that is found counts. Qwen-Image has the same names in both.
ORIGINAL = {
    "chroma": "distilled_guidance_layer.layers.0.in_layer.",
    "flux2": "single_stream_modulation.lin.",
    "flux": "double_blocks.",
    "sd3": "joint_blocks.",
    "zimage": "noise_refiner.0.attention.qkv.",
}
DIFFUSERS = {
    "chroma": "distilled_guidance_layer.layers.0.linear_1.",
    "flux2": "single_stream_modulation.linear.",
    "qwenimage": "txt_norm.",
    "flux": "single_transformer_blocks.",
    "sd3": "transformer_blocks.0.attn.add_k_proj",
    "zimage": "noise_refiner.0.attention.to_q.",
}
SCALE = re.compile(r"((query|key)_norm|norms\.\d+)\.weight$")  # ComfyUI may write so what is called scale
OF_GUIDANCE = ("guidance_in.", "guidance_embedder.")  # FLUX.1 dev has them, and schnell has not


def kind_of_transformer(names: Iterable[str]) -> str:
    """A key of TRANSFORMERS, by the names of the tensors; nothing for other names."""
    keys = list(names)
    kinds = (
        kind
        for pieces in (ORIGINAL, DIFFUSERS)
        for kind, piece in pieces.items()
        if any(piece in key for key in keys)
    )
    return next(kinds, "")


def check_kind(what: str, kind: str, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """ModelError where a transformer is of another kind than the checkpoint that its other parts are from.
    config: of that checkpoint's. names: of its tensors."""
    if kind_of_transformer(names) != kind:
        raise ModelError(
            f"{what} is not a transformer of the same family as its text encoders.",
            "Name a checkpoint of its own family with --text-encoder.",
        )
    is_dev = told_by(names)["guidance_embeds"]
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
    """The config of a transformer of SD3, FLUX.1 or Chroma, by its tensors under diffusers' names; KeyError:
    one is missing."""
    width, texts = shapes["context_embedder.weight"]
    head = shapes.get("transformer_blocks.0.attn.norm_q.weight", [64])[0]
    config = {
        "num_layers": count_of("transformer_blocks", shapes),
        "joint_attention_dim": texts,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
    }
    if kind != "sd3":
        config["num_single_layers"] = count_of("single_transformer_blocks", shapes)
    if kind == "chroma":
        hidden, channels = shapes["distilled_guidance_layer.in_proj.weight"]
        return config | {
            "approximator_num_channels": channels,
            "approximator_hidden_dim": hidden,
            "approximator_layers": count_of("distilled_guidance_layer.layers", shapes),
        }
    pooled = shapes["time_text_embed.text_embedder.linear_1.weight"][1]
    config |= {**told_by(shapes), "pooled_projection_dim": pooled}
    if kind == "flux":
        return config
    places = math.isqrt(shapes["pos_embed.pos_embed"][1])
    return config | {"sample_size": 128, "caption_projection_dim": width, "pos_embed_max_size": places}


def count_of(blocks: str, names: Iterable[str]) -> int:
    """How many blocks of this name there are."""
    matches = (re.match(rf"{re.escape(blocks)}\.(\d+)\.", key) for key in names)
    return len({match[1] for match in matches if match})


def with_own_names(what: str, kind: str, state: State) -> State:
    """The tensors of a transformer under the names of its network; those of other parts are left out.

    ModelError for tensors that are not understood.
    """
    inside = {key.removeprefix(PREFIX): x for key, x in state.items() if key.startswith(PREFIX)}
    found = inside or dict(state)
    if not any(piece in key for key in found for piece in ORIGINAL.values()):
        return found
    found = {SCALE.sub(r"\1.scale", key): x for key, x in found.items()}
    from diffusers.loaders.single_file_utils import (
        convert_chroma_transformer_checkpoint_to_diffusers,
        convert_flux2_transformer_checkpoint_to_diffusers,
        convert_flux_transformer_checkpoint_to_diffusers,
        convert_sd3_transformer_checkpoint_to_diffusers,
        convert_z_image_transformer_checkpoint_to_diffusers,
    )

    convert = {
        "chroma": convert_chroma_transformer_checkpoint_to_diffusers,
        "flux2": convert_flux2_transformer_checkpoint_to_diffusers,
        "sd3": convert_sd3_transformer_checkpoint_to_diffusers,
        "flux": convert_flux_transformer_checkpoint_to_diffusers,
        "zimage": convert_z_image_transformer_checkpoint_to_diffusers,
    }
    with reading(what):
        named = convert[kind](found)  # which takes out what it has used
    refuse_unknown(what, found)
    return named
