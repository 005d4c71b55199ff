"""`diffedit edit` with several pictures or queries: one load of the model, and one failure ends nothing."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import DiffeditError, ImageError, SettingError
from .files import check_targets, name_for, read_picture, write_picture
from .order import Order, cost, outcome, write_extras
from .session import open_model
from .terminal import Terminal

if TYPE_CHECKING:
    from ..images.read import Picture
    from ..models import DiffusersDenoiser
    from ..results import EditResult

READ_TOGETHER = 8  # pictures held in memory at a time


@dataclass(frozen=True)
class Job:
    """One result: a picture, a query, and the file that it goes to; grid and mask: further files."""

    picture: str
    query: str
    target: Path
    grid: Path | None
    mask: Path | None


def edit_many(order: Order, terminal: Terminal) -> None:
    """Every picture with every query. Exit code 3 where some failed."""
    jobs = name_jobs(order)
    if order.dry_run:
        outputs, units = [str(job.target) for job in jobs], order.forwards()
        facts = {"outputs": outputs, "model": order.checkpoint.model, "forwards": units}
        terminal.result(
            facts, [f"Would write {len(jobs)} pictures with {order.checkpoint.model}:", *outputs, cost(units)]
        )
        return
    for folder in {file.parent for job in jobs for file in (job.target, job.grid, job.mask) if file}:
        make_folder(folder)

    from ..session import random_seed

    seed = random_seed() if order.config.seed is None else order.config.seed
    order = replace(order, config=replace(order.config, seed=seed))
    batch = Batch(order, terminal, functools.cache(lambda: open_model(order.checkpoint, terminal)))
    together = READ_TOGETHER * len(order.queries)
    for start in range(0, len(jobs), together):
        batch.run(jobs[start : start + together])
    if batch.failed:
        terminal.say(f"{batch.failed} of {len(jobs)} results failed; the others were written.")
        raise typer.Exit(3)


def name_jobs(order: Order) -> list[Job]:
    """A file of its own for each result; SettingError where the order does not fit several results."""
    from ..images.write import WRITE_FORMATS

    folders = [Path(order.output or "."), order.grid, order.save_mask]
    if order.output == "-":
        raise SettingError("Several results cannot go to stdout.", "Name a folder with -o.")
    for folder in filter(None, folders):
        if folder.suffix.lower() in WRITE_FORMATS and not folder.is_dir():
            raise SettingError(f"{folder} is one file, but there are several results.", "Name a folder.")
    if len({folder.resolve() for folder in folders if folder}) < len([*filter(None, folders)]):
        raise SettingError(
            "Results, grids and masks would go to one folder.", "Give each a folder of its own."
        )
    if order.animate is not None:
        raise SettingError("A film shows one edit.", "Give one picture and one query with --animate.")
    if len(order.pictures) > 1 and any(order.masks):
        raise SettingError("A mask belongs to one picture.", "Edit the pictures one by one to use masks.")
    jobs: list[Job] = []
    taken: set[str] = set()
    for picture in order.pictures:
        for query in order.queries:
            name = free_name(name_for(Path(picture).stem.strip("-"), query, ""), taken)
            target, grid, mask = (folder and folder / name for folder in folders)
            jobs.append(Job(picture, query, target or Path(name), grid, mask))
    return jobs


def free_name(stem: str, taken: set[str]) -> str:
    """A PNG's name that no other result has, also where capitals do not count: horse.png, horse-2.png."""
    number, name = 1, f"{stem}.png"
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name.lower())
    return name


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Choose another one with -o."
        ) from error


class Batch:
    """Runs jobs and counts those that failed."""

    def __init__(self, order: Order, terminal: Terminal, model: "Callable[[], DiffusersDenoiser]") -> None:
        self.order, self.terminal, self.model = order, terminal, model
        self.failed = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """Jobs of a few pictures, in order; pictures that want the same queries are edited together."""
        ready: list[tuple[Picture, list[Job]]] = []
        for file, group in groupby(jobs, lambda job: job.picture):
            if (checked := self.check(file, list(group))) is not None:
                ready.append(checked)
        for queries, pairs in groupby(ready, lambda pair: [job.query for job in pair[1]]):
            self.edit(list(pairs), queries)

    def check(self, file: str, jobs: list[Job]) -> "tuple[Picture, list[Job]] | None":
        """The picture, and those of its jobs whose results can be written."""
        try:
            picture = read_picture(file)
        except DiffeditError as error:
            self.fail(error, file, len(jobs))
            return None
        good: list[Job] = []
        for job in jobs:
            try:
                targets = [job.target, job.grid, job.mask]
                check_targets(targets, overwrite=self.order.overwrite, picture=picture)
                good.append(job)
            except DiffeditError as error:
                self.fail(error, file)
        return (picture, good) if good else None

    def edit(self, pairs: "list[tuple[Picture, list[Job]]]", queries: list[str]) -> None:
        from ..session import edit_images

        pictures = [picture for picture, _ in pairs]
        model, masks = self.model(), self.order.read_masks(pictures[0])
        with self.terminal.progress(self.order.forwards()) as report:
            results = edit_images(model, pictures, self.order.config, queries, mask=masks, report=report)
            jobs = (job for _, jobs in pairs for job in jobs)
            for job, result in zip(jobs, results, strict=True):
                self.finish(job, result)

    def finish(self, job: Job, result: "EditResult | DiffeditError") -> None:
        try:
            if isinstance(result, DiffeditError):
                raise result
            overwrite = self.order.overwrite
            write_picture(job.target, result.save, overwrite=overwrite, metadata=self.order.metadata)
            write_extras(result, job.grid, job.mask, overwrite=overwrite)
            self.terminal.finish(result, job.target, outcome(result))
        except DiffeditError as error:
            self.fail(error, job.picture)

    def fail(self, error: DiffeditError, file: str, results: int = 1) -> None:
        self.failed += results
        self.terminal.fail(error, file)
