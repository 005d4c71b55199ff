"""Pictures and films from texts alone: the Python API's `generate_image` and `interpolate_frames`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from PIL import Image

from .core import costs, text2image
from .core.schedules import make_steps
from .core.types import Pixels, Report, silent
from .errors import SettingError
from .images import canvas, sheets
from .images.read import Picture
from .models import DiffusersDenoiser, Foreseen
from .notices import guidance_notices, word_notices
from .results import Generated, Meter
from .session import counting, random_seed, require_mixing
from .settings import GenerateConfig, InterpolateConfig, filled_in, idle_settings, without_idle


def generate_image(model: DiffusersDenoiser, config: GenerateConfig, *, report: Report = silent) -> Generated:
    """A picture of `config.prompt`, from noise."""
    if not config.prompt:
        raise SettingError("There is no prompt.", "Say what the picture shows.")
    seed = random_seed() if config.seed is None else config.seed
    config = replace(config, seed=seed, width=config.width or model.size, height=config.height or model.size)
    config = filled_in(config, model.own_defaults)
    config = without_idle(config, idle_settings(config))
    meter = Meter(model)
    shape = latent_shape(model, config.width, config.height)
    pixels = text2image.generate(model, config, shape, [seed], report)
    return Generated(
        image=canvas.pixels_to_image(pixels.cpu()),
        config=config,
        origin=model.origin,
        run=meter.stop(),
        notices=(
            *word_notices(model, config.prompt, config.negative_prompt),
            *guidance_notices(config.guidance, config.step_count),
        ),
    )


def resolve_interpolation(
    model: DiffusersDenoiser, config: InterpolateConfig, *, has_init: bool = False
) -> InterpolateConfig:
    """The settings as `interpolate_frames` uses them, with a seed for each prompt, a size and a scale."""
    require_mixing(model)
    seeds = config.seed or (random_seed(),)
    config = replace(
        config,
        seed=seeds if len(seeds) > 1 else seeds * len(config.prompts),
        width=config.width or model.size,
        height=config.height or model.size,
    )
    config = filled_in(config, model.own_defaults)
    return without_idle(config, idle_settings(config, has_init=has_init))


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

    init: a picture that every frame is drawn from; it is scaled to fill the frame and cropped. Its colours
    become sRGB, and transparent areas are shown over light grey. first, have: resume a run at frame `first`;
    `have` returns the frames before it.
    """
    config = resolve_interpolation(model, config, has_init=init is not None)
    shape = latent_shape(model, config.width, config.height)
    size = shape[2] * model.factor, shape[1] * model.factor

    def pixels_of(image: Image.Image) -> Pixels:
        return canvas.image_to_pixels(image, size).to(model.device)

    frames = text2image.interpolate(
        model,
        config,
        shape,
        list(config.seed),
        init=None if init is None else pixels_of(sheets.shown(init)),
        first=first,
        have=None if have is None else lambda index: pixels_of(have(index)),
        report=report,
    )
    for _, pixels in frames:
        yield canvas.pixels_to_image(pixels.cpu())


def check_generation(model: Foreseen, config: GenerateConfig | InterpolateConfig) -> None:
    """Refuse, without the network, what drawing from texts would refuse under filled-in settings."""
    _, *cells = latent_shape(model, config.width, config.height)
    how = config.step_solver, config.step_spacing, (cells[0], cells[1])
    make_steps(model.schedule, config.step_count, 1.0, *how)
    model.check_size(max(cells))


def latent_shape(
    model: DiffusersDenoiser | Foreseen, width: int | None, height: int | None
) -> tuple[int, int, int]:
    """c h w of the latents of a picture; SettingError if its sides do not fit the model."""
    across, down = width or model.size, height or model.size
    for flag, side in (("--width", across), ("--height", down)):
        if side % model.multiple:
            near = max(model.multiple, round(side / model.multiple) * model.multiple)
            raise SettingError(
                f"{flag} {side} does not fit this model.",
                f"Use a multiple of {model.multiple}, such as {near}.",
            )
    return model.latent_channels, down // model.factor, across // model.factor


def compare_prompts(
    model: DiffusersDenoiser, configs: Sequence[GenerateConfig], *, report: Report = silent
) -> Iterator[Generated]:
    """`generate_image` under each of several settings, in order; as `compare_edits`."""
    seed = random_seed()
    configs = [
        filled_in(replace(config, seed=seed if config.seed is None else config.seed), model.own_defaults)
        for config in configs
    ]
    count = counting(model, sum(map(costs.generate_forwards, configs)), report)

    for config in configs:
        yield generate_image(model, config, report=count)
