"""Fills in settings that were left open, with the model's own values or the usual ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import SettingError
from .fields import option_name
from .groups import PLAIN_NORMS, USUAL_SCALE
from .schema import EditConfig, GenerateConfig, InterpolateConfig

Config = TypeVar("Config", EditConfig, GenerateConfig, InterpolateConfig)
OPEN = ("steps", "solver", "timestep_spacing", "inversion", "strength")  # what a model can choose, if unset


def filled_in(config: Config, own: Mapping[str, Any]) -> Config:
    """The settings with the model's own values, or the usual ones, where none are given.

    own: what the model declares (models.own_defaults). SettingError: its values cannot be combined with those
    given.
    """
    config = with_own_norm(with_own_method(config, own), own)
    if config.guidance.scale is None:
        scale = config.guidance.usual_scale(own.get("guidance_scale", USUAL_SCALE))
        config = replace(config, guidance=replace(config.guidance, scale=scale))
    open_ones = {key for key in OPEN if getattr(config, key, "") in (None, "auto")}
    chosen = {key: own[key] for key in open_ones & {*own}}
    try:
        config = replace(config, **chosen)
    except SettingError as error:
        named = [f"{option_name(key)} {chosen[key]}" for key in error.settings if key in chosen]
        raise SettingError(error.message, f"{error.hint} The model's own is {', '.join(named)}.") from error
    usual: dict[str, Any] = {
        "steps": config.step_count,
        "solver": config.step_solver,
        "timestep_spacing": config.step_spacing,
    }
    if isinstance(config, EditConfig):
        usual |= {"inversion": config.encoding, "strength": config.ratio}
    return replace(config, **usual)


def with_own_norm(config: Config, own: Mapping[str, Any]) -> Config:
    """The settings with the model's own norm, if none is given and a norm applies."""
    if config.guidance.norm != "auto":
        return config
    is_plain = config.guidance.method == "cfg" and getattr(config, "inversion", "") != "flowedit"
    norm = own.get("guidance_norm", "none") if is_plain else "none"
    return replace(config, guidance=replace(config.guidance, norm=norm))


def with_own_method(config: Config, own: Mapping[str, Any]) -> Config:
    """The settings with a guidance method: as an input of the network, if it is one of the model's.

    SettingError: the model takes the scale as an input and cannot use a setting that was given, or the
    reverse.
    """
    guidance, is_embedded = config.guidance, own.get("guidance_method") == "embedded"
    given = {
        f"--guidance-method {guidance.method}": guidance.method not in ("auto", "embedded"),
        f"--guidance-norm {guidance.norm}": guidance.norm not in PLAIN_NORMS,
        "--guidance-rescale": guidance.rescale,
    }
    if guidance.method == "embedded" and not is_embedded:
        raise SettingError(
            "--guidance-method embedded cannot be used with this model.",
            "It does not take the guidance scale as an input; leave that flag out.",
        )
    if is_embedded and (flag := next((flag for flag, is_given in given.items() if is_given), "")):
        raise SettingError(
            f"{flag} cannot be used with this model.",
            "It takes the guidance scale as an input and makes no second prediction; leave that flag out.",
        )
    usual = "embedded" if is_embedded else "cfg"
    method = usual if guidance.method == "auto" else guidance.method
    return replace(config, guidance=replace(guidance, method=method))
