"""diffedit interpolate"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingError
from ..settings import (
    InterpolateConfig,
    ModelConfig,
    TalkConfig,
    build,
    filled_in,
    flatten,
    idle_settings,
    keys,
    public_name,
    without_idle,
)
from .files import name_for, read_picture
from .films import Film, write_film
from .idle import note_idle
from .options import NoMetadata, Output, Overwrite, with_flags
from .session import open_model, own_defaults, require_suited
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from PIL import Image

    from ..core.types import Report
    from ..images.read import Picture
    from ..models import DiffusersDenoiser
    from ..results import Run

# What of a model's origin changes the pixels of a frame.
PIXELS = (
    "model", "revision", "variant", "lora", "embedding", "vae", "text_encoder", "device", "dtype", "backend",
    "low_memory", "compile",
)  # fmt: skip


@with_flags(without=("prompts",), config=InterpolateConfig, model_config=ModelConfig, talk_config=TalkConfig)
def interpolate(
    context: typer.Context,
    prompts: Annotated[list[str], typer.Argument(help="Two or more prompts.", metavar="PROMPT PROMPT...")],
    output: Output = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Resume a film in a folder of frames.",
            rich_help_panel="Files",
            show_default=False,
        ),
    ] = False,
    init: Annotated[
        str | None, typer.Option(help="Draw every frame from this picture.", rich_help_panel="Sampling")
    ] = None,
    no_metadata: NoMetadata = False,
    *,
    config: Callable[..., InterpolateConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Make a film that goes from prompt to prompt: .mp4, .gif, .webp, or a folder of frames."""
    talk = talk_config()
    with plain_errors(talk):
        terminal, settings, checkpoint = Terminal(talk), config({"prompts": prompts}), model_config()
        if output == "-":
            raise SettingError("A film cannot go to stdout.", "Name a file or a folder with -o.")
        target = Path(output) if output else Path(name_for("", "-".join(prompts), ".mp4"))

        from .. import generation, results
        from .. import notices as notes
        from ..images.video import check_film
        from ..models import foresee
        from ..session import require_mixing

        first, before, picture = 0, None, None if init is None else read_picture(init)
        if resume:
            settings, first, before = resumed(settings, checkpoint, picture, target)
        check_film(target, fps=settings.fps, overwrite=overwrite or resume)
        known = filled_in(settings, own_defaults(checkpoint))
        require_suited(checkpoint, spacing=known.step_spacing)
        note_idle(context, terminal, idle_settings(known, has_init=picture is not None))
        if foreseen := foresee(checkpoint):
            require_mixing(foreseen)
            generation.check_generation(foreseen, known)
        model = open_model(checkpoint, terminal)
        if before is not None:
            check_same_model(before, model.origin, target)
        settings = generation.resolve_interpolation(model, settings, has_init=picture is not None)
        meter = results.Meter(model)
        stored = None if no_metadata else results.provenance("interpolate", model.origin, settings, picture)
        film = draw(terminal, model, settings, picture, target, overwrite, stored, first if resume else None)
        notices = (
            *(picture.notices if picture else ()),
            *notes.word_notices(model, *settings.prompts, settings.negative_prompt),
            *notes.guidance_notices(settings.guidance, settings.step_count),
        )
        announce(terminal, film, settings, target, meter.stop(), notices)
        film.end()


def draw(
    terminal: Terminal,
    model: "DiffusersDenoiser",
    settings: InterpolateConfig,
    init: "Picture | None",
    target: Path,
    overwrite: bool,
    stored: Mapping[str, Any] | None,
    first: int | None,
) -> Film:
    """Draw and write the frames; with --resume from number `first` on, if any are missing."""
    from ..core.text2image import count_frames

    start = first or 0
    if start >= count_frames(settings):
        return Film(target, settings.fps, start)
    with terminal.progress({"frame": 1}) as report:
        frames = missing_frames(model, settings, init, target, start, report)
        return write_film(frames, target, fps=settings.fps, overwrite=overwrite, settings=stored, first=first)


def missing_frames(
    model: "DiffusersDenoiser",
    settings: InterpolateConfig,
    init: "Picture | None",
    folder: Path,
    first: int,
    report: "Report",
) -> "Iterator[Image.Image]":
    """The frames from number `first` on; those before it lie in the folder."""
    from .. import generation
    from ..images import video
    from ..images.read import load_image

    return generation.interpolate_frames(
        model,
        settings,
        init=init,
        first=first,
        have=lambda index: load_image(video.frame_path(folder, index)).rgb,
        report=report,
    )


def announce(
    terminal: Terminal,
    film: Film,
    settings: InterpolateConfig,
    target: Path,
    run: "Run",
    notices: tuple[str, ...],
) -> None:
    """Where the film is, how much of it there is, and what it cost."""
    from ..core.text2image import count_frames
    from ..results import costs

    for notice in notices:
        terminal.warn(notice)
    if terminal.talk.verbose:
        drawn = max(film.drawn - film.first, 1)
        terminal.say(f"{run.seconds / drawn:.2f} s and {run.forwards / drawn:.0f} forward passes a frame.")
    terminal.result(
        {"output": str(target), "frames": film.drawn, "seed": settings.seed, **costs(run, notices)},
        [
            f"Wrote {target}: {film.drawn} of {count_frames(settings)} frames, "
            f"{film.drawn / settings.fps:.1f} s (seed {', '.join(map(str, dict.fromkeys(settings.seed)))})."
        ],
    )


def resumed(
    settings: InterpolateConfig, checkpoint: ModelConfig, init: "Picture | None", folder: Path
) -> tuple[InterpolateConfig, int, dict[str, Any]]:
    """The settings of the run whose frames lie in a folder, its first missing frame, and all that is stored.

    SettingError if the folder holds another film: the frames would not fit together.
    """
    stored, first = stored_frames(folder)
    known = [key for key, *_ in keys(InterpolateConfig)]
    before = build(InterpolateConfig, {key: value for key, value in stored.items() if key in known})
    wanted = replace(
        filled_in(settings, own_defaults(checkpoint)),
        seed=settings.seed or before.seed,
        width=settings.width or before.width,
        height=settings.height or before.height,
    )
    if len(wanted.seed) == 1:
        wanted = replace(wanted, seed=wanted.seed * len(wanted.prompts))
    wanted = without_idle(wanted, idle_settings(wanted, has_init=init is not None))
    before = filled_in(before, {"guidance_method": before.guidance.method})
    before = without_idle(before, idle_settings(before, has_init=init is not None))
    new, old = flatten(wanted), flatten(before)
    differing = [key for key in known if new[key] != old[key]]
    if stored.get("model") != public_name(checkpoint.model):
        differing.insert(0, "model")
    if stored.get("input_sha256") != (init and init.sha256):
        differing.append("init")
    refuse_other(folder, differing)
    return wanted, first, stored


def stored_frames(folder: Path) -> tuple[dict[str, Any], int]:
    """The settings of the first frame in a folder, and the number of the first one that is missing or other.

    SettingError if there are none to go on with.
    """
    from ..images import video
    from ..images.read import read_settings

    first = video.next_missing(folder)
    if not first:
        raise SettingError(f"{folder} holds no frames to resume from.", "Leave --resume out.")
    stored = video.read_film_settings(folder)
    if stored is None:
        raise SettingError(
            f"The frames in {folder} hold no settings, so the film cannot be resumed.",
            "Make the film again with --overwrite, and without --no-metadata.",
        )
    same = (read_settings(video.frame_path(folder, number)) == stored for number in range(first))
    return stored, sum(1 for _ in takewhile(bool, same))  # a crash can leave frames of an older film behind


def check_same_model(stored: Mapping[str, Any], origin: Mapping[str, Any], folder: Path) -> None:
    """SettingError if frames were made with another model, or on other terms that change their pixels."""

    def kind(of: Mapping[str, Any], key: str) -> Any:
        return str(of[key]).split(":")[0] if key == "device" else of[key]

    refuse_other(folder, [key for key in PIXELS if key in stored and kind(stored, key) != kind(origin, key)])


def refuse_other(folder: Path, differing: Sequence[str]) -> None:
    """SettingError that names the first setting in which the frames of a folder differ."""
    if differing:
        raise SettingError(
            f"The frames in {folder} were made with a different {differing[0]}.",
            "Give the same settings, or a different folder.",
        )
