"""Edits of pictures: each goes into the working canvas, is edited there, and comes back at its own size.

A `Session` computes once what several runs share; api.py has its methods as functions for one run.
"""

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageChops
from torch import Tensor

from . import removal
from .core import costs, diffedit
from .core import mask as finding
from .core.diffedit import DiffEdit
from .core.film import MorphFrame, in_order, morph
from .core.schedules import make_steps
from .core.types import Heat, Report, silent
from .errors import MemoryShort, SettingError
from .images import canvas, paste, sheets, zoom
from .images.canvas import Fit
from .images.masks import Given, Masks, noted
from .images.pieces import pieces
from .images.read import Picture
from .models import DiffusersDenoiser, Foreseen, sibling_of
from .notices import mask_notices, object_notices, recognition_notices, word_notices, zoom_notices
from .results import EditResult, MaskResult, Meter, RemoveResult, covered, found_mask, pasted, put_back
from .settings import (
    MAX_SEED,
    EditConfig,
    RemoveConfig,
    filled_in,
    idle_settings,
    queries_of,
    require_object,
    require_query,
    require_way_back,
    without_idle,
)

ZOOM_FROM = 2.0  # an edit zooms in by itself where that shows the object this many times larger
LOOK_SAMPLES = 4  # noise maps of a look, at most

Mask = Given  # a mask alone stands for Masks(use=mask)


class Session:
    """Pictures of one shape, edited with any number of settings; what several runs share is computed once."""

    def __init__(self, model: DiffusersDenoiser, *pictures: Picture) -> None:
        self.model = model
        self.pictures = pictures
        self.sources: dict[tuple[tuple[int, Fit], ...], DiffEdit] = {}

    def edit(self, config: EditConfig, mask: Mask = None, report: Report = silent) -> list[EditResult]:
        """Change `config.ref` into `config.query`: one result per picture. See `edit_image`."""
        if config.per_object:
            return [Session(self.model, one).edit_objects(config, mask, report) for one in self.pictures]
        meter, config, masks, given = Meter(self.model), *self._settled(config, mask)
        fits, results = self._fits(config, masks, report), dict[int, EditResult]()
        for rows in rows_of_one_canvas(fits):
            source = self._source({row: fits[row] for row in rows})
            areas = masks.cells(fits[rows[0]], self.model.factor, self.model.device)
            edited = source.edit(config, [seed_of(config)] * len(rows), areas, report)
            for i, row in enumerate(rows):
                results[row] = put_back(self.model, self.pictures[row], fits[row], edited, i, masks)
        run = meter.stop(len(results))
        return [replace(result, run=run, given=given) for _, result in sorted(results.items())]

    def edit_objects(self, config: EditConfig, mask: Mask = None, report: Report = silent) -> EditResult:
        """Change each piece of the mask of one picture on its own (see EditConfig.per_object).

        The largest comes first, and each edit starts from the result of the one before.
        """
        meter, config, masks, given = Meter(self.model), *self._settled(config, mask)
        (picture,), found, whole = self.pictures, None, replace(config, zoom=False)
        if masks.use is None:
            found = self.mask(whole, masks, report)
            parts = pieces(found.mask, self.mask(whole, masks, report, room=True).mask)
        else:
            parts = pieces(masks.mend(masks.use))
        queries, notices = queries_of(config, len(parts)), [*(found.notices if found else ())]
        image, where, objects = picture.rgb, Image.new("L", picture.rgb.size), list[dict[str, Any]]()
        for number, (part, query) in enumerate(zip(parts, queries, strict=True)):
            so_far, own = Session(self.model, replace(picture, rgb=image)), noted(part, masks.is_grey)
            one = replace(config, query=query, per_object=False, next_queries=())
            one = replace(one, zoom=config.zoom is not False)  # wherever it shows more
            one = replace(one, zoom=so_far._fits(one, Masks(own), silent)[0].is_part)
            (result,) = so_far.edit(one, own, in_turn(report, number, len(parts)))
            image, where = result.image, ImageChops.lighter(where, part)
            objects.append({"query": query, "coverage": result.coverage, "box": part.getbbox()})
            notices += result.notices
        return EditResult(
            picture=picture,
            image=image,
            mask=where,
            heat=found and found.heat,
            coverage=covered(where),
            changed_outside=paste.changed_outside(picture.rgb, image, where),
            config=config,
            origin=self.model.origin,
            given=given,
            run=meter.stop(),
            notices=tuple(dict.fromkeys([*notices, *object_notices(config, len(parts))])),
            recognised=found and found.recognised,
            objects=tuple(objects),
        )

    def mask(
        self, config: EditConfig, mask: Mask = None, report: Report = silent, *, room: bool = False
    ) -> MaskResult:
        """Find where `config.ref` is, in one picture. See `make_mask`.

        room: with the room around it that an edit redraws too; then it is the mask of `edit`, byte for byte.
        """
        (picture,), model, masks = self.pictures, self.model, Masks.of(mask, self.pictures[0])
        if masks.use is not None:
            raise SettingError("A search for the mask takes no mask.", "Give areas to add or to subtract.")
        config, meter = prepare(model, config), Meter(model)
        (fit,) = self._fits(config, masks, report)
        shown, heat = self._look({0: fit}, config, report)
        found = finding.binarise(heat, config.mask)
        recognised = float(diffedit.recognition(shown, found)) if config.ref else None
        area = diffedit.with_room(found, config) if room else found
        where = masks.mend(found_mask(area, config.mask, fit, model.factor))
        coverage = covered(where)
        notices = (
            *word_notices(model, config.ref, config.query),
            *zoom_notices(config, fit),
            *mask_notices(coverage, fit, config.mask),
            *recognition_notices(recognised, config),
        )
        return MaskResult(
            picture=picture,
            mask=where,
            heat=paste.full_heat(heat, fit, model.factor),
            coverage=coverage,
            config=replace(config, zoom=fit.is_part),
            origin=model.origin,
            given=masks.hashes(),
            run=meter.stop(),
            notices=(*picture.notices, *masks.notices, *notices),
            recognised=recognised,
        )

    def remove(self, config: RemoveConfig, mask: Mask = None, report: Report = silent) -> RemoveResult:
        """Take `config.ref` out of one picture. See `remove_object`."""
        (picture,), model, masks = self.pictures, self.model, Masks.of(mask, self.pictures[0])
        require_object(config, has_mask=masks.use is not None)
        meter, run = Meter(model), prepare(model, config.as_edit())
        config = removal.settled(config, run, masks)
        search = config.as_search(sibling_of(model.words or {}, config.ref))
        (fit,) = self._fits(search, masks, report)
        seen = None if masks.use is not None else self._look({0: fit}, search, report)
        result = removal.remove(model, picture, config, fit, seen, masks, report)
        return replace(result, run=meter.stop())

    def compare(
        self, configs: Sequence[EditConfig], mask: Mask = None, report: Report = silent
    ) -> Iterator[EditResult]:
        """One picture under each of several settings. See `compare_edits`."""
        seed = random_seed()
        seeded = (replace(one, seed=seed if one.seed is None else one.seed) for one in configs)
        configs = [prepare(self.model, one) for one in seeded]
        expected = costs.shared_forwards(configs, search=Masks.of(mask).use is None)
        count = counting(self.model, expected, report)
        for config in configs:
            yield self.edit(config, mask, count)[0]

    def film(
        self, config: EditConfig, frames: int, mask: Mask = None, report: Report = silent
    ) -> tuple[EditResult, Iterator[Image.Image]]:
        """The edit of one picture, and the film from the picture to it. See `animate_edit`."""
        meter, config, masks, given = Meter(self.model), *self._settled(config, mask)
        require_way_back(config)
        require_mixing(self.model)
        ((picture,), (fit,)) = self.pictures, self._fits(config, masks, report)
        source, areas = self._source({0: fit}), masks.cells(fit, self.model.factor, self.model.device)
        edited = source.edit(config, [seed_of(config)], areas, report)
        result = put_back(self.model, picture, fit, edited, 0, masks)
        result = replace(result, run=meter.stop(), given=given)
        _, weights = pasted(edited.plan, 0, masks, fit, self.model.factor)
        softened = paste.paste(picture, source.pixels.cpu(), weights, fit)
        shown = in_order(morph(self.model, source.pixels, edited, frames, report))
        return result, (film_frame(result, weights, fit, softened, *frame) for frame in shown)

    def _settled(self, config: EditConfig, mask: Mask) -> tuple[EditConfig, Masks, dict[str, str]]:
        """The settings as they will be used, with idle ones at their defaults; the masks, inverted if
        requested; and the hashes of the masks as given."""
        masks = Masks.of(mask, self.pictures[0])
        if masks.use is None:
            require_query(config)
        config = prepare(self.model, config)
        given = {"has_mask": masks.use is not None, "has_areas": not masks.is_empty}
        config = without_idle(config, idle_settings(config, **given))
        return config, masks.inverted() if config.mask.invert else masks, masks.hashes()

    def _source(self, fits: Mapping[int, Fit]) -> DiffEdit:
        """Some of the pictures, by their numbers, in one canvas, encoded."""
        key = tuple(fits.items())
        if key not in self.sources:
            pixels = [canvas.to_pixels(self.pictures[row], fit) for row, fit in key]
            self.sources[key] = DiffEdit(self.model, torch.cat(pixels).to(self.model.device))
        return self.sources[key]

    def _look(
        self, fits: Mapping[int, Fit], config: EditConfig, report: Report
    ) -> tuple[Float[Tensor, "b 3 h w"], Heat]:
        """What a search finds in some of the pictures, and its heat (see DiffEdit.look)."""
        texts = diffedit.Texts.embed(self.model, config)
        return self._source(fits).look(config, texts, [seed_of(config)] * len(fits), report)

    def _fits(self, config: EditConfig, masks: Masks, report: Report) -> list[Fit]:
        """Where each picture is worked on: all of it, or the part around the mask (see EditConfig.zoom)."""
        shape = config.size or self.model.size, self.model.multiple
        fits = [canvas.fit(picture.rgb.size, *shape) for picture in self.pictures]
        gain = 1.0 if config.zoom else ZOOM_FROM
        is_rest = config.mask.invert and masks.use is None  # everything but an object is worked on
        if config.zoom is False or is_rest or all(fit.scale * gain >= 1 for fit in fits):
            return fits
        if masks.use is not None:
            part = zoom.part_round(masks.mend(masks.use), *shape)
            return [part if part.is_part and part.scale >= gain * fit.scale else fit for fit in fits]
        is_small = [True] * len(fits)
        if config.zoom is None:
            heats = self._look(dict(enumerate(fits)), config, report)[1].split(1)
            for row, (heat, fit) in enumerate(zip(heats, fits, strict=True)):
                hot = masks.mend(self._shown(finding.hottest(heat), config, fit))
                is_small[row] = zoom.part_round(hot, *shape).scale >= gain * fit.scale
        for row, whole in enumerate(fits):
            if is_small[row]:
                part = self._close_in(row, whole, config, masks, report)
                fits[row] = part if part.scale >= gain * whole.scale else whole
        return fits

    def _close_in(self, row: int, whole: Fit, config: EditConfig, masks: Masks, report: Report) -> Fit:
        """The part of a picture that `zoom.close_in` finds by searches of few maps.

        If memory is too short for the first search, which is large: the whole picture, unless a zoom was
        requested.
        """
        quick = replace(config, mask=replace(config.mask, samples=min(LOOK_SAMPLES, config.mask.samples)))

        def look(find: Callable[[Heat], Heat], fit: Fit) -> Image.Image:
            found = find(self._look({row: fit}, quick, report)[1])
            return masks.mend(self._shown(found, config, fit))

        usual = functools.partial(finding.binarise, config=config.mask)
        shape = config.size or self.model.size, self.model.multiple
        looks = functools.partial(look, finding.hottest), functools.partial(look, usual)
        try:
            return zoom.close_in(whole, *shape, *looks)
        except MemoryShort:
            if config.zoom:
                raise
            return whole

    def _shown(self, found: Heat, config: EditConfig, fit: Fit) -> Image.Image:
        return paste.full_mask(found, config.mask.feather, fit, self.model.factor)


def rows_of_one_canvas(fits: Sequence[Fit]) -> list[list[int]]:
    """The numbers of the fits, grouped by canvas."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, fit in enumerate(fits):
        groups.setdefault(fit.canvas, []).append(row)
    return [*groups.values()]


def film_frame(
    result: EditResult, mask: Image.Image, fit: Fit, softened: Image.Image, weight: float, frame: MorphFrame
) -> Image.Image:
    """A frame pasted into the picture, as a film shows it: in sRGB, and over grey where it is transparent.

    mask: how much of the frame is pasted at each pixel.
    softened: the picture with what is inside the mask scaled to the working size and back.
    """
    picture, image = result.picture, result.image
    if weight < 1:  # the last frame is the edit itself
        image = paste.paste(picture, frame.pixels.cpu(), mask, fit)
        keep = canvas.mask_to_full(frame.keep.cpu(), fit)
        image = paste.add_difference(image, picture.rgb, softened, keep)
    return sheets.shown(picture, image)


def check_edit(model: Foreseen, config: EditConfig, size: tuple[int, int], *, has_mask: bool) -> None:
    """Refuse, without the network, what an edit under filled-in settings would refuse for a picture of this
    size.

    has_mask: the user gave a mask; then perhaps only a part of the picture is edited.
    """
    fit = canvas.fit(size, config.size or model.size, model.multiple)
    columns, rows = (side // model.factor for side in fit.canvas)
    how = config.step_solver, config.step_spacing, (rows, columns)
    make_steps(model.schedule, config.step_count, config.ratio, *how)
    if not has_mask or config.zoom is False:
        model.check_size(max(rows, columns))


def require_mixing(model: DiffusersDenoiser | Foreseen) -> None:
    """SettingError for a model that cannot interpolate between two texts."""
    if not model.can_mix_texts:
        raise SettingError(
            f"{model.name} cannot interpolate between two texts, so no film can be made.",
            "Use a model whose texts all have the same length, such as Stable Diffusion or FLUX.1.",
        )


def random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def seed_of(config: EditConfig) -> int:
    if config.seed is None:
        raise ValueError("a seed is chosen before a run")
    return config.seed


def prepare(model: DiffusersDenoiser, config: EditConfig) -> EditConfig:
    """The settings as they will be used: seed, size and the model's own defaults filled in."""
    seed = random_seed() if config.seed is None else config.seed
    return filled_in(replace(config, seed=seed, size=config.size or model.size), model.own_defaults)


def in_turn(report: Report, number: int, count: int) -> Report:
    """Reports the stages of one of `count` edits as parts of the same stages of all edits."""
    return lambda stage, done, total: report(stage, number * total + done, count * total)


def counting(model: DiffusersDenoiser, expected: int, report: Report) -> Report:
    """Reports any stage as ("compare", forward passes done from now on, `expected`)."""
    before = model.forwards
    return lambda *_: report("compare", min(model.forwards - before, expected), expected)
