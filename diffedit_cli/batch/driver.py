"""A whole batch: what was asked for, the parts that are left, the engine that does them, and the final
step."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from ..errors import SettingError
from ..settings import EditConfig, ModelConfig, require_query
from .engines import local, ray
from .manifest import config_of, read_rows
from .parts import Done, Job, Task
from .plan import FILE, Format, Plan, check_same, identity, make_plan, parts_of, stored_plan
from .records import Summary, done_parts, is_ok, merge, read_tables
from .storage import Store, absolute, is_url, opened

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Batch:
    """Edits of all rows of a manifest, or of all pictures of a folder, into `output`.

    source: a folder, or a .jsonl, .csv or .parquet file. output: a folder. masks: for a folder, folders with
    masks under `mask`, `mask_add`, `mask_subtract`. All can be URLs that fsspec knows. config: the settings
    for rows that name none; its seed is hashed with each id. rows_per_part: None means that of an earlier run
    into `output`, or otherwise 64 parts of at most 1000 rows each.
    """

    source: str
    output: str
    config: EditConfig
    checkpoint: ModelConfig = field(default_factory=ModelConfig)
    masks: Mapping[str, str] = field(default_factory=dict)
    format: Format = "folder"
    rows_per_part: int | None = None

    @cached_property
    def store(self) -> Store:
        return Store(absolute(self.output))

    @property
    def base(self) -> str:
        """The folder that the paths in rows are relative to."""
        source = absolute(self.source)
        fs, path = opened(source)
        return source if fs.isdir(path) else source.rsplit("/", 1)[0]

    def plan(self, *, read_model: bool = True) -> Plan:
        """Read the manifest, and check it against the plan of an earlier run into the same folder.

        read_model: also hash the checkpoint, which may have to be fetched. SettingError: the manifest cannot
        be used as a whole, or the earlier run differs.
        """
        self._check_source()
        before = stored_plan(self.store)
        size = self.rows_per_part or (before and before.rows_per_part)
        model = identity(self.checkpoint) if read_model else before.model if before else {}
        plan = make_plan(absolute(self.source), self._masks(), self.config, model, self.format, size)
        if before is not None:
            check_same(before, plan, self.output)
        return plan

    def left(self, plan: Plan, *, retry_failed: bool = False) -> list[int]:
        """The parts that are not done; with `retry_failed` also those with rows that failed."""
        done = done_parts(self.store)
        failed = self._failed(sorted(done)) if retry_failed else {}
        return [number for number in range(plan.parts) if number not in done or number in failed]

    def run(
        self,
        plan: Plan,
        parts: list[int],
        *,
        engine: Engine = "local",
        workers: int | None = None,
        address: str | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Done]:
        """Do these parts; each is yielded when it is done, in any order. tick: called after each row.

        Raises DiffeditError for errors that stop the whole batch; a row that fails does not.
        """
        for folder in ("", "data", "meta", "running"):  # which workers share, so none of them may clean it
            self.store.clean(folder)
        if not parts:
            return
        self.store.write(FILE, plan.text().encode())
        checkpoint = replace(self._checkpoint(), backend=plan.model["backend"])
        job = Job(self.store.url, self.base, self.format, self._config(), checkpoint)
        wanted = set(parts)
        numbered = parts_of(absolute(self.source), self._masks(), plan)
        tasks = (Task(number, rows) for number, rows in numbered if number in wanted)
        if engine == "ray":
            yield from ray.run(job, tasks, workers, len(parts), address)
            return
        count = min(workers or local.usual_workers(self.checkpoint.device), len(parts))
        if count > 1 and self.store.url.startswith("memory:"):
            raise SettingError("memory:// belongs to one process.", "Use --workers 1, or another place.")
        yield from local.run(job, tasks, count, tick)

    def finish(self, plan: Plan) -> Summary:
        """Write metadata.parquet and failures.jsonl from all parts that are done."""
        return merge(self.store, list(range(plan.parts)))

    def forwards(self, own: Mapping[str, float]) -> int:
        """The most forward passes that all rows can take; own: the model's own defaults."""
        from ..core.costs import edit_forwards
        from ..settings import filled_in

        kinds = Counter[str]()
        examples: dict[str, Any] = {}
        for row in read_rows(absolute(self.source), self._masks()):
            others = {k: v for k, v in row.settings.items() if k not in ("ref", "query", "seed")}
            texts = [bool(row.settings.get(key, getattr(self.config, key))) for key in ("ref", "query")]
            kind = repr((sorted(others.items(), key=str), texts, "mask" in row.masks))
            kinds[kind] += 1
            examples.setdefault(kind, row)
        total = 0
        for kind, count in kinds.items():
            row = examples[kind]
            try:
                config = filled_in(config_of(row, self.config), own)
            except SettingError:
                continue  # these rows fail at once
            total += count * sum(edit_forwards(config, search="mask" not in row.masks).values())
        return total

    def _failed(self, numbers: list[int]) -> set[int]:
        tables = zip(numbers, read_tables(self.store, numbers), strict=True)
        return {number for number, table in tables if not all(is_ok(table))}

    def _masks(self) -> dict[str, str]:
        return {name: absolute(folder) for name, folder in self.masks.items()}

    def _config(self) -> EditConfig:
        return replace(self.config, seed=self.config.seed or 0)

    def _checkpoint(self) -> ModelConfig:
        """The checkpoint with absolute paths: a worker may start elsewhere."""
        here = self.checkpoint
        model = here.model if here.model == "embedded" else absolute_if_there(here.model)
        files = {name: tuple(map(os.path.abspath, getattr(here, name))) for name in ("lora", "embedding")}
        texts = tuple(map(absolute_if_there, here.text_encoder))
        vae = here.vae and absolute_if_there(here.vae)
        return replace(here, model=model, vae=vae, text_encoder=texts, **files)

    def _check_source(self) -> None:
        fs, path = opened(absolute(self.source))
        if not fs.isdir(path):
            return
        if "mask" not in self.masks:
            require_query(self.config)
        if is_url(self.store.url) == is_url(self.source) and f"{self.store.root}/".startswith(f"{path}/"):
            raise SettingError(
                "The results would go into the folder of the pictures.", "Choose another folder with -o."
            )


def absolute_if_there(name: str) -> str:
    return os.path.abspath(name) if os.path.exists(name) else name
