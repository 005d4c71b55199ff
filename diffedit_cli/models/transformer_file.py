"""A transformer in a file: from the names of the original code to those of diffusers, by diffusers itself."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ModelError
from .networks import reading
from .weights import State, refuse_unknown

PREFIX = "model.diffusion_model."
TRANSFORMERS = {"flux": "FLUX", "sd3": "Stable Diffusion 3"}  # by the kind of the network
# Pieces of names, by the kind of the network; the first that is found counts.
ORIGINAL = {"flux": "double_blocks.", "sd3": "joint_blocks."}
DIFFUSERS = {"flux": "single_transformer_blocks.", "sd3": "transformer_blocks.0.attn.add_k_proj"}
# Families that are read from folders alone, by a piece of a name that their files have in every layout.
IN_FOLDERS = {
    "distilled_guidance_layer.": "Chroma",
    "double_stream_modulation_img.": "FLUX.2",
    "txt_norm.": "Qwen-Image",
}
OF_GUIDANCE = ("guidance_in.", "guidance_embedder.")  # FLUX.1 dev has them, and schnell has not


def kind_of_transformer(names: Iterable[str]) -> str:
    """sd3 or flux, by the names of the tensors; nothing for other names. ModelError: see IN_FOLDERS."""
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
    is_dev = any(piece in key for key in state for piece in OF_GUIDANCE)
    if kind == "flux" and is_dev != bool(config.get("guidance_embeds")):
        own, other = ("dev", "schnell") if is_dev else ("schnell", "dev")
        raise ModelError(
            f"{what} is FLUX.1 {own}, and its text encoders come from FLUX.1 {other}.",
            f"Name FLUX.1 {own} with --text-encoder.",
        )


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
    )

    convert = {
        "sd3": convert_sd3_transformer_checkpoint_to_diffusers,
        "flux": convert_flux_transformer_checkpoint_to_diffusers,
    }
    with reading(what):
        named = convert[kind](found)  # which takes out what it has used
    refuse_unknown(what, found)
    return named
