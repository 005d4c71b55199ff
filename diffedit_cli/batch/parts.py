"""One part: its rows are edited one by one, its files written, and finally the record that it is done."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import DiffeditError, ImageError
from ..images.masks import Masks, load_mask
from ..images.read import Picture, load_image
from ..images.write import save_image
from ..settings import EditConfig, ModelConfig, flatten
from .formats import LAYOUTS, Files, names_of
from .manifest import Row, config_of
from .plan import Format
from .records import Record, read_table, write_records
from .storage import Store, join, on_this_machine

if TYPE_CHECKING:
    from ..models import DiffusersDenoiser
    from ..results import EditResult
    from ..session import Session

CAREFUL_FROM = 3  # the attempt from which on a part notes each row that it begins


@dataclass(frozen=True)
class Job:
    """What a worker needs to know. base: the folder that the manifest's paths start from."""

    output: str
    base: str
    format: Format
    config: EditConfig
    checkpoint: ModelConfig


@dataclass(frozen=True)
class Task:
    """A part to do. attempt: the first, or another one after its worker's death."""

    number: int
    rows: tuple[Row, ...]
    attempt: int = 1


@dataclass(frozen=True)
class Done:
    """A part that is done: the number of its rows, how many failed, forward passes, and seconds."""

    part: int
    rows: int
    failed: int
    forwards: int
    seconds: float


def load(checkpoint: ModelConfig) -> "DiffusersDenoiser":
    from ..models import load_model

    settings = flatten(checkpoint)
    return load_model(settings.pop("model"), **settings)


def run_part(job: Job, model: "DiffusersDenoiser", task: Task, tick: Callable[[], None]) -> Done:
    """Do the rows of a part that have no result yet, and replace what is stored of it.

    tick: called after each row. Rows do not depend on each other: what is wrong with one is its own failure.
    Raises what keeps results from being written, such as a full disk.
    """
    start, forwards, store = time.perf_counter(), model.forwards, Store(job.output)
    before = {r["id"]: r for r in read_table(store, task.number).to_pylist() if r["status"] == "ok"}
    fatal = Fatal(store, task)
    layout, editor, records = LAYOUTS[job.format](store, task.number), Editor(job, model), list[Record]()
    for row, name in zip(task.rows, names_of([row.id for row in task.rows]), strict=True):
        record = before.get(row.id)
        if record is not None:
            layout.keep(record, name)
        else:
            fatal.begin(row)
            record, files = editor.attempt(row, fatal.rows)
            if files is not None:
                layout.add(record, name, files)
            tick()
        records.append(record)
    layout.close()
    write_records(store, task.number, records)
    fatal.forget()
    failed = sum(record["status"] != "ok" for record in records)
    return Done(
        task.number, len(records), failed, model.forwards - forwards, round(time.perf_counter() - start, 3)
    )


def is_fatal(error: Exception) -> bool:
    """Whether nothing works in a process after this error of its GPU."""
    return type(error).__name__ == "AcceleratorError"


class Fatal:
    """The rows at which a part's worker died: recorded from attempt CAREFUL_FROM on, and then skipped."""

    def __init__(self, store: Store, task: Task) -> None:
        self.store, self.name = store, f"running/part-{task.number:06}.json"
        self.is_careful = task.attempt >= CAREFUL_FROM
        self.rows: set[str] = set(json.loads(store.read(self.name) or "[]")) if self.is_careful else set()

    def begin(self, row: Row) -> None:
        if self.is_careful and row.id not in self.rows:
            self.store.write(self.name, json.dumps([*sorted(self.rows), row.id]).encode())

    def forget(self) -> None:
        if self.is_careful:
            self.store.remove(self.name)


class Editor:
    """Edits row after row; consecutive rows with the same picture share what a Session shares."""

    def __init__(self, job: Job, model: "DiffusersDenoiser") -> None:
        self.job, self.model = job, model
        self.latest: tuple[str, Session] | None = None

    def attempt(self, row: Row, fatal: set[str]) -> tuple[Record, Files | None]:
        """The record of a row, and the PNGs of its result and its mask if there are any."""
        facts: Record = {"id": row.id, "source": row.image, **texts_of(row, self.job.config)}
        try:
            if row.id in fatal:
                raise DiffeditError(
                    "The worker process died while it edited this row.",
                    "Try a smaller picture or --size: memory may be short.",
                )
            result = self.edit(row)
            files = png(result.save), png(lambda out: save_image(out, result.mask))
            return {**facts, **facts_of(result, files)}, files
        except DiffeditError as error:
            failure = error
        except Exception as error:
            if is_fatal(error):
                raise
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            failure = DiffeditError(
                f"This is a bug in diffedit ({what}).", "Please report it with the row and the picture."
            )
        self.latest = None
        return {**facts, "status": "failed", "error": failure.message, "hint": failure.hint}, None

    def edit(self, row: Row) -> "EditResult":
        config = config_of(row, self.job.config)
        session = self.session(row)
        return session.edit(config, self.masks(row, session.pictures[0]))[0]

    def session(self, row: Row) -> "Session":
        from ..session import Session

        if not row.image:
            raise ImageError("The row has no image.", "Give the row the path of a picture as `image`.")
        if self.latest is None or self.latest[0] != row.image:
            with on_this_machine(join(self.job.base, row.image)) as path:
                self.latest = row.image, Session(self.model, load_image(path))
        return self.latest[1]

    def masks(self, row: Row, picture: Picture) -> Masks:
        use, add, subtract = (
            self.mask(row.masks.get(name), picture) for name in ("mask", "mask_add", "mask_subtract")
        )
        return Masks(use, add, subtract)

    def mask(self, path: str | None, picture: Picture) -> Image.Image | None:
        if path is None:
            return None
        if not path:
            raise ImageError(f"There is no mask for {picture.name}.", "Name the mask after the picture.")
        with on_this_machine(join(self.job.base, path)) as file:
            return load_mask(file, picture.rgb.size)


def texts_of(row: Row, base: EditConfig) -> dict[str, str]:
    return {key: str(row.settings.get(key, getattr(base, key))) for key in ("ref", "query")}


def png(save: Callable[[io.BytesIO], None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def facts_of(result: "EditResult", files: Files) -> dict[str, Any]:
    image, mask = (hashlib.sha256(data).hexdigest() for data in files)
    return {
        "source_sha256": result.picture.sha256,
        "seed": result.config.seed,
        "coverage": result.coverage,
        "changed_outside": result.changed_outside,
        "sha256": image,
        "mask_sha256": mask,
        "notices": " ".join(result.notices),
        "status": "ok",
    }
