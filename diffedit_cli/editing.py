"""Edits of pictures: each goes into the working canvas, is edited there, and comes back at its own size."""

import functools
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageChops
from torch.nn import functional

from . import edit, mask
from .edit import Editor
from .errors import MemoryShort
from .images import canvas, zoom
from .images.canvas import Fit
from .images.files import Picture
from .models import DiffusersDenoiser
from .results import (
    EditResult,
    MaskResult,
    Meter,
    Run,
    covered,
    guidance_notices,
    hashes,
    mask_notices,
    word_notices,
    zoom_notices,
)
from .settings import MAX_SEED, EditConfig, GenerateConfig, filled_in, require_query
from .types import Heat, Report, silent

ZOOM_FROM = 2.0  # an edit zooms in by itself where that shows things so many times larger
LOOK_SAMPLES = 4  # maps of a look at most


@dataclass(frozen=True)
class Given:
    """What a user says of the mask, mode L at the picture's size: one to use in place of a search, and areas
    to add to it and to keep out of it."""

    mask: Image.Image | None = None
    add: Image.Image | None = None
    subtract: Image.Image | None = None

    def mend(self, where: Image.Image) -> Image.Image:
        """A mask with the areas added, then taken away (`mask.combine` at the picture's size)."""
        if self.add is not None:
            where = ImageChops.lighter(where, self.add)
        if self.subtract is not None:
            where = ImageChops.multiply(where, ImageChops.invert(self.subtract))
        return where

    def cells(self, fit: Fit, model: DiffusersDenoiser) -> edit.Areas:
        """The same in the working canvas."""
        areas = self.mask, self.add, self.subtract
        return edit.Areas(
            *(area and canvas.mask_to_cells(area, fit, model.factor).to(model.device) for area in areas)
        )

    def hashes(self) -> dict[str, str]:
        return hashes(mask=self.mask, mask_add=self.add, mask_subtract=self.subtract)


class Editing:
    """Pictures of one shape, edited under any number of settings: what two of them share is computed once.

    latest: the editor of the latest edit, and where its first picture was worked on.
    """

    latest: tuple[Editor, Fit]

    def __init__(self, model: DiffusersDenoiser, *pictures: Picture) -> None:
        self.model = model
        self.pictures = pictures
        self.editors: dict[tuple[tuple[int, Fit], ...], Editor] = {}

    def edit(self, config: EditConfig, given: Given, report: Report = silent) -> list[EditResult]:
        """As `edit_image`, one result a picture; stages that an earlier call has done cost nothing."""
        if given.mask is None:
            require_query(config)
        config, meter, told = prepare(self.model, config), Meter(self.model), given.hashes()
        if given.mask is not None and config.mask.invert:
            given = replace(given, mask=ImageChops.invert(given.mask))
        fits = self.fits(config, given, report)
        results: dict[int, EditResult] = {}
        for rows in rows_of_one_canvas(fits):
            editor = self.editor({row: fits[row] for row in rows})
            self.latest = editor, fits[rows[0]]
            areas = given.cells(fits[rows[0]], self.model)
            edited = editor.edit(config, [seed_of(config)] * len(rows), areas, report)
            for i, row in enumerate(rows):
                one, fit = edited.row(i), fits[row]
                where = given.mask or paste_mask(one.area, config, fit, self.model.factor)
                results[row] = put_back(self.model, self.pictures[row], fit, config, one, given.mend(where))
        run = meter.stop(len(results))
        return [replace(results[row], run=run, given=told) for row in sorted(results)]

    def find(self, config: EditConfig, given: Given, report: Report = silent) -> MaskResult:
        """As `make_mask`, for one picture."""
        model, (picture,), config = self.model, self.pictures, prepare(self.model, config)
        meter = Meter(model)
        (fit,) = self.fits(config, given, report)
        heat = self.heat({0: fit}, config, report)
        where = given.mend(paste_mask(mask.binarise(heat, config.mask), config, fit, model.factor))
        coverage = covered(where)
        notices = *word_notices(model, config.ref, config.query), *zoom_notices(config, fit)
        return MaskResult(
            picture=picture,
            mask=where,
            heat=full_heat(heat, fit, model.factor),
            coverage=coverage,
            config=as_run(config, fit),
            origin=model.origin,
            given=given.hashes(),
            run=meter.stop(),
            notices=(*picture.notices, *notices, *mask_notices(coverage, fit)),
        )

    def editor(self, fits: Mapping[int, Fit]) -> Editor:
        """The editor of some of the pictures, by their numbers, in one canvas."""
        key = tuple(fits.items())
        if key not in self.editors:
            pixels = [canvas.to_pixels(self.pictures[row], fit) for row, fit in key]
            self.editors[key] = Editor(self.model, torch.cat(pixels).to(self.model.device))
        return self.editors[key]

    def heat(self, fits: Mapping[int, Fit], config: EditConfig, report: Report) -> Heat:
        """Step 1 in some of the pictures (see Editor.find)."""
        texts = edit.Texts.embed(self.model, config)
        return self.editor(fits).find(config, texts, [seed_of(config)] * len(fits), report)

    def fits(self, config: EditConfig, given: Given, report: Report) -> list[Fit]:
        """Where each picture is worked on: all of it, or the part round the mask (see EditConfig.zoom)."""
        shape = config.size or self.model.size, self.model.multiple
        fits = [canvas.fit(picture.rgb.size, *shape) for picture in self.pictures]
        gain = 1.0 if config.zoom else ZOOM_FROM
        is_rest = config.mask.invert and given.mask is None  # all but a thing is worked on
        if config.zoom is False or is_rest or all(fit.scale * gain >= 1 for fit in fits):
            return fits
        if given.mask is not None:
            part = zoom.part_round(given.mend(given.mask), *shape)
            return [part if part.is_part and part.scale >= gain * fit.scale else fit for fit in fits]
        is_small = [True] * len(fits)
        if config.zoom is None:
            heats = self.heat(dict(enumerate(fits)), config, report).split(1)
            for row, (heat, fit) in enumerate(zip(heats, fits, strict=True)):
                hot = given.mend(paste_mask(mask.hottest(heat), config, fit, self.model.factor))
                is_small[row] = zoom.part_round(hot, *shape).scale >= gain * fit.scale
        for row, whole in enumerate(fits):
            if is_small[row]:
                part = self.close_in(row, whole, config, given, report)
                fits[row] = part if part.scale >= gain * whole.scale else whole
        return fits

    def close_in(self, row: int, whole: Fit, config: EditConfig, given: Given, report: Report) -> Fit:
        """The part of a picture that `zoom.close_in` finds by searches of few maps.

        Where memory is too short for the first look, a large one: the whole, unless a zoom was asked for.
        """
        quick = replace(config, mask=replace(config.mask, samples=min(LOOK_SAMPLES, config.mask.samples)))

        def look(find: Callable[[Heat], Heat], fit: Fit) -> Image.Image:
            found = find(self.heat({row: fit}, quick, report))
            return given.mend(paste_mask(found, config, fit, self.model.factor))

        usual = functools.partial(mask.binarise, config=config.mask)
        shape = config.size or self.model.size, self.model.multiple
        looks = functools.partial(look, mask.hottest), functools.partial(look, usual)
        try:
            return zoom.close_in(whole, *shape, *looks)
        except MemoryShort:
            if config.zoom:
                raise
            return whole


def rows_of_one_canvas(fits: Sequence[Fit]) -> list[list[int]]:
    """The numbers of the fits, those of one canvas together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, fit in enumerate(fits):
        groups.setdefault(fit.canvas, []).append(row)
    return [*groups.values()]


def put_back(
    model: DiffusersDenoiser,
    picture: Picture,
    fit: Fit,
    config: EditConfig,
    edited: edit.Edited,
    where: Image.Image,
) -> EditResult:
    """One edited row pasted into its picture, at the picture's size. `run` and `given` are still empty."""
    image = canvas.paste(picture, edited.pixels.cpu(), where, fit)
    coverage = covered(where)
    notices = *word_notices(model, config.ref, config.query), *guidance_notices(config.guidance, config.steps)
    return EditResult(
        picture=picture,
        image=image,
        mask=where,
        heat=None if edited.heat is None else full_heat(edited.heat, fit, model.factor),
        coverage=coverage,
        changed_outside=canvas.changed_outside(picture.rgb, image, where),
        config=as_run(config, fit),
        origin=model.origin,
        given={},
        run=Run(0, 0, 0),
        notices=(*picture.notices, *notices, *zoom_notices(config, fit), *mask_notices(coverage, fit)),
    )


def random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def seed_of(config: EditConfig | GenerateConfig) -> int:
    if config.seed is None:
        raise ValueError("a seed is chosen before a run")
    return config.seed


def prepare(model: DiffusersDenoiser, config: EditConfig) -> EditConfig:
    """The settings as they will be run: seed, size and what is the model's own filled in."""
    seed = random_seed() if config.seed is None else config.seed
    return filled_in(replace(config, seed=seed, size=config.size or model.size), model.own_defaults)


def as_run(config: EditConfig, fit: Fit) -> EditConfig:
    """The settings with what was chosen for this picture filled in."""
    return replace(config, zoom=fit.is_part)


def paste_mask(found: Heat, config: EditConfig, fit: Fit, factor: int) -> Image.Image:
    """A latent mask as the soft mask of the paste, mode L at the picture's own size."""
    soft = mask.enlarge(found, factor)
    if not fit.is_part:
        return canvas.mask_to_full(mask.feather(soft, config.mask.feather).cpu(), fit)
    (left, top, right, bottom), (width, height) = fit.region, fit.size
    reach = 2 * math.ceil(config.mask.feather)
    room = [reach * side for side in (left > 0, right < width, top > 0, bottom < height)]
    x, y, end, foot = fit.box
    # Where a part ends inside the picture, a mask that touches its border is softened there too.
    inside = functional.pad(soft[..., y:foot, x:end], room)
    softened = mask.feather(inside, config.mask.feather)
    soft[..., y:foot, x:end] = softened[..., room[2] : room[2] + foot - y, room[0] : room[0] + end - x]
    return canvas.mask_to_full(soft.cpu(), fit)


def full_heat(heat: Heat, fit: Fit, factor: int) -> Image.Image:
    return canvas.mask_to_full(mask.enlarge(heat, factor).cpu(), fit)
