"""What `diffedit edit` was asked for: one job per result, with the files that it reads and writes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, SettingError
from ..settings import EditConfig, FilmConfig, Inversion, require_query, require_way_back
from .failures import Failures
from .files import (
    check_targets,
    is_folder,
    keep_off_stdout,
    name_for,
    picture_suffixes,
    read_masks,
    read_picture,
)

if TYPE_CHECKING:
    from ..images.masks import Masks
    from ..images.read import Picture

READ_TOGETHER = 8  # pictures held in memory at a time
Refuse = Callable[["Picture", "Masks"], None]


@dataclass(frozen=True)
class Order:
    """Where results go, and how they are written.

    masks: the mask, what is added to it, and what is subtracted; each a file, or a folder of files that are
    named after the pictures.
    """

    output: str | None
    grid: Path | None
    save_mask: Path | None
    masks: tuple[Path | None, Path | None, Path | None]
    animate: Path | None
    film: FilmConfig
    overwrite: bool
    skip_existing: bool
    metadata: bool


@dataclass(frozen=True)
class Job:
    """One result: a picture, its settings, and the files that the result, the grid and the mask go to.

    folder: where in the folder that was named the picture lies; None: it was named itself. target: None is
    stdout.
    """

    picture: str
    folder: Path | None
    config: EditConfig
    target: Path | None
    grid: Path | None
    mask: Path | None


@dataclass(frozen=True)
class Group:
    """Pictures that are edited together, and the jobs of each, all with the same settings.

    masks: those of a single picture.
    """

    pictures: "list[Picture]"
    jobs: list[Job]
    masks: "Masks"

    @property
    def configs(self) -> list[EditConfig]:
        return [job.config for job in self.jobs[: len(self.jobs) // len(self.pictures)]]

    def each(self) -> "Iterator[Group]":
        """Each of the pictures as a group of its own."""
        count = len(self.configs)
        for number, picture in enumerate(self.pictures):
            yield Group([picture], self.jobs[number * count : (number + 1) * count], self.masks)


def check_words(
    places: Sequence[str], configs: Sequence[EditConfig], order: Order, encoding: Inversion
) -> None:
    """SettingError for a picture that is a word meant for a flag, for texts that make no mask, and for seeds
    that make no difference. encoding: how the pictures are turned into noise."""
    for place in places:
        is_word = Path(place).name == place != "-" and not Path(place).suffix
        if is_word and not os.path.exists(place):
            raise SettingError(
                f"There is no file {place}.",
                "A text needs a flag: --ref names what is there, --query what replaces it.",
            )
    if order.masks[0] is None:
        for config in configs:
            require_query(config)
    elif len({one.seed for one in configs}) > 1 and encoding not in ("noise", "flowedit"):
        raise SettingError(
            "With --mask every seed gives the same picture: the drawing starts from the picture itself.",
            "Add --inversion noise, or leave out --mask, so that each seed finds a mask of its own.",
        )
    if order.skip_existing and (order.overwrite or order.output == "-"):
        other = "--overwrite" if order.overwrite else "-o -"
        raise SettingError(f"--skip-existing cannot be used with {other}.", "Leave one of the two out.")


def find_jobs(
    places: Sequence[str], configs: Sequence[EditConfig], order: Order, *, recursive: bool
) -> list[Job]:
    """The jobs of each picture under each of the settings, each with files of its own; of a folder its
    pictures.

    What an earlier run made in such a folder is no input. SettingError where the order does not fit several
    results, ImageError for a folder without pictures.
    """
    found: dict[str, Path | None] = {}
    for place in places:
        found |= in_folder(Path(place), order, recursive) if os.path.isdir(place) else {place: None}
    if several := len(found) * len(configs) > 1:
        check_several(len(found), order)
    has_seeds = len({config.seed for config in configs}) > 1
    jobs: list[Job] = []
    taken: set[Path] = set()
    for picture, folder in found.items():
        for config in configs:
            queries = dict.fromkeys((config.query, *config.next_queries))
            end = f"seed-{config.seed}" if has_seeds else ""
            stem = name_for(Path(picture).stem.strip("-"), " ".join(queries), "", end)
            name = free_name(folder or Path(), stem, taken)
            target, grid, mask = (
                file_in(place, name, several) for place in (order.output or ".", order.grid, order.save_mask)
            )
            jobs.append(Job(picture, folder, config, target if order.output != "-" else None, grid, mask))
    results = {job.target.resolve() for job in jobs if job.target}
    return [
        job
        for job in jobs
        if (job.folder is None and not order.skip_existing) or Path(job.picture).resolve() not in results
    ]


def file_in(place: str | Path | None, name: Path, several: bool) -> Path | None:
    """The file of one result: the place itself, or one in it."""
    if place is None:
        return None
    return Path(place) / name if several or is_folder(str(place)) else Path(place)


def in_folder(folder: Path, order: Order, recursive: bool) -> dict[str, Path | None]:
    """The pictures in a folder, but for those in a folder of results in it; and where in it each lies."""
    places = [Path(place).resolve() for place in (order.output, order.grid, order.save_mask) if place]
    places = [place for place in places if place != folder.resolve()]
    suffixes = picture_suffixes()
    found = {
        str(path): path.parent.relative_to(folder)
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not any(path.resolve().is_relative_to(place) for place in places)
    }
    if not found:
        hint = "Check its name." if recursive else "Add --recursive to search its subfolders too."
        raise ImageError(f"The folder {folder} holds no pictures.", hint)
    return {**found}


def check_several(pictures: int, order: Order) -> None:
    """SettingError where the order does not fit several results."""
    from ..images.write import WRITE_FORMATS

    folders = [Path(place) for place in (order.output or ".", order.grid, order.save_mask) if place]
    keep_off_stdout(order.output)
    for folder in folders:
        if folder.suffix.lower() in WRITE_FORMATS and not folder.is_dir():
            raise SettingError(f"{folder} is one file, but there are several results.", "Name a folder.")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SettingError(
            "Results, grids and masks would go to one folder.", "Give each a folder of its own."
        )
    if order.animate is not None:
        raise SettingError("A film shows one edit.", "Give one picture, query and seed with --animate.")
    if pictures > 1 and any(mask and not mask.is_dir() for mask in order.masks):
        raise SettingError(
            "A mask belongs to one picture.", "Give a folder of masks that are named after the pictures."
        )


def free_name(folder: Path, stem: str, taken: set[Path]) -> Path:
    """A PNG's name that no other result has, also where capitals do not count: horse.png, horse-2.png."""
    number, name = 1, folder / f"{stem}.png"
    while Path(str(name).lower()) in taken:
        number += 1
        name = folder / f"{stem}-{number}.png"
    taken.add(Path(str(name).lower()))
    return name


def ready(jobs: Sequence[Job], order: Order, failures: Failures, refuse: Refuse) -> Iterator[Group]:
    """The pictures, read a few at a time, with those of their jobs whose results can be written.

    refuse: raises SettingError for a picture that the model cannot edit.
    """
    of_pictures = [list(group) for _, group in groupby(jobs, lambda job: job.picture)]
    inputs = {Path(job.picture).resolve() for job in jobs}
    for start in range(0, len(of_pictures), READ_TOGETHER):
        checked = [
            group
            for some in of_pictures[start : start + READ_TOGETHER]
            for group in check(some, order, inputs, failures, refuse)
        ]
        if any(order.masks):  # each is edited alone
            yield from checked
            continue
        for _, groups in groupby(checked, lambda group: group.configs):
            first, *rest = groups
            for group in rest:
                first.pictures.extend(group.pictures)
                first.jobs.extend(group.jobs)
            yield first


def check(
    jobs: list[Job], order: Order, inputs: set[Path], failures: Failures, refuse: Refuse
) -> list[Group]:
    """The jobs of one picture that can be done, as one group; none if there are none."""
    groups: list[Group] = []
    with failures.of(jobs[0].picture, len(jobs)):
        picture = read_picture(jobs[0].picture)
        masks = read_masks([mask_for(place, jobs[0]) for place in order.masks], picture)
        refuse(picture, masks)
        group = Group([picture], [], masks)
        for job in jobs:
            with failures.of(job.picture):
                check_job(job, picture, order, inputs)
                group.jobs.append(job)
        if group.jobs:
            groups.append(group)
    return groups


def check_job(job: Job, picture: "Picture", order: Order, inputs: set[Path]) -> None:
    """Refuse a job whose files could not be written after the work, or would replace an input unasked."""
    is_named = order.output is not None and job.target == Path(order.output)
    if job.target and job.target.resolve() in inputs and not is_named:
        raise ImageError(
            f"{job.target} is an input, and the result of {job.picture} would replace it.",
            "Choose a folder for the results with -o.",
        )
    if order.animate is not None:
        from ..images.video import check_film

        check_film(order.animate, fps=order.film.fps, overwrite=order.overwrite, size=picture.rgb.size)
    check_targets(
        [job.target, job.grid, job.mask],
        overwrite=order.overwrite,
        picture=picture,
        film=order.animate,
        places=(order.output, order.grid, order.save_mask),
    )


def check_film(order: Order, config: EditConfig) -> None:
    """Refuse a film that could not be made, before the long work."""
    if order.animate is not None:
        from ..images.video import check_film

        require_way_back(config)
        check_film(order.animate, fps=order.film.fps, overwrite=order.overwrite)


def mask_for(place: Path | None, job: Job) -> Path | None:
    """The file of a mask: the one named, or that of the picture's name in the folder named.

    ImageError: the folder has none of that name, or several.
    """
    if place is None or not place.is_dir():
        return place
    stem, suffixes = Path(job.picture).stem, picture_suffixes()
    for folder in dict.fromkeys((place / (job.folder or ""), place)):
        found = [path for path in files_in(folder) if path.stem == stem and path.suffix.lower() in suffixes]
        if len(found) > 1:
            raise ImageError(
                f"{job.picture} has several masks in {place}: {found[0].name} and {found[1].name}.",
                "Keep one of them.",
            )
        if found:
            return found[0]
    raise ImageError(f"{place} has no mask called {stem}.", "Name each mask after its picture.")


def files_in(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
