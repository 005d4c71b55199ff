"""diffedit edit"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..settings import EditConfig, FilmConfig, ModelConfig, TalkConfig, require_query
from .files import check_targets, read_picture, target_for, write_picture
from .many import edit_many
from .options import (
    AddMask,
    DryRun,
    NoMetadata,
    Output,
    Overwrite,
    PictureFiles,
    Queries,
    SubtractMask,
    UseMask,
    fast_option,
    with_flags,
)
from .order import Order, cost, outcome, write_extras
from .session import open_model
from .terminal import Terminal, plain_errors


@with_flags(
    without=("query",),
    edit_config=EditConfig,
    film_config=FilmConfig,
    model_config=ModelConfig,
    talk_config=TalkConfig,
)
def edit(
    pictures: PictureFiles,
    query: Queries = [],  # noqa: B006 Typer makes a new one
    output: Output = None,
    overwrite: Overwrite = False,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Also write input, heat, mask and result side by side. A folder, for several results.",
            rich_help_panel="Files",
        ),
    ] = None,
    save_mask: Annotated[
        Path | None,
        typer.Option(
            help="Also write the mask, with its room. A folder, for several results.", rich_help_panel="Files"
        ),
    ] = None,
    animate: Annotated[
        Path | None,
        typer.Option(
            help="Also write a film from the picture to its edit: .mp4, .gif, .webp, or a folder of frames.",
            rich_help_panel="Film",
        ),
    ] = None,
    no_metadata: NoMetadata = False,
    mask: UseMask = None,
    mask_add: AddMask = None,
    mask_subtract: SubtractMask = None,
    fast: Annotated[bool, fast_option()] = False,
    dry_run: DryRun = False,
    *,
    edit_config: Callable[..., EditConfig],
    film_config: Callable[..., FilmConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Change one thing in a picture by naming it, and leave every other pixel as it was."""
    talk = talk_config()
    with plain_errors(talk, output):
        configs = [edit_config({"query": one}) for one in dict.fromkeys(query)] or [edit_config()]
        if mask is None:
            for config in configs:
                require_query(config)
        order = Order(
            pictures=list(dict.fromkeys(pictures)),
            queries=[config.query for config in configs],
            config=configs[0],
            checkpoint=model_config(),
            output=output,
            overwrite=overwrite,
            metadata=not no_metadata,
            grid=grid,
            save_mask=save_mask,
            masks=(mask, mask_add, mask_subtract),
            animate=animate,
            film=film_config(),
            dry_run=dry_run,
        )
        run = edit_one if len(order.pictures) * len(configs) == 1 else edit_many
        run(order, Terminal(talk, output))


def edit_one(order: Order, terminal: Terminal) -> None:
    """One picture, one query."""
    config, checkpoint, overwrite = order.config, order.checkpoint, order.overwrite
    target = target_for(order.output, Path(order.pictures[0]).stem.strip("-"), config.query)
    source = read_picture(order.pictures[0])
    targets = [target, order.grid, order.save_mask]
    check_targets(targets, overwrite=overwrite, picture=source, film=order.animate)
    order.check_film(source.rgb.size)
    masks, units = order.read_masks(source), order.forwards()
    if order.dry_run:
        terminal.result(
            {"output": str(target or "-"), "model": checkpoint.model, "forwards": units},
            [
                f"Would change {config.ref or 'whatever differs'} to {config.query} in {source.name} "
                f"({source.rgb.width}x{source.rgb.height}) with {checkpoint.model}.",
                f"{cost(units)} The result would go to {target or 'stdout'}.",
            ],
        )
        return
    model = open_model(checkpoint, terminal)

    from ..session import Session

    session = Session(model, source)
    with terminal.progress(units) as report:
        if order.animate is None:
            (result,), frames = session.edit(config, masks, report), None
        else:
            result, frames = session.film(config, order.film.frames, masks, report)
        write_picture(target, result.save, overwrite=overwrite, metadata=order.metadata)
        write_extras(result, order.grid, order.save_mask, overwrite=overwrite)
        film = None if frames is None else order.write_film(frames, result)
    terminal.finish(result, target, outcome(result), **(film.facts() if film else {}))
    if film:
        terminal.say(f"{film.sentence()}; {units['decode']} UNet sample-forwards for each that was drawn.")
        film.end()
