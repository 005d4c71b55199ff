"""Loading a checkpoint with a word to the user."""

import os
from typing import TYPE_CHECKING

from ..settings import ModelConfig, flatten
from .terminal import Terminal

if TYPE_CHECKING:
    from ..models import DiffusersDenoiser


def own_defaults(config: ModelConfig) -> dict[str, float]:
    """What the checkpoint declares for itself, without loading it."""
    from .. import models

    return models.own_defaults(config.model, revision=config.revision, variant=config.variant)


def unknown_words(config: ModelConfig, *prompts: str) -> str:
    """What to say of words that the checkpoint never learned, without loading it; empty if there are none."""
    from .. import models

    words = models.own_words(config.model, revision=config.revision, variant=config.variant)
    if words is None or not (unknown := models.words_not_in(words, prompts)):
        return ""

    from ..notices import unknown_notice

    return unknown_notice(config.model, words, unknown)


def open_model(config: ModelConfig, terminal: Terminal) -> "DiffusersDenoiser":
    """Load the checkpoint; the imports that this needs take seconds on a cold machine."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with terminal.status(f"Loading {config.model}"):
        from ..models import load_model

        model = load_model(**flatten(config))
    if terminal.talk.verbose:
        terminal.say(f"{model.name} on {model.device}, {str(model.dtype).removeprefix('torch.')}.")
    return model
