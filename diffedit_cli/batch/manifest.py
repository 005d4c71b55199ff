"""What is to be edited: the rows of a JSONL, CSV or Parquet file, or the pictures of a folder.

Rows are read as a stream, so a manifest may be larger than the memory. What is wrong with the manifest as a
whole (no id, an id twice, an unknown column) is a SettingError; what is wrong with one row is that row's own
failure, when its turn comes (`config_of`).
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ImageError, SettingError
from ..images.write import WRITE_FORMATS
from ..settings import MAX_SEED, EditConfig, build, flatten, keys, read_lists, unknown_setting
from .storage import is_url, opened

PICTURES = (*WRITE_FORMATS, ".gif")
MASKS = ("mask", "mask_add", "mask_subtract")
KINDS = {key: kind for key, kind, *_ in keys(EditConfig)}
KNOWN = ("id", "image", *MASKS, *KINDS)


@dataclass(frozen=True)
class Row:
    """One edit. image and masks: paths as the manifest has them; settings: those of EditConfig, unchecked."""

    id: str
    image: str
    masks: Mapping[str, str]
    settings: Mapping[str, Any]

    def canonical(self) -> bytes:
        """The same bytes for the same row, whatever file it was read from."""
        values = [self.id, self.image, dict(self.masks), {k: typed(k, v) for k, v in self.settings.items()}]
        return json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode()


def read_rows(source: str, masks: Mapping[str, str] | None = None) -> Iterator[Row]:
    """The rows of a manifest or a folder, in order.

    masks: of a folder, the folders with its masks; each is matched by the picture's name without the suffix.
    """
    fs, path = opened(source)
    suffix = PurePosixPath(path).suffix.lower()
    if fs.isdir(path):
        yield from folder_rows(fs, path, masks or {})
        return
    if suffix not in READERS:
        raise SettingError(
            f"{source} is neither a folder nor .jsonl, .csv or .parquet.", "Give one of these."
        )
    if masks:
        raise SettingError(
            f"{option_names(masks)} needs a folder of pictures.",
            "In a manifest, masks are columns: one mask per row.",
        )
    try:
        for number, values in enumerate(READERS[suffix](fs, path), 1):
            yield to_row(values, f"row {number} of {PurePosixPath(path).name}")
    except FileNotFoundError as error:
        raise ImageError(f"{source} does not exist.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{source} is not UTF-8.", "Save it with that encoding.") from error
    except pa.ArrowInvalid as error:
        raise SettingError(f"{source} is not a Parquet file.", "Write it again.") from error


def option_names(masks: Iterable[str]) -> str:
    return " and ".join("--" + name.replace("_", "-") for name in masks)


def to_row(values: Mapping[str, Any], where: str) -> Row:
    """A row from the values of its columns; empty ones are left out."""
    for key in values:
        if key not in KNOWN:
            raise unknown_setting(key, KNOWN, f", but {where} has it")
    given = {k: v for k, v in values.items() if not (v is None or v == "" or v != v)}  # NaN: pandas' empty
    if "id" not in given:
        raise SettingError(f"There is no id in {where}.", "Give each row an id of its own.")
    return Row(
        id=str(given["id"]),
        image=str(given.get("image", "")),
        masks={name: str(given[name]) for name in MASKS if name in given},
        settings={key: value for key, value in given.items() if key in KINDS},
    )


def jsonl_rows(fs: Any, path: str) -> Iterator[dict[str, Any]]:
    with fs.open(path, "rb") as file, io.TextIOWrapper(file, "utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if not isinstance(values, dict):
                raise SettingError(
                    f"Line {number} of {PurePosixPath(path).name} is not a JSON object.", "Fix that line."
                )
            yield cast(dict[str, Any], values)


def csv_rows(fs: Any, path: str) -> Iterator[dict[str, Any]]:
    with fs.open(path, "rb") as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for values in reader:
            if None in values:
                raise SettingError(
                    f"Line {reader.line_num} of {PurePosixPath(path).name} has more cells than the first "
                    "line.",
                    'Put texts with commas in quotes: "a, b".',
                )
            yield values


def parquet_rows(fs: Any, path: str) -> Iterator[dict[str, Any]]:
    with fs.open(path, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(10_000):
            yield from batch.to_pylist()


READERS = {".jsonl": jsonl_rows, ".csv": csv_rows, ".parquet": parquet_rows}


def folder_rows(fs: Any, root: str, masks: Mapping[str, str]) -> Iterator[Row]:
    """One row per picture; its id is its path in the folder without the suffix, if no other has the same."""
    pictures = files_below(fs, root)
    stems = Counter(stem(path) for path in pictures)
    found = {name: masks_by_stem(folder) for name, folder in masks.items()}
    for path in pictures:
        mine = {name: files.get(stem(path), "") for name, files in found.items()}
        yield Row(stem(path) if stems[stem(path)] == 1 else path, path, mine, {})


def files_below(fs: Any, root: str) -> list[str]:
    """The pictures in a folder and in those below it, as paths within it, sorted; no hidden ones."""
    paths = (str(path)[len(root.rstrip("/")) + 1 :] for path in fs.find(root))
    return sorted(p for p in paths if p.lower().endswith(PICTURES) and not any_hidden(p))


def any_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def stem(path: str) -> str:
    return path.rsplit(".", 1)[0]


def masks_by_stem(folder: str) -> dict[str, str]:
    fs, root = opened(folder)
    scheme = f"{folder.split('://')[0]}://" if is_url(folder) else ""
    return {stem(path): f"{scheme}{root.rstrip('/')}/{path}" for path in files_below(fs, root)}


def seed_of(identity: str, base: int) -> int:
    """The seed of a row without one: a hash of its id and the base seed, so that the order plays no part."""
    digest = hashlib.sha256(f"{base}\n{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (MAX_SEED + 1)


def config_of(row: Row, base: EditConfig) -> EditConfig:
    """The settings of one row. SettingError: a value that cannot be."""
    own = {"seed": seed_of(row.id, base.seed or 0)} | {k: typed(k, v) for k, v in row.settings.items()}
    return build(EditConfig, flatten(base), own)


def typed(key: str, value: Any) -> Any:
    """A value of a manifest as its setting's type, if it can be read as one: CSV has texts, pandas floats."""
    kind = KINDS[key]
    kinds = get_args(kind) or (kind,)
    if isinstance(value, str) and kind is not str:
        try:
            return read_lists(EditConfig, {key: value.replace(",", "\\,")})[key][0]
        except SettingError:
            return value
    if isinstance(value, float) and int in kinds and value.is_integer():
        return int(value)
    return [value] if Ellipsis in kinds and not isinstance(value, (list, tuple)) else value
