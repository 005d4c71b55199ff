"""One object taken out of a picture: its hole is filled smoothly from the rim, then noised and redrawn.

So the drawing starts without a trace of the object, which an inversion of the picture would keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .core import mask as finding
from .core.costs import edit_forwards
from .core.diffedit import DiffEdit, recognition
from .core.fill import LEVELS, Hole, bridge, likeliest, seamless
from .core.types import Heat, Latents, Report
from .errors import DiffeditError
from .images import canvas
from .images.canvas import Fit
from .images.masks import Masks
from .images.read import Picture
from .models import DiffusersDenoiser, sibling_of
from .results import RemoveResult, found_mask, put_back
from .settings import EditConfig, MaskConfig, RemoveConfig, filled_in, idle_settings, without_idle

FILLED_IN = ("seed", "size", "steps", "solver", "timestep_spacing", "guidance")  # where not given
WARM = 0.7  # share of the mask's threshold from which what joins the mask belongs to it
MISSING = 0.1  # recognition (see core.diffedit.recognition) below which an object is not there
FAINT = 0.07  # mean heat in the mask below which it is not there

Seen = tuple[Float[Tensor, "b 3 h w"], Heat]  # what a search shows, and its heat (see DiffEdit.look)


def settled(config: RemoveConfig, run: EditConfig, masks: Masks) -> RemoveConfig:
    """The settings as they will be used: those that `run` has filled in, and idle ones at their defaults."""
    filled = {key: getattr(run, key) for key in FILLED_IN}
    idle = idle_settings(run, has_mask=masks.use is not None, has_areas=not masks.is_empty)
    return without_idle(replace(config, **filled), idle)


def remove(
    model: DiffusersDenoiser,
    picture: Picture,
    config: RemoveConfig,
    fit: Fit,
    seen: Seen | None,
    masks: Masks,
    report: Report,
) -> RemoveResult:
    """The picture without the object; `run` is still empty. seen: what the search found, if no mask is given.

    DiffeditError: the model does not see the object, or the hole covers the whole picture.
    """
    areas, heat, recognised = masks.cells(fit, model.factor, model.device), None, None
    if seen is not None:
        shown, heat = seen
        found = finding.binarise(heat, config.mask)
        recognised = recognition(shown, found)
        if not is_seen(model, shown, found):
            raise DiffeditError(
                f"The model does not see {config.ref} in {picture.name}, so nothing was removed.",
                "Use another word or a larger model (--model), or give a --mask with the object in white on "
                "black.",
            )
        areas = replace(areas, mask=finding.widen(with_limbs(found, heat, config.mask), config.room))
    assert areas.mask is not None
    assert config.seed is not None
    where = masks.mend(masks.use or found_mask(areas.mask, config.mask, fit, model.factor))
    hole = canvas.mask_to_cells(where, fit, 1).to(model.device)
    require_rest(hole)
    source, seeds = DiffEdit(model, bridge(canvas.to_pixels(picture, fit).to(hole), hole)), [config.seed]
    if not config.place:
        rest = finding.combine(areas.mask, areas.add, areas.subtract) == 0
        config = replace(config, place=likely_place(model, source.x0, rest, seeds, report))
    edited = source.edit(config.as_edit(), seeds, areas, report)
    drawn = seamless(edited.pixels, source.pixels, hole)
    edited = replace(edited, pixels=drawn, plan=replace(edited.plan, heat=heat, recognised=recognised))
    result = put_back(model, picture, fit, edited, 0, masks)
    parts: dict[str, Any] = {item.name: getattr(result, item.name) for item in fields(RemoveResult)}
    parts |= {"config": replace(config, zoom=fit.is_part), "given": masks.hashes()}
    return RemoveResult(**parts)


def with_limbs(found: Heat, heat: Heat, config: MaskConfig) -> Heat:
    """A found mask with adjoining places that are nearly as hot: legs and tails are cooler than a body.

    Two thresholds, as for edges (Canny 1986, "A computational approach to edge detection").
    """
    warm = finding.binarise(heat, replace(config, threshold=WARM * config.threshold))
    return finding.flood(found, torch.maximum(found, warm))


def likely_place(
    model: DiffusersDenoiser, x0: Latents, rest: Tensor, seeds: list[int], report: Report
) -> str:
    """Of the places that the model lists, if it lists any, the one that best fits the rest of the picture."""
    places = places_of(model.words)
    if not places:
        return ""
    return places[likeliest(model, x0, model.embed(places), rest.to(x0), seeds, report)]


def places_of(words: Mapping[str, Sequence[str]] | None) -> Sequence[str]:
    return (words or {}).get("places", [])


def forwards(
    config: RemoveConfig,
    words: Mapping[str, Sequence[str]] | None,
    own: Mapping[str, float],
    *,
    has_mask: bool,
) -> dict[str, int]:
    """The forward passes of each stage. words, own: vocabulary and defaults that a model declares."""
    search = filled_in(config.as_search(sibling_of(words or {}, config.ref)), own)
    counts = edit_forwards(search, search=not has_mask)
    places = 0 if config.place else len(LEVELS) * len(places_of(words))
    return {"mask": counts["mask"], "place": places, "decode": counts["decode"]}


def is_seen(model: DiffusersDenoiser, shown: Float[Tensor, "1 3 h w"], found: Heat) -> bool:
    """Whether the object that was searched for is in the mask that was found.

    Its recognition distinguishes it from other objects. The heat before scaling, in deviations of the noise,
    distinguishes it from an empty place. How hot an object is depends on the network: FAINT applies to the
    embedded one and others that list their words.
    """
    if float(recognition(shown, found)) < MISSING:
        return False
    heat = finding.weigh(*shown.split(1, dim=1))
    return model.words is None or float((heat * found).sum() / found.sum()) >= FAINT


def require_rest(hole: Hole) -> None:
    """DiffeditError if a hole leaves nothing to fill it from."""
    if bool((hole > 0).all()):
        raise DiffeditError(
            "The mask covers the whole picture, so there is nothing left to fill it from.",
            "Give a smaller --mask, or a higher --mask-threshold.",
        )
