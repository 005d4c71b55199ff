"""Idle settings, which have no effect in a run because another one rules them out: noted, and not stored as
used."""

from dataclasses import fields
from typing import TypeVar

from .fields import build, flatten, keys
from .remove import RemoveConfig
from .schema import (
    EditConfig,
    FilmConfig,
    GenerateConfig,
    GuidanceConfig,
    InterpolateConfig,
    MaskConfig,
)

Config = TypeVar("Config", EditConfig, GenerateConfig, InterpolateConfig, RemoveConfig)

SEARCH = tuple(key for key, *_ in keys(MaskConfig, "mask_") if key not in ("mask_invert", "mask_grey"))
GUIDANCE = tuple(key for key, *_ in keys(GuidanceConfig, "guidance_") if key != "guidance_scale")


def idle_settings(
    config: EditConfig | GenerateConfig | InterpolateConfig,
    *,
    has_mask: bool = False,
    has_areas: bool = True,
    has_init: bool = True,
) -> dict[str, str]:
    """The keys of the settings that have no effect, each with the reason: {"mask_threshold": "with --mask"}.

    config: with its guidance scale filled in. has_mask: the user's mask replaces the search. has_areas: the
    user gave that, or an area to add or to subtract. has_init: an interpolation starts from a picture.
    """
    idle: dict[str, str] = {}
    guidance = config.guidance
    if guidance.schedule == "constant":
        idle["guidance_end"] = "without --guidance-schedule"
    if guidance.method == "embedded":
        idle["negative_prompt"] = "with a model that takes the guidance scale as an input"
    if is_unguided(guidance):
        idle |= dict.fromkeys(("negative_prompt", *GUIDANCE), "at --guidance-scale 1")
    if guidance.method == "embedded":
        idle.pop("guidance_method", None)
    if isinstance(config, InterpolateConfig) and not has_init:
        idle["strength"] = "without --init"
    if isinstance(config, EditConfig):
        if not config.ref:
            idle["mask_evidence"] = "without --ref"
        if not config.is_inverted:
            idle["inversion_rounds"] = f"with --inversion {config.encoding}"
        if config.encoding == "flowedit":
            idle["reuse"] = "with --inversion flowedit"
        elif config.encoding == "noise" and (is_unguided(guidance) or guidance.method == "embedded"):
            idle["reuse"] = "with --inversion noise and one prediction a step"
        if not config.per_object:
            idle["next_queries"] = "without --per-object"
        if not has_areas:
            idle["mask_grey"] = "without a mask of your own"
        if config.mask.invert:
            idle["room"] = "with --mask-invert"
        if has_mask:
            idle |= dict.fromkeys((*SEARCH, "room"), "with --mask")
        elif config.mask.invert:
            idle["zoom"] = "with --mask-invert"
    return idle


def is_unguided(guidance: GuidanceConfig) -> bool:
    """Whether the scale is 1 at every step: the prompt's prediction is taken as it is."""
    is_one = guidance.base_scale == 1 and (guidance.schedule == "constant" or guidance.end == 1)
    return is_one and guidance.method != "cfg++"


def without_idle(config: Config, idle: dict[str, str]) -> Config:
    """The config with each idle setting at its default, and without a norm."""
    if not idle:
        return config
    usual = {key: default for key, _, _, default in keys(type(config)) if key in idle}
    filled = {"guidance_method": "cfg", "guidance_norm": "none"}  # as `filled_in` leaves them
    usual |= {key: value for key, value in filled.items() if key in usual}
    return build(type(config), flatten(config), usual)


def idle_film(has_film: bool) -> dict[str, str]:
    """As `idle_settings`, for the settings of a film."""
    return {} if has_film else {item.name: "without --animate" for item in fields(FilmConfig)}
