"""Loading a checkpoint, and telling the user about it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from ..settings import (
    EditConfig,
    ModelConfig,
    flatten,
    keeps_steps,
    option_name,
    require_flow,
    require_own_levels,
)
from .idle import is_given
from .terminal import Terminal

if TYPE_CHECKING:
    from ..models import Converted, DiffusersDenoiser


def own_defaults(config: ModelConfig) -> dict[str, Any]:
    """The checkpoint's own defaults, without loading it. Refuses what `models.check` does."""
    from .. import models

    models.check(config)
    return models.own_defaults(config.model, **found_by(config))


def require_suited(checkpoint: ModelConfig, *, inversion: str = "", spacing: str = "scheduler") -> None:
    """SettingError for an inversion or for timesteps that the checkpoint, if it is here, does not have."""
    from .. import models

    is_flow = models.check(checkpoint)
    require_flow(inversion, is_flow=is_flow is not False)
    if is_flow:
        require_own_levels(spacing)


def found_by(config: ModelConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in ("revision", "variant", "lora", "text_encoder")}


def say_few_steps(config: ModelConfig, terminal: Terminal) -> None:
    """Say which settings a few-step model chooses."""
    from .. import models

    if few := models.few_steps(config.model, **found_by(config)):
        told = told_defaults(own_defaults(config))
        terminal.say(f"{config.model} runs as a few-step model ({few.family}): {told}, unless set otherwise.")


def told_defaults(own: Mapping[str, Any]) -> str:
    """A model's own defaults, as flags."""
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in own.items()}
    return ", ".join(f"{option_name(key)} {value}" for key, value in shown.items())


def own_words(config: ModelConfig) -> dict[str, list[str]] | None:
    """The vocabulary that the checkpoint declares, without loading it; None if it declares none."""
    from .. import models

    return models.own_words(config.model, revision=config.revision, variant=config.variant)


def unknown_words(config: ModelConfig, *prompts: str) -> str:
    """What to say of words that the checkpoint never learned, without loading it; empty if there are none."""
    from .. import models

    words = own_words(config)
    if words is None or not (unknown := models.words_not_in(words, prompts)):
        return ""

    from ..notices import unknown_notice

    return unknown_notice(config.model, words, unknown)


def spare_own_steps(config: EditConfig, context: typer.Context, own: Mapping[str, Any]) -> EditConfig:
    """The settings without the steps of --fast, which are more than a few-step model takes."""
    is_spared = context.params["fast"] and keeps_steps(own) and not is_given(context, "steps")
    return replace(config, steps=None) if is_spared else config


def open_model(config: ModelConfig, terminal: Terminal, *, draws: bool = True) -> "DiffusersDenoiser":
    """Load the checkpoint; the imports that this needs take seconds on a cold machine.

    draws: its steps matter.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if config.engine == "openvino":
        convert(config, terminal)
    with terminal.status(f"Loading {config.model}"):
        from ..models import load_model

        model = load_model(**flatten(config))
    if terminal.talk.verbose:
        kind = str(model.dtype).removeprefix("torch.")
        terminal.say(f"{model.name} on {model.device}, {kind}, {model.origin['backend']}.")
    if draws:
        say_few_steps(config, terminal)
    return model


def convert(config: ModelConfig, terminal: Terminal) -> "Converted":
    """Convert the checkpoint's networks for OpenVINO, with progress, unless that was done before."""
    with terminal.status(f"Looking for {config.model}"):
        from ..models import optimize
    units = {"convert": 1, "calibrate": 1, "quantise": 2} if config.dtype == "int8" else {"convert": 1}
    with terminal.progress(units) as report:
        return optimize(config, report)
