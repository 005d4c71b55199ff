"""The Python API: pictures and settings in, results out. The command line is a thin layer over this."""

import functools
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike
from typing import Any, BinaryIO, TypeVar

import torch
from PIL import Image, ImageChops

from . import __version__, edit, generate, mask
from .edit import Editor
from .errors import DiffeditError, SettingError
from .images import canvas, colour, files, sheets, zoom
from .images.canvas import Fit
from .images.files import Picture
from .models import DiffusersDenoiser
from .morph import MorphFrame, morph
from .settings import (
    MAX_SEED,
    EditConfig,
    GenerateConfig,
    GuidanceConfig,
    InterpolateConfig,
    flatten,
    require_query,
    require_way_back,
)
from .types import Heat, Pixels, Report, silent

Area = Image.Image | None
Target = str | PathLike[str] | BinaryIO
Config = TypeVar("Config", EditConfig, GenerateConfig)
FEW_STEPS = 20  # below it cfg++ is weak: its scale falls with the number of steps
ZOOM_FROM = 2.0  # an edit zooms in by itself where that shows things so many times larger
LOOK_SAMPLES = 4  # maps of a look at most
LITTLE, MUCH = 0.005, 0.85  # shares of the picture below and above which a mask is suspicious


@dataclass(frozen=True)
class Run:
    """What a run cost: seconds in all and in the networks, and UNet sample-forwards.

    results: how many results were made together at this cost.
    """

    seconds: float
    network_seconds: float
    forwards: int
    results: int = 1


class Meter:
    """Measures a run of a model."""

    def __init__(self, model: DiffusersDenoiser) -> None:
        self.model = model
        self.start = time.perf_counter(), model.network_seconds, model.forwards

    def stop(self, results: int = 1) -> Run:
        now = time.perf_counter(), self.model.network_seconds, self.model.forwards
        seconds, network, forwards = (after - before for after, before in zip(now, self.start, strict=True))
        return Run(seconds, network, int(forwards), results)


@dataclass(frozen=True)
class MaskResult:
    """A found mask: `mask` and `heat` (mode L, 255 is hottest) at the picture's own size.

    coverage: share of the picture, 0 to 1, that the mask touches. config: the settings as run. origin: the
    model's (load.origin_of). given: hashes of the areas that were given.
    """

    picture: Picture
    mask: Image.Image
    heat: Image.Image
    coverage: float
    config: EditConfig
    origin: Mapping[str, Any]
    given: Mapping[str, str]
    run: Run
    notices: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        return provenance("mask", self.origin, self.config, self.picture, self.given)

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {"coverage": self.coverage, **costs(self.run, self.notices), "settings": self.settings()}

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        files.save_image(path, self.mask, settings=self.settings() if metadata else None, overwrite=overwrite)


@dataclass(frozen=True)
class EditResult:
    """An edited picture: `image` (RGB) and `mask` (mode L) at the picture's own size; heat, if searched for.

    changed_outside: pixels outside the mask that differ from the input, by comparison: 0.
    """

    picture: Picture
    image: Image.Image
    mask: Image.Image
    heat: Image.Image | None
    coverage: float
    changed_outside: int
    config: EditConfig
    origin: Mapping[str, Any]
    given: Mapping[str, str]
    run: Run
    notices: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Everything that is needed to make this picture again."""
        return provenance("edit", self.origin, self.config, self.picture, self.given)

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {
            "coverage": self.coverage,
            "changed_outside": self.changed_outside,
            **costs(self.run, self.notices),
            "settings": self.settings(),
        }

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        """Write the picture with the input's alpha, colour profile, EXIF, and its settings."""
        files.save_image(
            path,
            self.image,
            picture=self.picture,
            settings=self.settings() if metadata else None,
            parameters=parameters(self.config, self.config.query, self.image.size, self.origin["model"])
            if metadata
            else "",
            overwrite=overwrite,
        )


@dataclass(frozen=True)
class Generated:
    """A picture made from a text."""

    image: Image.Image
    config: GenerateConfig
    origin: Mapping[str, Any]
    run: Run
    notices: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        return provenance("generate", self.origin, self.config)

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {**costs(self.run, self.notices), "settings": self.settings()}

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        files.save_image(
            path,
            self.image,
            settings=self.settings() if metadata else None,
            parameters=parameters(self.config, self.config.prompt, self.image.size, self.origin["model"])
            if metadata
            else "",
            overwrite=overwrite,
        )


def random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def make_mask(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    *,
    add: Image.Image | None = None,
    subtract: Image.Image | None = None,
    report: Report = silent,
) -> MaskResult:
    """Find where `config.ref` is, against `config.query`: step 1 of `edit_image` alone.

    add, subtract: areas to add and to take away, mode L at the picture's size, white counts.
    Raises DiffeditError where the texts are the same or the model sees no difference.
    """
    return Editing(model, picture).find(config, add=add, subtract=subtract, report=report)


class Editing:
    """Pictures of one shape, edited under any number of settings: what two of them share is computed once.

    latest: the editor of the latest edit, and where its first picture was worked on.
    """

    latest: tuple[Editor, Fit]

    def __init__(self, model: DiffusersDenoiser, *pictures: Picture) -> None:
        self.model = model
        self.pictures = pictures
        self.editors: dict[tuple[tuple[int, Fit], ...], Editor] = {}

    def edit(
        self,
        config: EditConfig,
        *,
        mask: Image.Image | None = None,
        add: Image.Image | None = None,
        subtract: Image.Image | None = None,
        report: Report = silent,
    ) -> list[EditResult]:
        """As `edit_image`, one result a picture; stages that an earlier call has done cost nothing."""
        if mask is None:
            require_query(config)
        config = prepare(self.model, config)
        given, meter = hashes(mask=mask, mask_add=add, mask_subtract=subtract), Meter(self.model)
        if mask is not None and config.mask.invert:
            mask = ImageChops.invert(mask)
        fits = self.fits(config, mask, add, subtract, report)
        results: dict[int, EditResult] = {}
        for rows in rows_of_one_canvas(fits):
            fit = fits[rows[0]]
            editor = self.editor(rows, fits)
            self.latest = editor, fit
            areas = edit.Areas(*(cells(area, fit, self.model) for area in (mask, add, subtract)))
            edited = editor.edit(config, [seed_of(config)] * len(rows), areas, report)
            for i, row in enumerate(rows):
                one, fit = edited.row(i), fits[row]
                where = paste_mask(one.found, config, fit, self.model.factor) if mask is None else mask
                where = combine(where, add, subtract)
                results[row] = put_back(self.model, self.pictures[row], fit, config, one, where)
        run = meter.stop(len(results))
        return [replace(results[row], run=run, given=given) for row in sorted(results)]

    def find(
        self,
        config: EditConfig,
        *,
        add: Image.Image | None = None,
        subtract: Image.Image | None = None,
        report: Report = silent,
    ) -> MaskResult:
        """As `make_mask`, for one picture."""
        model, (picture,), config = self.model, self.pictures, prepare(self.model, config)
        meter = Meter(model)
        fits = self.fits(config, None, add, subtract, report)
        heat = self.heat([0], fits, config, report)
        where = self.seen(mask.binarise(heat, config.mask), config, fits[0], add, subtract)
        coverage = covered(where)
        return MaskResult(
            picture=picture,
            mask=where,
            heat=full_heat(heat, fits[0], model.factor),
            coverage=coverage,
            config=as_run(config, fits[0]),
            origin=model.origin,
            given=hashes(mask_add=add, mask_subtract=subtract),
            run=meter.stop(),
            notices=(
                *picture.notices,
                *word_notices(model, config.ref, config.query),
                *zoom_notices(config, fits[0]),
                *mask_notices(coverage),
            ),
        )

    def editor(self, rows: list[int], fits: Mapping[int, Fit] | list[Fit]) -> Editor:
        """The editor of some of the pictures, which have one canvas."""
        key = tuple((row, fits[row]) for row in rows)
        if key not in self.editors:
            pixels = [canvas.to_pixels(self.pictures[row], fit) for row, fit in key]
            self.editors[key] = Editor(self.model, torch.cat(pixels).to(self.model.device))
        return self.editors[key]

    def heat(
        self, rows: list[int], fits: Mapping[int, Fit] | list[Fit], config: EditConfig, report: Report
    ) -> Heat:
        """Step 1 in some of the pictures (see Editor.find)."""
        texts = edit.Texts.embed(self.model, config)
        return self.editor(rows, fits).find(config, texts, [seed_of(config)] * len(rows), report)

    def seen(self, found: Heat, config: EditConfig, fit: Fit, add: Area, subtract: Area) -> Image.Image:
        """A latent mask with the user's areas, mode L at the picture's own size."""
        return combine(paste_mask(found, config, fit, self.model.factor), add, subtract)

    def fits(self, config: EditConfig, given: Area, add: Area, subtract: Area, report: Report) -> list[Fit]:
        """Where each picture is worked on: all of it, or the part round the mask (see EditConfig.zoom)."""
        shape = config.size or self.model.size, self.model.multiple
        fits = [fit_of(self.model, picture, config) for picture in self.pictures]
        gain = 1.0 if config.zoom else ZOOM_FROM
        if config.zoom is False or all(fit.scale * gain >= 1 for fit in fits):
            return fits
        if given is not None:
            part = zoom.part_round(combine(given, add, subtract), *shape)
            return [part if part.scale > gain * fits[0].scale else fits[0]]
        rows = [*range(len(fits))]
        if config.zoom is None:
            heats = self.heat(rows, fits, config, report).split(1)
            hot = [
                self.seen(mask.hottest(heat), config, fit, add, subtract)
                for heat, fit in zip(heats, fits, strict=True)
            ]
            rows = [row for row in rows if zoom.part_round(hot[row], *shape).scale >= gain * fits[row].scale]
        quick = replace(config, mask=replace(config.mask, samples=min(LOOK_SAMPLES, config.mask.samples)))

        def look(row: int, find: Callable[[Heat], Heat], fit: Fit) -> Image.Image:
            heat = self.heat([row], {row: fit}, quick, report)
            return self.seen(find(heat), config, fit, add, subtract)

        for row in rows:
            found = functools.partial(mask.binarise, config=config.mask)
            fits[row] = zoom.close_in(
                fits[row],
                *shape,
                functools.partial(look, row, mask.hottest),
                functools.partial(look, row, found),
            )
        return fits


def rows_of_one_canvas(fits: Sequence[Fit]) -> list[list[int]]:
    """The numbers of the fits, those of one canvas together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, fit in enumerate(fits):
        groups.setdefault(fit.canvas, []).append(row)
    return [*groups.values()]


def animate_edit(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    frames: int,
    *,
    mask: Image.Image | None = None,
    add: Image.Image | None = None,
    subtract: Image.Image | None = None,
    report: Report = silent,
) -> tuple[EditResult, Iterator[Image.Image]]:
    """An edit as `edit_image` makes it, and its film: `frames` RGB pictures, 2 or more.

    The first frame is the picture and the last the edit; neighbours look about equally different, and outside
    the mask every frame is the picture, bit for bit. All are drawn when the first is asked for (stage "frame"
    of `report`). After Ctrl-C those that there are come, in order, and then KeyboardInterrupt.
    """
    require_way_back(config)
    editing = Editing(model, picture)
    (result,) = editing.edit(config, mask=mask, add=add, subtract=subtract, report=report)
    editor, fit = editing.latest
    softened = canvas.paste(picture, editor.pixels.cpu(), result.mask, fit)
    drawn = in_order(morph(editor, frames, report))
    return result, (film_frame(result, fit, softened, frame) for frame in drawn)


def film_frame(result: EditResult, fit: Fit, softened: Image.Image, frame: MorphFrame) -> Image.Image:
    """A frame in the picture, as a film shows it: in sRGB, and over grey where it is see-through.

    softened: the picture with what is inside the mask scaled to the working size and back.
    """
    picture = result.picture
    image = canvas.paste(picture, frame.pixels.cpu(), result.mask, fit)
    keep = canvas.mask_to_full(frame.keep.cpu(), fit)
    image = canvas.add_difference(image, picture.rgb, softened, keep)
    return sheets.flat(colour.to_srgb(image, picture.icc), picture.alpha)


def in_order(frames: Iterator[tuple[float, MorphFrame]]) -> Iterator[MorphFrame]:
    """Frames that are drawn in no order, by weight; after Ctrl-C those that there are, and then Ctrl-C."""
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
        notices=(*picture.notices, *notices, *zoom_notices(config, fit), *mask_notices(coverage)),
    )


def edit_image(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    *,
    mask: Image.Image | None = None,
    add: Image.Image | None = None,
    subtract: Image.Image | None = None,
    report: Report = silent,
) -> EditResult:
    """Change `config.ref` into `config.query` and leave every other pixel as it was.

    mask: where to edit, instead of a search; add, subtract: areas to add to the mask and to keep out of it.
    All have mode L and the picture's size (`load_mask`), and white counts. report: called after each step.
    Raises DiffeditError: texts that do not differ, numbers that are not finite.
    """
    editing = Editing(model, picture)
    return editing.edit(config, mask=mask, add=add, subtract=subtract, report=report)[0]


def edit_images(
    model: DiffusersDenoiser,
    pictures: Sequence[Picture],
    config: EditConfig,
    queries: Sequence[str] = (),
    *,
    mask: Image.Image | None = None,
    add: Image.Image | None = None,
    subtract: Image.Image | None = None,
    report: Report = silent,
) -> Iterator[EditResult | DiffeditError]:
    """Change `config.ref` into each of `queries` (or `config.query`) in several pictures.

    Yields, picture by picture and query by query, a result, or the error that it ended with; the others go
    on. All have one seed. Pictures of one shape are worked on together, and the queries of a picture share
    its encoding; up to the rounding of float32 a result is that of `edit_image`. mask, add, subtract: for a
    single picture. report: starts anew with each group and query.
    """
    if len(pictures) > 1 and not mask is add is subtract is None:
        raise SettingError("A mask belongs to one picture.", "Edit the pictures one by one.")
    config = replace(config, seed=random_seed() if config.seed is None else config.seed)
    for group in groups_of_one_shape(model, pictures, config):
        editing = Editing(model, *group)
        columns = [
            edit_or_fail(editing, replace(config, query=query), mask, add, subtract, report)
            for query in queries or [config.query]
        ]
        for row in zip(*columns, strict=True):
            yield from row


def groups_of_one_shape(
    model: DiffusersDenoiser, pictures: Sequence[Picture], config: EditConfig
) -> Iterator[list[Picture]]:
    """Pictures that follow each other and have one canvas, as many as are worked on together."""
    for (width, height), group in groupby(pictures, lambda one: fit_of(model, one, config).canvas):
        members = list(group)
        count = edit.pictures_together(height // model.factor, width // model.factor)
        for start in range(0, len(members), count):
            yield members[start : start + count]


def edit_or_fail(
    editing: Editing,
    config: EditConfig,
    mask: Image.Image | None,
    add: Image.Image | None,
    subtract: Image.Image | None,
    report: Report,
) -> list[EditResult | DiffeditError]:
    """One outcome a picture: where they fail together, each is tried alone."""
    try:
        return [*editing.edit(config, mask=mask, add=add, subtract=subtract, report=report)]
    except DiffeditError as error:
        if len(editing.pictures) == 1:
            return [error]
    alone = (Editing(editing.model, picture) for picture in editing.pictures)
    return [edit_or_fail(one, config, mask, add, subtract, report)[0] for one in alone]


def compare_edits(
    model: DiffusersDenoiser,
    picture: Picture,
    configs: Sequence[EditConfig],
    *,
    mask: Image.Image | None = None,
    add: Image.Image | None = None,
    subtract: Image.Image | None = None,
    report: Report = silent,
) -> Iterator[EditResult]:
    """`edit_image` under each of several settings, in order; what they share is computed once.

    Configs without a seed get one seed in common. report: called as ("compare", forwards done, in all).
    """
    configs = with_one_seed(configs)
    editing, before = Editing(model, picture), model.forwards
    expected = edit.count_shared_forwards(configs, search=mask is None)

    def count(stage: str, done: int, total: int) -> None:
        report("compare", min(model.forwards - before, expected), expected)

    for config in configs:
        yield editing.edit(config, mask=mask, add=add, subtract=subtract, report=count)[0]


def compare_prompts(
    model: DiffusersDenoiser, configs: Sequence[GenerateConfig], *, report: Report = silent
) -> Iterator[Generated]:
    """`generate_image` under each of several settings, in order; as `compare_edits`."""
    configs = with_one_seed(configs)
    expected, before = sum(generate.count_forwards(config) for config in configs), model.forwards

    def count(stage: str, done: int, total: int) -> None:
        report("compare", min(model.forwards - before, expected), expected)

    for config in configs:
        yield generate_image(model, config, report=count)


def with_one_seed(configs: Sequence[Config]) -> list[Config]:
    """The settings with one random seed wherever none is given."""
    seed = random_seed()
    return [replace(config, seed=seed if config.seed is None else config.seed) for config in configs]


def generate_image(model: DiffusersDenoiser, config: GenerateConfig, *, report: Report = silent) -> Generated:
    """A picture of `config.prompt`, from noise."""
    if not config.prompt:
        raise SettingError("There is no prompt.", "Say what the picture shall show.")
    config = replace(
        config,
        seed=random_seed() if config.seed is None else config.seed,
        width=config.width or model.size,
        height=config.height or model.size,
    )
    meter = Meter(model)
    shape = latent_shape(model, config.width, config.height)
    pixels = generate.generate(model, config, shape, [seed_of(config)], report)
    return Generated(
        image=canvas.pixels_to_image(pixels.cpu()),
        config=config,
        origin=model.origin,
        run=meter.stop(),
        notices=(
            *word_notices(model, config.prompt, config.negative_prompt),
            *guidance_notices(config.guidance, config.steps),
        ),
    )


def resolve_interpolation(model: DiffusersDenoiser, config: InterpolateConfig) -> InterpolateConfig:
    """The settings with a seed for each prompt and a size, as `interpolate_frames` will use them."""
    seeds = config.seed or (random_seed(),)
    return replace(
        config,
        seed=seeds if len(seeds) > 1 else seeds * len(config.prompts),
        width=config.width or model.size,
        height=config.height or model.size,
    )


def interpolate_frames(
    model: DiffusersDenoiser,
    config: InterpolateConfig,
    *,
    init: Picture | None = None,
    first: int = 0,
    have: Callable[[int], Image.Image] | None = None,
    report: Report = silent,
) -> Iterator[Image.Image]:
    """The frames between prompts, in order, as RGB pictures.

    init: a picture that every frame is drawn from; it is scaled to fill the frame, and what juts out is cut.
    first, have: go on with a run at frame `first`; `have` gives the frames before it.
    """
    config = resolve_interpolation(model, config)
    shape = latent_shape(model, config.width, config.height)
    size = shape[2] * model.factor, shape[1] * model.factor

    def pixels_of(image: Image.Image) -> Pixels:
        return canvas.image_to_pixels(image, size).to(model.device)

    frames = generate.interpolate(
        model,
        config,
        shape,
        list(config.seed),
        init=None if init is None else pixels_of(init.rgb),
        first=first,
        have=None if have is None else lambda index: pixels_of(have(index)),
        report=report,
    )
    for _, pixels in frames:
        yield canvas.pixels_to_image(pixels.cpu())


def prepare(model: DiffusersDenoiser, config: EditConfig) -> EditConfig:
    """The settings as they will be run, seed and size filled in."""
    seed = random_seed() if config.seed is None else config.seed
    return replace(config, seed=seed, size=config.size or model.size)


def fit_of(model: DiffusersDenoiser, picture: Picture, config: EditConfig) -> Fit:
    """How a whole picture lies in the working canvas."""
    return canvas.fit(picture.rgb.size, config.size or model.size, model.multiple)


def as_run(config: EditConfig, fit: Fit) -> EditConfig:
    """The settings with what was chosen for this picture filled in."""
    return replace(config, zoom=fit.is_part)


def seed_of(config: EditConfig | GenerateConfig) -> int:
    if config.seed is None:
        raise ValueError("a seed is chosen before a run")
    return config.seed


def latent_shape(model: DiffusersDenoiser, width: int | None, height: int | None) -> tuple[int, int, int]:
    """c h w of the latents of a picture; SettingError if its sides do not fit the model."""
    width, height = width or model.size, height or model.size
    for flag, side in (("--width", width), ("--height", height)):
        if side % model.multiple:
            near = max(model.multiple, round(side / model.multiple) * model.multiple)
            raise SettingError(
                f"{flag} {side} does not fit this model.",
                f"Use a multiple of {model.multiple}, such as {near}.",
            )
    return model.latent_channels, height // model.factor, width // model.factor


def cells(where: Image.Image | None, fit: Fit, model: DiffusersDenoiser) -> Heat | None:
    return None if where is None else canvas.mask_to_cells(where, fit, model.factor).to(model.device)


def paste_mask(found: Heat, config: EditConfig, fit: Fit, factor: int) -> Image.Image:
    """A latent mask as the soft mask of the paste, mode L at the picture's own size."""
    soft = mask.feather(mask.enlarge(found, factor), config.mask.feather)
    return canvas.mask_to_full(soft.cpu(), fit)


def full_heat(heat: Heat, fit: Fit, factor: int) -> Image.Image:
    return canvas.mask_to_full(mask.enlarge(heat, factor).cpu(), fit)


def combine(where: Image.Image, add: Image.Image | None, subtract: Image.Image | None) -> Image.Image:
    """`mask.combine` for masks of the picture's own size."""
    if add is not None:
        where = ImageChops.lighter(where, add)
    return where if subtract is None else ImageChops.multiply(where, ImageChops.invert(subtract))


def covered(where: Image.Image) -> float:
    """The share of a mask that is not 0."""
    return 1 - where.histogram()[0] / (where.width * where.height)


def mask_notices(coverage: float) -> tuple[str, ...]:
    if coverage < LITTLE:
        return (
            f"The mask covers {coverage:.1%} of the picture: next to nothing will change. "
            "Try a lower --mask-threshold, other words, or a mask of your own with --mask.",
        )
    if coverage > MUCH:
        return (
            f"The mask covers {coverage:.0%} of the picture. This method changes one thing and keeps the "
            "rest; a change of the whole picture (style, weather, time of day) is beyond it. "
            "For a smaller mask try a higher --mask-threshold.",
        )
    return ()


def zoom_notices(config: EditConfig, fit: Fit) -> tuple[str, ...]:
    if fit.is_part and config.zoom is None:
        left, top, right, bottom = fit.region
        return (
            f"The mask covers little, so the edit was made in the {right - left}x{bottom - top} pixels round "
            "it. --no-zoom works on the whole picture.",
        )
    if config.zoom and not fit.is_part:
        return ("There was nothing to zoom in on: the part round the mask would not be shown larger.",)
    return ()


def guidance_notices(config: GuidanceConfig, steps: int) -> tuple[str, ...]:
    if config.method != "cfg++" or steps >= FEW_STEPS:
        return ()
    return (
        f"cfg++ pulls the less the fewer the steps, and {steps} are few. Use --steps {FEW_STEPS} or more, "
        "or another --guidance-method.",
    )


def word_notices(model: DiffusersDenoiser, *prompts: str) -> tuple[str, ...]:
    """What to tell the user: words that the model never learned or does not hear, and memory that ran out."""
    notices = [*model.notices]
    notices += [
        f"The end of this prompt is beyond what {model.name} reads and is ignored: {prompt}"
        for prompt in prompts
        if model.is_too_long(prompt)
    ]
    if model.words is not None and (unknown := model.unknown_words(prompts)):
        groups = "; ".join(f"{group}: {', '.join(words)}" for group, words in model.words.items())
        notices.append(
            f"The model {model.name} never learned: {', '.join(unknown)}. It knows {groups}. For any other "
            "word use a full checkpoint, e.g. --model stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
    return tuple(notices)


def provenance(
    command: str,
    origin: Mapping[str, Any],
    config: Any,
    picture: Picture | None = None,
    given: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is stored in a result, all that is needed to make it again: the version, the command, the model,
    the input's name and hash, the hashes of masks that were given, and every setting."""
    source = {} if picture is None else {"input": picture.name, "input_sha256": picture.sha256}
    return {
        "diffedit": __version__,
        "command": command,
        **origin,
        **source,
        **(given or {}),
        **flatten(config),
    }


def hashes(**masks: Image.Image | None) -> dict[str, str]:
    """The SHA-256 of the pixels of each mask that was given, under its name and `_sha256`."""
    return {
        f"{name}_sha256": hashlib.sha256(mask.tobytes()).hexdigest()
        for name, mask in masks.items()
        if mask is not None
    }


def costs(run: Run, notices: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "seconds": round(run.seconds, 3),
        "network_seconds": round(run.network_seconds, 3),
        "forwards": run.forwards,
        **({"made_together": run.results} if run.results > 1 else {}),
        "notices": list(notices),
    }


def parameters(config: EditConfig | GenerateConfig, prompt: str, size: tuple[int, int], model: str) -> str:
    """The settings as AUTOMATIC1111 writes them, which other tools read."""
    facts = {
        "Steps": config.steps,
        "Sampler": {"ddim": "DDIM", "dpm++": "DPM++ 2M"}[config.solver],
        "CFG scale": f"{config.guidance.base_scale:g}",
        "Seed": config.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model,
    }
    if isinstance(config, EditConfig):
        facts["Denoising strength"] = f"{config.strength:g}"
    negative = f"\nNegative prompt: {config.negative_prompt}" if config.negative_prompt else ""
    return f"{prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in facts.items())
