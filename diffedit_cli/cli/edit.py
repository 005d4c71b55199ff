"""diffedit edit"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import DiffeditError
from ..settings import (
    EditConfig,
    FilmConfig,
    ModelConfig,
    TalkConfig,
    filled_in,
    flatten,
    idle_film,
    idle_settings,
)
from .failures import Failures
from .files import make_folder, write_picture
from .films import Film, there_and_back, write_film
from .idle import note_idle
from .jobs import Group, Job, Order, Refuse, check_film, check_words, find_jobs, ready
from .options import (
    AddMask,
    DryRun,
    NoMetadata,
    Output,
    Overwrite,
    PictureFiles,
    Queries,
    SeedCount,
    Seeds,
    SubtractMask,
    UseMask,
    each_seed,
    fast_option,
    paper_option,
    with_flags,
)
from .session import open_model, own_defaults, require_suited, spare_own_steps, unknown_words
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from PIL import Image

    from ..results import Changed, EditResult

Drawn = TypeVar("Drawn", bound="Changed")
Together = Annotated[  # what `rerun` passes on: row and number of the pictures of the batch
    tuple[int, int], typer.Option("--together", hidden=True)
]


@with_flags(
    without=("query", "next_queries", "seed"),
    edit_config=EditConfig,
    film_config=FilmConfig,
    model_config=ModelConfig,
    talk_config=TalkConfig,
)
def edit(
    context: typer.Context,
    pictures: PictureFiles,
    query: Queries = [],  # noqa: B006 Typer makes a new one
    seed: Seeds = [],  # noqa: B006
    seeds: SeedCount = 1,
    recursive: Annotated[
        bool,
        typer.Option(
            "-r",
            "--recursive/--no-recursive",
            help="Take the pictures in subfolders too.",
            rich_help_panel="Files",
        ),
    ] = False,
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing/--no-skip-existing",
            help="Skip results that already exist.",
            rich_help_panel="Files",
        ),
    ] = False,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Also write input, heat map, mask and result side by side. For several results: a folder.",
            rich_help_panel="Files",
        ),
    ] = None,
    save_mask: Annotated[
        Path | None,
        typer.Option(
            help="Also write the mask, including its room. For several results: a folder.",
            rich_help_panel="Files",
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
    paper: Annotated[bool, paper_option()] = False,
    dry_run: DryRun = False,
    together: Together = (0, 1),
    *,
    edit_config: Callable[..., EditConfig],
    film_config: Callable[..., FilmConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Change one object in a picture by naming it, and leave every other pixel as it was."""
    talk = talk_config()
    with plain_errors(talk, output):
        terminal, checkpoint = Terminal(talk, output), model_config()
        own, chosen = own_defaults(checkpoint), each_seed(seed, seeds)
        configs = each_config(spare_own_steps(edit_config(), context, own), query, chosen)
        config = filled_in(configs[0], own)
        require_suited(checkpoint, inversion=config.encoding, spacing=config.step_spacing)
        places = output, grid, save_mask, (mask, mask_add, mask_subtract), animate
        order = Order(*places, film_config(), overwrite, skip_existing, not no_metadata)
        check_words(pictures, configs, order, config.encoding)
        jobs = find_jobs(pictures, configs, order, recursive=recursive)
        check_film(order, config)
        note_idle(context, terminal, what_does_nothing(config, order, jobs))
        failures, jobs = Failures(terminal, len(jobs)), without_existing(jobs, order, terminal)
        if dry_run:
            return preview(jobs, order, config, checkpoint, failures, terminal)
        if not jobs:
            return

        from ..api import animate_edit, edit_each

        model, (row, rows) = functools.cache(lambda: open_model(checkpoint, terminal)), together
        for group in ready(jobs, order, failures, refuser(checkpoint, config, order, is_dry=False)):
            loaded, wanted = model(), group.pictures * rows
            units = forwards(filled_in(config, loaded.own_defaults), group, order)
            with terminal.progress(units) as report:
                given: dict[str, Any] = {"mask": group.masks, "report": report}
                if order.animate is None:
                    edited = edit_each(loaded, wanted, group.configs, **given)
                    outcomes = ((one, None) for one in islice(edited, row, None))
                else:
                    outcomes = [animate_edit(loaded, wanted[0], configs[0], order.film.frames, **given)]
                for job, (outcome, frames) in zip(group.jobs, outcomes, strict=False):
                    with failures.of(job.picture):
                        finish(job, outcome, frames, order, units, terminal)
        failures.end()


def each_config(usual: EditConfig, queries: list[str], seeds: list[int]) -> list[EditConfig]:
    """The settings of each result: each query, or all of them for the objects in turn, with each seed."""
    texts = [queries] if usual.per_object and queries else [[text] for text in dict.fromkeys(queries or [""])]
    return [
        replace(usual, query=first, next_queries=tuple(rest), seed=seed)
        for first, *rest in texts
        for seed in seeds
    ]


def what_does_nothing(config: EditConfig, order: Order, jobs: list[Job]) -> dict[str, str]:
    """The flags of `edit` that have no effect in this run, each with the reason."""
    has_folder = any(job.folder is not None for job in jobs)
    return {
        **({} if has_folder else {"recursive": "without a folder of pictures"}),
        **idle_settings(config, has_mask=order.masks[0] is not None, has_areas=any(order.masks)),
        **idle_film(order.animate is not None),
    }


def refuser(checkpoint: ModelConfig, config: EditConfig, order: Order, *, is_dry: bool) -> Refuse:
    """What refuses a picture that the model cannot edit, as far as is known; config: with its own filled in.

    SettingError: it can make no film.
    """
    from ..models import foresee
    from ..session import check_edit, require_mixing

    model = foresee(checkpoint, is_dry=is_dry)
    if model is None:
        return lambda picture, masks: None
    if order.animate is not None:
        require_mixing(model)
    return lambda picture, masks: check_edit(model, config, picture.rgb.size, has_mask=masks.use is not None)


def without_existing(jobs: list[Job], order: Order, terminal: Terminal) -> list[Job]:
    """The jobs; with --skip-existing only those whose results do not exist yet."""
    if not order.skip_existing:
        return jobs
    skipped = [job.target for job in jobs if job.target and os.path.lexists(job.target)]
    for target in skipped:
        terminal.result({"output": str(target), "skipped": True}, [])
    if skipped:
        terminal.say(f"Skipped {len(skipped)} of {len(jobs)} results, which exist already.")
    return [job for job in jobs if job.target not in skipped]


def forwards(config: EditConfig, group: Group, order: Order) -> dict[str, int]:
    """The forward passes of each stage of a group; config: with the model's own values filled in."""
    from ..core.costs import batch_forwards

    return batch_forwards(
        config,
        len(group.pictures),
        len(group.configs),
        search=order.masks[0] is None,
        frames=0 if order.animate is None else order.film.frames,
    )


def preview(
    jobs: list[Job],
    order: Order,
    config: EditConfig,
    checkpoint: ModelConfig,
    failures: Failures,
    terminal: Terminal,
) -> None:
    """Say what would be done; files, masks, words and the model are checked, and no network is loaded."""
    from ..models import check_parts

    units: Counter[str] = Counter()
    outputs: list[str] = []
    put_together = functools.cache(lambda: check_parts(checkpoint))
    groups = ready(jobs, order, failures, refuser(checkpoint, config, order, is_dry=True))
    for group in (one for several in groups for one in several.each()):
        put_together()
        units.update(forwards(config, group, order))
        outputs += [str(job.target or "-") for job in group.jobs]
    if notice := unknown_words(checkpoint, config.ref, *dict.fromkeys(job.config.query for job in jobs)):
        terminal.warn(notice)
    stages = ", ".join(f"{stage} {count}" for stage, count in units.items())
    each = "; the search runs once, the rest once for each object" if config.per_object else ""
    cost = f"{units.total()} forward passes: {stages}{each}." if units else "There is nothing to do."
    facts = {"model": checkpoint.model, "forwards": dict(units), "notices": [notice] if notice else []}
    if failures.results == 1:
        facts["output"] = "".join(outputs)
        lines = [
            f"Would change {config.ref or 'whatever differs'} to {job.config.query or 'whatever comes'} in "
            f"{job.picture} with {checkpoint.model}. The result would go to {job.target or 'stdout'}."
            for job in jobs
        ]
    else:
        facts["outputs"] = outputs
        lines = [f"Would write {len(outputs)} pictures with {checkpoint.model}:", *outputs]
    terminal.result(facts, [*lines, cost])
    failures.end()


def finish(
    job: Job,
    outcome: "EditResult | DiffeditError",
    frames: "Iterator[Image.Image] | None",
    order: Order,
    units: dict[str, int],
    terminal: Terminal,
) -> None:
    """Write one result with all that goes with it, and say where it is; if it is an error, raise it."""
    if isinstance(outcome, DiffeditError):
        raise outcome
    result = noted(outcome, job.target)
    write_picture(job.target, result.save, overwrite=order.overwrite, metadata=order.metadata)
    write_extras(result, job, overwrite=order.overwrite)
    film = None if frames is None else write_film_of(result, frames, order)
    objects = f" {len(result.objects)} objects were edited." if result.config.per_object else ""
    said = outcome_of(result, job.target, objects)
    terminal.finish(result, job.target, said, **(film.facts() if film else {}))
    if film:
        terminal.say(f"{film.sentence()}; {units['decode']} forward passes for each that was drawn.")
        film.end()


def outcome_of(result: "Changed", target: Path | None, objects: str = "") -> str:
    """What the line that names the file goes on to say."""
    from ..images.write import is_lossless

    when = "" if target is None or is_lossless(target) else " before the encoding"
    return (
        f" (seed {result.config.seed}).{objects} The mask covers {result.coverage:.1%} of the picture; "
        f"outside it {result.changed_outside} pixels changed{when}."
    )


def noted(result: Drawn, target: Path | None) -> Drawn:
    """The same result with notes on what its file does not hold of the input."""
    from ..images.write import is_lossless, losses

    if target is None:
        return result
    notices = losses(target, result.picture)
    if not is_lossless(target):
        notices += (
            f"{target.suffix[1:].upper()} stores pixels approximately: outside the mask, {target} differs "
            "a little from the input. A .png, .webp or .tiff keeps those pixels.",
        )
    return replace(result, notices=(*result.notices, *notices))


def write_extras(result: "Changed", job: Job, *, overwrite: bool) -> None:
    """The picture of all stages and the mask, if they were asked for."""
    from ..images import sheets
    from ..images.write import save_image

    if job.mask is not None:
        make_folder(job.mask.parent)
        save_image(job.mask, result.mask, overwrite=overwrite)
    if job.grid is not None:
        make_folder(job.grid.parent)
        before, after = sheets.shown(result.picture), sheets.shown(result.picture, result.image)
        columns = [("input", before), ("mask", result.mask), ("result", after)]
        if result.heat is not None:
            columns.insert(1, ("heat", sheets.heat_to_image(result.heat)))
        save_image(job.grid, sheets.grid(columns), overwrite=overwrite)


def write_film_of(result: "EditResult", frames: "Iterator[Image.Image]", order: Order) -> Film:
    """Write the film of an edit; after Ctrl-C what there is of it."""
    assert order.animate is not None
    return write_film(
        there_and_back(frames) if order.film.loop else frames,
        order.animate,
        fps=order.film.fps,
        overwrite=order.overwrite,
        settings={**result.settings(), **flatten(order.film)} if order.metadata else None,
    )
