"""diffedit compare"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingError
from ..settings import EditConfig, GenerateConfig, ModelConfig, TalkConfig
from .files import check_targets, read_masks, read_picture, target_for, write_picture
from .idle import note_idle
from .options import (
    AddMask,
    DryRun,
    NoMetadata,
    Output,
    Overwrite,
    SubtractMask,
    UseMask,
    paper_option,
    with_flags,
)
from .origins import settled
from .session import open_model, own_defaults, require_suited
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from ..compare import Comparison
    from ..images.read import Picture


@with_flags(
    without=("next_queries",),
    comma_lists="lists",
    lists=EditConfig,
    model_config=ModelConfig,
    talk_config=TalkConfig,
)
def compare(
    context: typer.Context,
    picture: Annotated[
        str | None,
        typer.Argument(metavar="[PICTURE]", help="The picture; - is stdin. Without one, --prompt is drawn."),
    ] = None,
    output: Output = None,
    overwrite: Overwrite = False,
    animate: Annotated[
        Path | None,
        typer.Option(
            help="Also write the grid as a film that flips between before and after (.gif, .webp, .mp4 or "
            "a folder).",
            rich_help_panel="Files",
        ),
    ] = None,
    no_metadata: NoMetadata = False,
    mask: UseMask = None,
    mask_add: AddMask = None,
    mask_subtract: SubtractMask = None,
    paper: Annotated[bool, paper_option()] = False,
    dry_run: DryRun = False,
    *,
    lists: Callable[..., dict[str, list[Any]]],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Draw one picture, or one prompt, with several settings, as a grid of labelled tiles.

    Any setting takes a comma-separated list, and every combination is drawn. One list fills the grid; of two
    lists the longer one runs across. Write \\, for a comma within a text, and 0.3+0.5 for one value that is a
    list itself.
    """
    talk = talk_config()
    with plain_errors(talk, output):
        terminal, checkpoint, values = Terminal(talk, output), model_config(), lists()
        files = mask, mask_add, mask_subtract
        if picture is None and any([*files, animate, paper]):
            raise SettingError(
                "A mask, --animate or --paper needs a picture.", "Name one: diffedit compare FILE."
            )

        from .. import compare as comparison
        from ..images.video import check_film
        from ..models import check_parts

        own, kind = own_defaults(checkpoint), {"has_picture": picture is not None, "search": mask is None}
        units = settled(lambda: comparison.count_forwards(values, own, **kind), values, terminal.warn)
        tiles = comparison.labels(values, own)
        source = None if picture is None else read_picture(picture)
        target = target_for(output, Path(picture or "").stem.strip("-"), "compare")
        check_targets([target], overwrite=overwrite, film=animate, places=[output])
        if animate is not None:
            check_film(animate, fps=comparison.FPS, overwrite=overwrite)
        masks = None if source is None else read_masks(files, source)
        note_idle(context, terminal, comparison.idle(values, own, **kind))
        configs, has_mask = comparison.filled(values, own, **kind), mask is not None
        require_drawable(configs, checkpoint, source, has_mask=has_mask, is_dry=dry_run)
        if dry_run:
            check_parts(checkpoint)
            terminal.result(
                {"output": str(target or "-"), "tiles": tiles, "forwards": units},
                [f"Would draw {len(tiles)} tiles: {'; '.join(tiles)}.", f"{units} forward passes."],
            )
            return
        model = open_model(checkpoint, terminal)
        with terminal.progress({"compare": 1}) as report:
            result = comparison.compare(model, source, values, mask=masks, report=report)
        write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
        write_film_of(result, animate, overwrite=overwrite, metadata=not no_metadata)
        seeds = dict.fromkeys(str(tile.config.seed) for tile in result.tiles)
        terminal.finish(result, target, f": {len(result.tiles)} tiles (seed {', '.join(seeds)}).")


def require_drawable(
    configs: Sequence[EditConfig] | Sequence[GenerateConfig],
    checkpoint: ModelConfig,
    picture: "Picture | None",
    *,
    has_mask: bool,
    is_dry: bool,
) -> None:
    """Refuse what the model cannot draw, as far as is known."""
    for config in configs:
        inversion = config.encoding if isinstance(config, EditConfig) else ""
        require_suited(checkpoint, inversion=inversion, spacing=config.step_spacing)

    from ..generation import check_generation
    from ..models import foresee
    from ..session import check_edit

    if model := foresee(checkpoint, is_dry=is_dry):
        for config in configs:
            if isinstance(config, GenerateConfig):
                check_generation(model, config)
            elif picture is not None:
                check_edit(model, config, picture.rgb.size, has_mask=has_mask)


def write_film_of(result: "Comparison", target: Path | None, *, overwrite: bool, metadata: bool) -> None:
    """The grid as a film between before and after, if it was asked for."""
    if target is not None:
        from ..compare import FPS
        from ..images.video import write_frames

        settings = result.settings() if metadata else None
        write_frames(result.frames(), target, fps=FPS, overwrite=overwrite, settings=settings)
