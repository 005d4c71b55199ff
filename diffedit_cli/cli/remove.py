"""diffedit remove"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import (
    EditConfig,
    ModelConfig,
    RemoveConfig,
    TalkConfig,
    filled_in,
    idle_settings,
    require_object,
)
from .edit import noted, outcome_of, write_extras
from .files import check_targets, read_masks, read_picture, target_for, write_picture
from .idle import note_idle
from .jobs import Job
from .options import (
    AddMask,
    DryRun,
    NoMetadata,
    Output,
    Overwrite,
    PictureFile,
    SubtractMask,
    fast_option,
    with_flags,
)
from .session import open_model, own_defaults, own_words, require_suited, unknown_words
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from ..images.read import Picture


@with_flags(without=("mask_invert",), config=RemoveConfig, model_config=ModelConfig, talk_config=TalkConfig)
def remove(
    context: typer.Context,
    picture: PictureFile,
    output: Output = None,
    overwrite: Overwrite = False,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Also write input, heat map, mask and result side by side.", rich_help_panel="Files"
        ),
    ] = None,
    save_mask: Annotated[
        Path | None, typer.Option(help="Also write the mask, including its room.", rich_help_panel="Files")
    ] = None,
    no_metadata: NoMetadata = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Remove the white part of this picture instead of searching.", rich_help_panel="Mask"
        ),
    ] = None,
    mask_add: AddMask = None,
    mask_subtract: SubtractMask = None,
    fast: Annotated[bool, fast_option()] = False,
    dry_run: DryRun = False,
    *,
    config: Callable[..., RemoveConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Take one object out of a picture by naming it, and draw what may be behind it.

    Every pixel outside the mask stays as it was. If the model does not see the object, nothing is written.
    """
    talk = talk_config()
    with plain_errors(talk, output):
        terminal, settings, checkpoint = Terminal(talk, output), config(), model_config()
        require_object(settings, has_mask=mask is not None)

        from ..removal import forwards

        target = target_for(output, Path(picture).stem.strip("-"), f"without {settings.ref}".strip())
        job = Job(picture, None, settings.as_edit(), target, grid, save_mask)
        source = read_picture(picture)
        check_targets([target, grid, save_mask], overwrite=overwrite, picture=source, places=[output])
        masks = read_masks((mask, mask_add, mask_subtract), source)
        own, given = own_defaults(checkpoint), {"has_mask": mask is not None, "has_areas": not masks.is_empty}
        full = filled_in(settings.as_edit(), own)
        require_suited(checkpoint, spacing=full.step_spacing)
        note_idle(context, terminal, idle_settings(full, **given))
        units = forwards(settings, own_words(checkpoint), own, has_mask=mask is not None)
        check_model(checkpoint, full, source, has_mask=mask is not None, is_dry=dry_run)
        if dry_run:
            return preview(job, settings, units, checkpoint, terminal)
        model = open_model(checkpoint, terminal)

        from ..api import remove_object

        with terminal.progress(units) as report:
            result = noted(remove_object(model, source, settings, mask=masks, report=report), target)
        write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
        write_extras(result, job, overwrite=overwrite)
        terminal.finish(result, target, outcome_of(result, target))


def check_model(
    checkpoint: ModelConfig, full: EditConfig, source: "Picture", *, has_mask: bool, is_dry: bool
) -> None:
    """Refuse what the model cannot draw, as far as is known."""
    from ..models import foresee
    from ..session import check_edit

    if model := foresee(checkpoint, is_dry=is_dry):
        check_edit(model, full, source.rgb.size, has_mask=has_mask)


def preview(
    job: Job,
    settings: RemoveConfig,
    units: dict[str, int],
    checkpoint: ModelConfig,
    terminal: Terminal,
) -> None:
    """Say what would be done; files, masks, words and the model are checked, and no network is loaded."""
    from ..models import check_parts

    check_parts(checkpoint)
    notice = unknown_words(checkpoint, settings.ref, settings.place)
    if notice:
        terminal.warn(notice)
    stages = ", ".join(f"{stage} {count}" for stage, count in units.items())
    terminal.result(
        {
            "model": checkpoint.model,
            "forwards": units,
            "notices": [notice] if notice else [],
            "output": str(job.target or "-"),
        },
        [
            f"Would remove {settings.ref or 'what the mask covers'} from {job.picture} with "
            f"{checkpoint.model}. The result would go to {job.target or 'stdout'}.",
            f"{sum(units.values())} forward passes: {stages}.",
        ],
    )
