"""The Python API: pictures and settings in, results out. The command line is a thin layer over this."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

from PIL import Image

from . import edit, generate
from .editing import Editing, Given, random_seed, seed_of
from .errors import DiffeditError, SettingError
from .images import canvas, colour, sheets
from .images.canvas import Fit
from .images.files import Picture
from .models import DiffusersDenoiser
from .morph import MorphFrame, morph
from .results import EditResult, Generated, MaskResult, Meter, guidance_notices, word_notices
from .settings import EditConfig, GenerateConfig, InterpolateConfig, filled_in, require_way_back
from .types import Pixels, Report, silent

Config = TypeVar("Config", EditConfig, GenerateConfig)


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
    return Editing(model, picture).find(config, Given(None, add, subtract), report)


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
    (result,) = editing.edit(config, Given(mask, add, subtract), report)
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
    return editing.edit(config, Given(mask, add, subtract), report)[0]


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
    given = Given(mask, add, subtract)
    if len(pictures) > 1 and given != Given():
        raise SettingError("A mask belongs to one picture.", "Edit the pictures one by one.")
    config = replace(config, seed=random_seed() if config.seed is None else config.seed)
    for group in groups_of_one_shape(model, pictures, config):
        editing = Editing(model, *group)
        columns = [
            edit_or_fail(editing, replace(config, query=query), given, report)
            for query in queries or [config.query]
        ]
        for row in zip(*columns, strict=True):
            yield from row


def groups_of_one_shape(
    model: DiffusersDenoiser, pictures: Sequence[Picture], config: EditConfig
) -> Iterator[list[Picture]]:
    """Pictures that follow each other and have one canvas, as many as are worked on together."""
    shape = config.size or model.size, model.multiple
    for (width, height), group in groupby(pictures, lambda one: canvas.fit(one.rgb.size, *shape).canvas):
        members = list(group)
        count = edit.pictures_together(height // model.factor, width // model.factor)
        for start in range(0, len(members), count):
            yield members[start : start + count]


def edit_or_fail(
    editing: Editing, config: EditConfig, given: Given, report: Report
) -> list[EditResult | DiffeditError]:
    """One outcome a picture: where they fail together, each is tried alone."""
    try:
        return [*editing.edit(config, given, report)]
    except DiffeditError as error:
        if len(editing.pictures) == 1:
            return [error]
    alone = (Editing(editing.model, picture) for picture in editing.pictures)
    return [edit_or_fail(one, config, given, report)[0] for one in alone]


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
    configs = prepare_all(model, configs)
    editing, given = Editing(model, picture), Given(mask, add, subtract)
    count = counting(model, edit.count_shared_forwards(configs, search=mask is None), report)

    for config in configs:
        yield editing.edit(config, given, count)[0]


def compare_prompts(
    model: DiffusersDenoiser, configs: Sequence[GenerateConfig], *, report: Report = silent
) -> Iterator[Generated]:
    """`generate_image` under each of several settings, in order; as `compare_edits`."""
    configs = prepare_all(model, configs)
    count = counting(model, sum(generate.count_forwards(config) for config in configs), report)

    for config in configs:
        yield generate_image(model, config, report=count)


def counting(model: DiffusersDenoiser, expected: int, report: Report) -> Report:
    """Reports any stage as ("compare", forwards done from now on, `expected`)."""
    before = model.forwards
    return lambda *_: report("compare", min(model.forwards - before, expected), expected)


def prepare_all(model: DiffusersDenoiser, configs: Sequence[Config]) -> list[Config]:
    """The settings with the model's own filled in, and one random seed wherever none is given."""
    seed = random_seed()
    seeded = (replace(config, seed=seed if config.seed is None else config.seed) for config in configs)
    return [filled_in(config, model.own_defaults) for config in seeded]


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
    config = filled_in(config, model.own_defaults)
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
    """The settings as `interpolate_frames` will use them: a seed for each prompt, a size, a scale."""
    seeds = config.seed or (random_seed(),)
    config = replace(
        config,
        seed=seeds if len(seeds) > 1 else seeds * len(config.prompts),
        width=config.width or model.size,
        height=config.height or model.size,
    )
    return filled_in(config, model.own_defaults)


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
