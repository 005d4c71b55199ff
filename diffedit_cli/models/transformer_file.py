"""A transformer in a file: from the names of the original code to those of diffusers, by diffusers itself."""

from ..errors import ModelError
from .networks import reading
from .weights import State, refuse_unknown

PREFIX = "model.diffusion_model."
BLOCKS = {"sd3": "joint_blocks.", "flux": "double_blocks."}  # by the kind of the network


def kind_of_transformer(state: State) -> str:
    """sd3 or flux, by the names of the original code; nothing for other names."""
    kinds = (kind for kind, piece in BLOCKS.items() if any(piece in key for key in state))
    return next(kinds, "")


def with_own_names(what: str, kind: str, state: State) -> State:
    """The tensors of a transformer under the names of its network; those of other parts are left out.

    ModelError for a transformer of another kind, and for tensors that are not understood.
    """
    inside = {key.removeprefix(PREFIX): x for key, x in state.items() if key.startswith(PREFIX)}
    found, theirs = inside or dict(state), kind_of_transformer(state)
    if not theirs:
        return found
    if theirs != kind:
        raise ModelError(
            f"{what} is a transformer of another family than its text encoders.",
            "Name a checkpoint of its own family with --text-encoder.",
        )
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
