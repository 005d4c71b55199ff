"""Edits of pictures: each goes into the working canvas, is edited there, and comes back at its own size.

The Python API is here: a `Session` computes once what several runs share; `edit_image`, `make_mask` and the
others are a session's methods for one run.
"""

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from PIL import Image

from .core import costs, diffedit
from .core import mask as finding
from .core.diffedit import DiffEdit, Edited
from .core.film import MorphFrame, morph
from .core.types import Heat, Report, silent
from .errors import DiffeditError, MemoryShort, SettingError
from .images import canvas, colour, paste, sheets, zoom
from .images.canvas import Fit
from .images.masks import Masks
from .images.read import Picture
from .models import DiffusersDenoiser
from .results import (
    EditResult,
    MaskResult,
    Meter,
    Run,
    covered,
    guidance_notices,
    mask_notices,
    word_notices,
    zoom_notices,
)
from .settings import MAX_SEED, EditConfig, filled_in, require_query, require_way_back

ZOOM_FROM = 2.0  # an edit zooms in by itself where that shows the object so many times larger
LOOK_SAMPLES = 4  # noise maps of a look, at most

Mask = Masks | Image.Image | None  # a mask alone stands for Masks(use=mask)


@dataclass(frozen=True)
class Drawn:
    """One edited picture: its result, and what a film of the edit starts from."""

    result: EditResult
    source: DiffEdit
    edited: Edited
    fit: Fit


class Session:
    """Pictures of one shape, edited under any number of settings; what two runs share is computed once."""

    def __init__(self, model: DiffusersDenoiser, *pictures: Picture) -> None:
        self.model = model
        self.pictures = pictures
        self.sources: dict[tuple[tuple[int, Fit], ...], DiffEdit] = {}

    def edit(self, config: EditConfig, mask: Mask = None, report: Report = silent) -> list[EditResult]:
        """Change `config.ref` into `config.query`: one result per picture. See `edit_image`."""
        return [drawn.result for drawn in self._draw(config, Masks.of(mask), report)]

    def mask(
        self, config: EditConfig, mask: Mask = None, report: Report = silent, *, room: bool = False
    ) -> MaskResult:
        """Find where `config.ref` is, in one picture. See `make_mask`.

        room: with the room around it that an edit redraws too; then it is the mask of `edit`, byte for byte.
        """
        (picture,), model, masks = self.pictures, self.model, Masks.of(mask)
        config, meter = prepare(model, config), Meter(model)
        (fit,) = self._fits(config, masks, report)
        heat = self._heat({0: fit}, config, report)
        found = finding.binarise(heat, config.mask)
        area = diffedit.with_room(found, config) if room else found
        where = masks.mend(paste.full_mask(area, config.mask.feather, fit, model.factor))
        coverage = covered(where)
        notices = *word_notices(model, config.ref, config.query), *zoom_notices(config, fit)
        return MaskResult(
            picture=picture,
            mask=where,
            heat=paste.full_heat(heat, fit, model.factor),
            coverage=coverage,
            config=replace(config, zoom=fit.is_part),
            origin=model.origin,
            given=masks.hashes(),
            run=meter.stop(),
            notices=(*picture.notices, *notices, *mask_notices(coverage, fit)),
        )

    def compare(
        self, configs: Sequence[EditConfig], mask: Mask = None, report: Report = silent
    ) -> Iterator[EditResult]:
        """One picture under each of several settings. See `compare_edits`."""
        configs = prepare_all(self.model, configs)
        expected = costs.shared_forwards(configs, search=Masks.of(mask).use is None)
        count = counting(self.model, expected, report)
        for config in configs:
            yield self.edit(config, mask, count)[0]

    def film(
        self, config: EditConfig, frames: int, mask: Mask = None, report: Report = silent
    ) -> tuple[EditResult, Iterator[Image.Image]]:
        """The edit of one picture, and the film from the picture to it. See `animate_edit`."""
        require_way_back(config)
        (drawn,) = self._draw(config, Masks.of(mask), report)
        pixels, result, fit = drawn.source.pixels, drawn.result, drawn.fit
        softened = paste.paste(result.picture, pixels.cpu(), result.mask, fit)
        shown = in_order(morph(self.model, pixels, drawn.edited, frames, report))
        return result, (film_frame(result, fit, softened, frame) for frame in shown)

    def _draw(self, config: EditConfig, masks: Masks, report: Report) -> list[Drawn]:
        """The edit of every picture; stages that an earlier call has done cost nothing."""
        if masks.use is None:
            require_query(config)
        config, meter, given = prepare(self.model, config), Meter(self.model), masks.hashes()
        if config.mask.invert:
            masks = masks.inverted()
        fits, drawn = self._fits(config, masks, report), dict[int, Drawn]()
        for rows in rows_of_one_canvas(fits):
            source = self._source({row: fits[row] for row in rows})
            areas = masks.cells(fits[rows[0]], self.model.factor, self.model.device)
            edited = source.edit(config, [seed_of(config)] * len(rows), areas, report)
            for i, row in enumerate(rows):
                result = put_back(self.model, self.pictures[row], fits[row], edited, i, masks)
                drawn[row] = Drawn(result, source, edited, fits[row])
        run = meter.stop(len(drawn))
        return [
            replace(one, result=replace(one.result, run=run, given=given)) for _, one in sorted(drawn.items())
        ]

    def _source(self, fits: Mapping[int, Fit]) -> DiffEdit:
        """Some of the pictures, by their numbers, in one canvas, encoded."""
        key = tuple(fits.items())
        if key not in self.sources:
            pixels = [canvas.to_pixels(self.pictures[row], fit) for row, fit in key]
            self.sources[key] = DiffEdit(self.model, torch.cat(pixels).to(self.model.device))
        return self.sources[key]

    def _heat(self, fits: Mapping[int, Fit], config: EditConfig, report: Report) -> Heat:
        """Step 1 in some of the pictures (see DiffEdit.find)."""
        texts = diffedit.Texts.embed(self.model, config)
        return self._source(fits).find(config, texts, [seed_of(config)] * len(fits), report)

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
            heats = self._heat(dict(enumerate(fits)), config, report).split(1)
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

        Where memory is too short for the first look, a large one: the whole, unless a zoom was asked for.
        """
        quick = replace(config, mask=replace(config.mask, samples=min(LOOK_SAMPLES, config.mask.samples)))

        def look(find: Callable[[Heat], Heat], fit: Fit) -> Image.Image:
            found = find(self._heat({row: fit}, quick, report))
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


def edit_image(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> EditResult:
    """Change `config.ref` into `config.query` and leave every other pixel as it was.

    mask: where to edit, instead of a search (mode L at the picture's size, white is edited); or `Masks`,
    which can also add areas to a found mask and keep areas out of it. report: called after each step.
    Raises DiffeditError: texts that do not differ, numbers that are not finite.
    """
    return Session(model, picture).edit(config, mask, report)[0]


def make_mask(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> MaskResult:
    """Find where `config.ref` is, against `config.query`: step 1 of `edit_image` alone.

    mask: `Masks` with areas to add and to take away. Raises DiffeditError where the texts are the same or the
    model sees no difference.
    """
    return Session(model, picture).mask(config, mask, report)


def animate_edit(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    frames: int,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> tuple[EditResult, Iterator[Image.Image]]:
    """An edit as `edit_image` makes it, and its film: `frames` RGB pictures, 2 or more.

    The first frame is the picture and the last the edit; neighbours look about equally different, and outside
    the mask every frame is the picture, bit for bit. All are drawn when the first is asked for (stage "frame"
    of `report`). After Ctrl-C the frames that are finished come, in order, and then KeyboardInterrupt.
    """
    return Session(model, picture).film(config, frames, mask, report)


def compare_edits(
    model: DiffusersDenoiser,
    picture: Picture,
    configs: Sequence[EditConfig],
    *,
    mask: Mask = None,
    report: Report = silent,
) -> Iterator[EditResult]:
    """`edit_image` under each of several settings, in order; what they share is computed once.

    Configs without a seed get one seed in common. report: called as ("compare", forwards done, in all).
    """
    return Session(model, picture).compare(configs, mask, report)


def edit_images(
    model: DiffusersDenoiser,
    pictures: Sequence[Picture],
    config: EditConfig,
    queries: Sequence[str] = (),
    *,
    mask: Mask = None,
    report: Report = silent,
) -> Iterator[EditResult | DiffeditError]:
    """Change `config.ref` into each of `queries` (or `config.query`) in several pictures.

    Yields, picture by picture and query by query, a result or the error that stopped it; one error does not
    stop the rest. All have one seed. Pictures of one shape are worked on together, and the queries of a
    picture share its inversion; up to the rounding of float32 a result is that of `edit_image`. mask: for a
    single picture. report: starts anew with each group and query.
    """
    if len(pictures) > 1 and Masks.of(mask) != Masks():
        raise SettingError("A mask belongs to one picture.", "Edit the pictures one by one.")
    config = replace(config, seed=random_seed() if config.seed is None else config.seed)
    for group in groups_of_one_shape(model, pictures, config):
        session = Session(model, *group)
        columns = [
            edit_or_fail(session, replace(config, query=query), mask, report)
            for query in queries or [config.query]
        ]
        for row in zip(*columns, strict=True):
            yield from row


def groups_of_one_shape(
    model: DiffusersDenoiser, pictures: Sequence[Picture], config: EditConfig
) -> Iterator[list[Picture]]:
    """Neighbouring pictures of one canvas, as many as are worked on together."""
    shape = config.size or model.size, model.multiple
    for (width, height), group in groupby(pictures, lambda one: canvas.fit(one.rgb.size, *shape).canvas):
        members = list(group)
        count = diffedit.pictures_together(height // model.factor, width // model.factor)
        for start in range(0, len(members), count):
            yield members[start : start + count]


def edit_or_fail(
    session: Session, config: EditConfig, mask: Mask, report: Report
) -> list[EditResult | DiffeditError]:
    """One outcome per picture: where they fail together, each is tried alone."""
    try:
        return [*session.edit(config, mask, report)]
    except DiffeditError as error:
        if len(session.pictures) == 1:
            return [error]
    alone = (Session(session.model, picture) for picture in session.pictures)
    return [edit_or_fail(one, config, mask, report)[0] for one in alone]


def rows_of_one_canvas(fits: Sequence[Fit]) -> list[list[int]]:
    """The numbers of the fits, those of one canvas together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, fit in enumerate(fits):
        groups.setdefault(fit.canvas, []).append(row)
    return [*groups.values()]


def put_back(
    model: DiffusersDenoiser, picture: Picture, fit: Fit, edited: Edited, row: int, masks: Masks
) -> EditResult:
    """One row of an edit pasted into its picture, at the picture's size; `run` and `given` still empty."""
    plan, one = edited.plan, slice(row, row + 1)
    config = plan.config
    where = masks.use or paste.full_mask(plan.area[one], config.mask.feather, fit, model.factor)
    where = masks.mend(where)
    image = paste.paste(picture, edited.pixels[one].cpu(), where, fit)
    coverage = covered(where)
    notices = *word_notices(model, config.ref, config.query), *guidance_notices(config.guidance, config.steps)
    return EditResult(
        picture=picture,
        image=image,
        mask=where,
        heat=None if plan.heat is None else paste.full_heat(plan.heat[one], fit, model.factor),
        coverage=coverage,
        changed_outside=paste.changed_outside(picture.rgb, image, where),
        config=replace(config, zoom=fit.is_part),
        origin=model.origin,
        given={},
        run=Run(0, 0, 0),
        notices=(*picture.notices, *notices, *zoom_notices(config, fit), *mask_notices(coverage, fit)),
    )


def film_frame(result: EditResult, fit: Fit, softened: Image.Image, frame: MorphFrame) -> Image.Image:
    """A frame in the picture, as a film shows it: in sRGB, and over grey where it is see-through.

    softened: the picture with what is inside the mask scaled to the working size and back.
    """
    picture = result.picture
    image = paste.paste(picture, frame.pixels.cpu(), result.mask, fit)
    keep = canvas.mask_to_full(frame.keep.cpu(), fit)
    image = paste.add_difference(image, picture.rgb, softened, keep)
    return sheets.flat(colour.to_srgb(image, picture.icc), picture.alpha)


def in_order(frames: Iterator[tuple[float, MorphFrame]]) -> Iterator[MorphFrame]:
    """Frames that are drawn in no order, by weight; after Ctrl-C those that are finished, and then Ctrl-C."""
    found: list[tuple[float, MorphFrame]] = []
    is_interrupted = False
    try:
        for frame in frames:
            found.append(frame)
    except KeyboardInterrupt:
        is_interrupted = True
    yield from (drawn for _, drawn in sorted(found, key=lambda frame: frame[0]))
    if is_interrupted:
        raise KeyboardInterrupt


def random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def seed_of(config: EditConfig) -> int:
    if config.seed is None:
        raise ValueError("a seed is chosen before a run")
    return config.seed


def prepare(model: DiffusersDenoiser, config: EditConfig) -> EditConfig:
    """The settings as they will be run: seed, size and the model's own defaults filled in."""
    seed = random_seed() if config.seed is None else config.seed
    return filled_in(replace(config, seed=seed, size=config.size or model.size), model.own_defaults)


def prepare_all(model: DiffusersDenoiser, configs: Sequence[EditConfig]) -> list[EditConfig]:
    """The settings as they will be run, with one random seed wherever none is given."""
    seed = random_seed()
    return [
        prepare(model, replace(config, seed=seed if config.seed is None else config.seed))
        for config in configs
    ]


def counting(model: DiffusersDenoiser, expected: int, report: Report) -> Report:
    """Reports any stage as ("compare", forwards done from now on, `expected`)."""
    before = model.forwards
    return lambda *_: report("compare", min(model.forwards - before, expected), expected)
