"""Loading a checkpoint with a word to the user."""

import os
from typing import TYPE_CHECKING

from ..settings import ModelConfig
from .terminal import Terminal

if TYPE_CHECKING:
    from ..models import DiffusersDenoiser


def own_defaults(config: ModelConfig) -> dict[str, float]:
    """What the checkpoint declares for itself, without loading it."""
    from .. import models

    return models.own_defaults(config.model, revision=config.revision, variant=config.variant)


def open_model(config: ModelConfig, terminal: Terminal) -> "DiffusersDenoiser":
    """Load the checkpoint; the imports that this needs take seconds on a cold machine."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with terminal.status(f"Loading {config.model}"):
        from ..models import load_model

        model = load_model(
            config.model,
            revision=config.revision,
            variant=config.variant,
            lora=config.lora,
            embedding=config.embedding,
            offline=config.offline,
            device=config.device,
            dtype=config.dtype,
            low_memory=config.low_memory,
            compile=config.compile,
        )
    if terminal.talk.verbose:
        terminal.say(f"{model.name} on {model.device}, {str(model.dtype).removeprefix('torch.')}.")
    return model
