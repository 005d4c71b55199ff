"""What a batch was started with, and its parts: rows that are saved together, or not at all."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import SettingError
from ..settings import EditConfig, ModelConfig, flatten, public_name
from .manifest import Row, read_rows
from .storage import Store

FILE = "plan.json"
FEWEST_PARTS, MOST_ROWS = 64, 1000  # where the rows of a part are not given

Format = Literal["folder", "parquet", "webdataset"]


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a batch writes. Two runs into one folder must agree on all of it."""

    diffedit: str
    rows: int
    manifest_sha256: str
    rows_per_part: int
    format: Format
    model: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def parts(self) -> int:
        return -(-self.rows // self.rows_per_part)

    def rows_of(self, number: int) -> int:
        return min(self.rows_per_part, self.rows - number * self.rows_per_part)

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, sort_keys=True)

    def flat(self) -> dict[str, Any]:
        model = {f"model: {key}": value for key, value in self.model.items()}
        facts = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**facts, **model, **self.settings, "model": None, "settings": None}


def make_plan(
    source: str,
    masks: Mapping[str, str],
    config: EditConfig,
    model: Mapping[str, Any],
    format: Format,
    rows_per_part: int | None,
) -> Plan:
    """Read the whole manifest once. model: see `identity`. SettingError: an id twice, or no rows."""
    digest, seen = hashlib.sha256(), set[str]()
    for row in read_rows(source, masks):
        if row.id in seen:
            raise SettingError(f"The id {row.id} appears twice.", "Give each row an id of its own.")
        seen.add(row.id)
        digest.update(row.canonical() + b"\n")
    if not seen:
        raise SettingError(
            f"There is nothing to edit in {source}.", "Give a manifest or a folder with pictures."
        )
    return Plan(
        diffedit=__version__,
        rows=len(seen),
        manifest_sha256=digest.hexdigest(),
        rows_per_part=rows_per_part or min(-(-len(seen) // FEWEST_PARTS), MOST_ROWS),
        format=format,
        model=model,
        settings=flatten(config),
    )


def identity(checkpoint: ModelConfig) -> dict[str, Any]:
    """What identifies a model: the commit of a Hub id, or otherwise a hash of all files that are read."""
    from ..models import backend_of
    from ..models.addons import split
    from ..models.given import source_of, sources_of_texts
    from ..models.sources import hash_of
    from ..models.vae import find_vae

    name, found = checkpoint.model, source_of(checkpoint)
    addons = [
        (Path(given).name, Path(split(given)[0])) for given in (*checkpoint.lora, *checkpoint.embedding)
    ]
    if checkpoint.vae:
        addons.append((public_name(checkpoint.vae), find_vae(checkpoint.vae, offline=checkpoint.offline)))
    texts = zip(checkpoint.text_encoder, sources_of_texts(checkpoint), strict=True)
    version = found.revision or hash_of(found.path)
    return {
        "name": public_name(name),
        "version": version,
        "variant": found.variant,
        "dtype": checkpoint.dtype,
        "backend": backend_of(checkpoint),
        "addons": [
            *(f"{given} {hash_of(path)}" for given, path in addons),
            *(f"{public_name(given)} {one.revision or hash_of(one.path)}" for given, one in texts),
        ],
    }


def stored_plan(store: Store) -> Plan | None:
    """The plan with which an earlier run began `store`. SettingError: it contains something else."""
    text = store.read(FILE)
    if text is None:
        if store.names(""):
            raise SettingError(
                f"{store.url} holds something else, not a batch.", "Choose an empty folder with -o."
            )
        return None
    try:
        return Plan(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"{FILE} in {store.url} was not written by this version.", "Choose another folder with -o."
        ) from error


def check_same(before: Plan, now: Plan, where: str) -> None:
    """SettingError, which names what differs, if a batch was started with something else."""
    old, new = before.flat(), json.loads(json.dumps(now.flat()))
    changed = [
        f"{key} was {old.get(key)} and is {new.get(key)}" for key in new if old.get(key) != new.get(key)
    ]
    if changed:
        raise SettingError(
            f"{where} was begun with something else: {'; '.join(changed)}.",
            "Give the same manifest, settings, model and version, or another folder with -o.",
        )


def parts_of(source: str, masks: Mapping[str, str], plan: Plan) -> Iterator[tuple[int, tuple[Row, ...]]]:
    """The parts by number, each with its rows, one at a time."""
    rows = read_rows(source, masks)
    for number in range(plan.parts):
        yield number, tuple(islice(rows, plan.rows_per_part))
