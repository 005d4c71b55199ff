"""diffedit mask"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import (
    EditConfig,
    GuidanceConfig,
    ModelConfig,
    TalkConfig,
    idle_settings,
    keys,
    require_difference,
)
from .files import check_targets, read_masks, read_picture, target_for, write_picture
from .idle import note_idle
from .options import (
    AddMask,
    NoMetadata,
    Output,
    Overwrite,
    PictureFile,
    SubtractMask,
    fast_option,
    paper_option,
    with_flags,
)
from .session import open_model
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from ..images.read import Picture
    from ..results import MaskResult

# What only the drawing of a change would use.
UNUSED = (
    "negative_prompt",
    "steps",
    "solver",
    "timestep_spacing",
    "strength",
    "inversion",
    "reuse",
    "inversion_rounds",
    "room",
    "keep_detail",
    "mask_grey",
    "per_object",
    "next_queries",
    *(key for key, *_ in keys(GuidanceConfig, "guidance_")),
)


@with_flags(without=UNUSED, edit_config=EditConfig, model_config=ModelConfig, talk_config=TalkConfig)
def mask(
    context: typer.Context,
    picture: PictureFile,
    output: Output = None,
    overwrite: Overwrite = False,
    heatmap: Annotated[
        Path | None, typer.Option(help="Also write the heat map in colours.", rich_help_panel="Files")
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="Also write the picture with the mask drawn on it.", rich_help_panel="Files"),
    ] = None,
    cutout: Annotated[
        Path | None,
        typer.Option(
            help="Also write what the mask covers, on a transparent background.",
            rich_help_panel="Files",
        ),
    ] = None,
    no_metadata: NoMetadata = False,
    mask_add: AddMask = None,
    mask_subtract: SubtractMask = None,
    fast: Annotated[bool, fast_option(UNUSED)] = False,
    paper: Annotated[bool, paper_option(UNUSED)] = False,
    *,
    edit_config: Callable[..., EditConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Find an object by naming it and something that it is not, and write its mask in white."""
    talk = talk_config()
    with plain_errors(talk, output):
        terminal, config, checkpoint = Terminal(talk, output), edit_config(), model_config()
        require_difference(config)
        target = target_for(output, Path(picture).stem.strip("-"), "mask")
        check_targets([target, heatmap, overlay, cutout], overwrite=overwrite, places=[output])
        source = read_picture(picture)
        if cutout is not None:
            check_see_through(cutout, source, overwrite=overwrite)
        masks = read_masks((None, mask_add, mask_subtract), source)
        note_idle(context, terminal, idle_settings(config))
        model = open_model(checkpoint, terminal, draws=False)

        from ..session import Session

        with terminal.progress({"mask": 1}) as report:
            result = Session(model, source).mask(config, masks, report)
        write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
        write_views(result, heatmap, overlay, cutout, overwrite=overwrite)
        said = f" (seed {result.config.seed}). The mask covers {result.coverage:.1%} of the picture."
        terminal.finish(result, target, said)


def write_views(
    result: "MaskResult", heatmap: Path | None, overlay: Path | None, cutout: Path | None, *, overwrite: bool
) -> None:
    """The heat in colours, and the picture with the mask on it and cut out by it, in its colour profile."""
    from ..images import sheets
    from ..images.write import save_image

    picture = result.picture
    if heatmap is not None:
        save_image(heatmap, sheets.heat_to_image(result.heat), overwrite=overwrite)
    if overlay is not None:
        save_image(overlay, sheets.overlay(picture, result.mask), overwrite=overwrite)
    if cutout is not None:
        save_image(cutout, sheets.cutout(picture, result.mask), picture=picture, overwrite=overwrite)


def check_see_through(target: Path, picture: "Picture", *, overwrite: bool) -> None:
    """Refuse a format without transparency for a cutout."""
    from PIL import Image

    from ..images.write import check_target

    cut = replace(picture, alpha=Image.new("L", picture.rgb.size))
    check_target(target, overwrite=overwrite, picture=cut)
