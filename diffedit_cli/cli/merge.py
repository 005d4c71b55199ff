"""diffedit merge"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import MergeConfig, TalkConfig
from .files import check_targets, read_masks, read_picture, target_for, write_picture
from .options import AddMask, DryRun, NoMetadata, Output, Overwrite, SubtractMask, with_flags
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from ..images.read import Picture
    from ..merge import MergeResult


@with_flags(config=MergeConfig, talk_config=TalkConfig)
def merge(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL", help="The picture before; - is stdin.")],
    edited: Annotated[str, typer.Argument(metavar="EDITED", help="The same picture after an edit.")],
    output: Output = None,
    overwrite: Overwrite = False,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Also write original, edited, mask and result side by side.", rich_help_panel="Files"
        ),
    ] = None,
    save_mask: Annotated[
        Path | None, typer.Option(help="Also write the mask.", rich_help_panel="Files")
    ] = None,
    no_metadata: NoMetadata = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Paste the white part of this picture instead of searching.", rich_help_panel="Mask"
        ),
    ] = None,
    mask_add: AddMask = None,
    mask_subtract: SubtractMask = None,
    dry_run: DryRun = False,
    *,
    config: Callable[..., MergeConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Keep only what really changed in EDITED; every other pixel is the original's.

    For the results of editors that follow instructions: they return the whole picture shifted, scaled,
    recoloured or softened. EDITED is aligned with ORIGINAL, its colours are matched, and what still differs
    is pasted into ORIGINAL. No model is used.
    """
    talk = talk_config()
    with plain_errors(talk, output):
        terminal, settings = Terminal(talk, output), config()
        before, after = read_picture(original), read_picture(edited)
        target = target_for(output, Path(original).stem.strip("-"), "merged")
        check_targets([target, grid, save_mask], overwrite=overwrite, picture=before)
        masks = read_masks((mask, mask_add, mask_subtract), before)
        if dry_run:
            terminal.result(
                {"output": str(target or "-")},
                [f"Would merge {after.name} into {before.name} and write {target or 'to stdout'}."],
            )
            return

        from ..merge import merge_images

        result = merge_images(before, after, settings, mask=masks)
        write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
        write_extras(result, after, grid, save_mask, overwrite=overwrite)
        terminal.finish(result, target, outcome(result))


def outcome(result: "MergeResult") -> str:
    (zoom_x, zoom_y), (x, y) = result.zoom, (round(side, 1) + 0.0 for side in result.shift)  # -0.0 is 0.0
    return (
        f". The edited picture was aligned by a shift of {x:+.1f}, {y:+.1f} pixels and a scale of "
        f"{zoom_x:.3f} x {zoom_y:.3f}. "
        f"What changed covers {result.coverage:.1%} of the picture; {result.changed_outside} pixels changed "
        "outside it."
    )


def write_extras(
    result: "MergeResult", edited: "Picture", grid: Path | None, save_mask: Path | None, *, overwrite: bool
) -> None:
    from ..images import sheets
    from ..images.write import save_image

    if save_mask is not None:
        save_image(save_mask, result.mask, overwrite=overwrite)
    if grid is not None:
        before, after = sheets.shown(result.picture), sheets.shown(result.picture, result.image)
        columns = [("original", before), ("edited", sheets.shown(edited).resize(before.size))]
        save_image(
            grid, sheets.grid([*columns, ("mask", result.mask), ("result", after)]), overwrite=overwrite
        )
