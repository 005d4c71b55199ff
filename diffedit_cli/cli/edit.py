"""diffedit edit"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import EditConfig, ModelConfig, TalkConfig, require_query
from .files import check_targets, read_mask, read_picture, target_for, write_picture
from .options import (
    AddMask,
    DryRun,
    NoMetadata,
    Output,
    Overwrite,
    PictureFile,
    SubtractMask,
    UseMask,
    with_flags,
)
from .session import open_model
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from ..api import EditResult


@with_flags(edit_config=EditConfig, model_config=ModelConfig, talk_config=TalkConfig)
def edit(
    picture: PictureFile,
    output: Output = None,
    overwrite: Overwrite = False,
    grid: Annotated[
        Path | None,
        typer.Option(help="Also write input, heat, mask and result side by side.", rich_help_panel="Files"),
    ] = None,
    save_mask: Annotated[
        Path | None, typer.Option(help="Also write the mask.", rich_help_panel="Files")
    ] = None,
    no_metadata: NoMetadata = False,
    mask: UseMask = None,
    mask_add: AddMask = None,
    mask_subtract: SubtractMask = None,
    dry_run: DryRun = False,
    *,
    edit_config: Callable[..., EditConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Change one thing in a picture by naming it, and leave every other pixel as it was."""
    talk = talk_config()
    with plain_errors(talk):
        terminal, config, checkpoint = Terminal(talk), edit_config(), model_config()
        if mask is None:
            require_query(config)
        target = target_for(output, Path(picture).stem.strip("-"), config.query)
        source = read_picture(picture)
        check_targets([target, grid, save_mask], overwrite=overwrite, picture=source)
        masks = [read_mask(file, source) for file in (mask, mask_add, mask_subtract)]

        from ..edit import count_forwards

        units = count_forwards(config, search=mask is None)
        if dry_run:
            terminal.result(
                {"output": str(target or "-"), "model": checkpoint.model, "forwards": units},
                [
                    f"Would change {config.ref or 'whatever differs'} to {config.query} in {source.name} "
                    f"({source.rgb.width}x{source.rgb.height}) with {checkpoint.model}.",
                    f"{sum(units.values())} UNet sample-forwards: "
                    + ", ".join(f"{stage} {count}" for stage, count in units.items())
                    + f". The result would go to {target or 'stdout'}.",
                ],
            )
            return
        model = open_model(checkpoint, terminal)

        from ..api import edit_image

        with terminal.progress(units) as report:
            result = edit_image(
                model, source, config, mask=masks[0], add=masks[1], subtract=masks[2], report=report
            )
        write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
        write_extras(result, grid, save_mask, overwrite=overwrite)
        terminal.finish(
            result,
            target,
            f" (seed {result.config.seed}). The mask covers {result.coverage:.1%} of the picture; "
            f"{result.changed_outside} pixels changed outside it.",
        )


def write_extras(result: "EditResult", grid: Path | None, save_mask: Path | None, *, overwrite: bool) -> None:
    """The picture of all stages and the mask, if they were asked for."""
    from ..images import files, sheets

    if save_mask is not None:
        files.save_image(save_mask, result.mask, overwrite=overwrite)
    if grid is not None:
        columns = [("input", result.picture.rgb), ("mask", result.mask), ("result", result.image)]
        if result.heat is not None:
            columns.insert(1, ("heat", sheets.heat_to_image(result.heat)))
        files.save_image(grid, sheets.grid(columns), overwrite=overwrite)
