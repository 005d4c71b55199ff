"""What is known of each row when it is done: meta/part-000012.parquet, one record per row.

The file is written last: if it exists, the part is done.
"""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DiffeditError
from .storage import Store

READERS = 16  # at a time: an object store takes long to answer

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file_name", pa.string()),
        ("mask_file_name", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("ref", pa.string()),
        ("query", pa.string()),
        ("seed", pa.int64()),
        ("coverage", pa.float64()),
        ("changed_outside", pa.int64()),
        ("sha256", pa.string()),
        ("mask_sha256", pa.string()),
        ("notices", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("hint", pa.string()),
    ]
)

Record = dict[str, Any]


def done_parts(store: Store) -> set[int]:
    """The numbers of the parts that are done."""
    names = (name for name in store.names("meta") if name.startswith("part-") and name.endswith(".parquet"))
    return {int(name[len("part-") : -len(".parquet")]) for name in names}


def meta_name(number: int) -> str:
    return f"meta/part-{number:06}.parquet"


def write_records(store: Store, number: int, records: list[Record]) -> None:
    """Say that a part is done."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), buffer)
    store.write(meta_name(number), buffer.getvalue())


def read_table(store: Store, number: int) -> pa.Table:
    """The records of a part; none if it is not done. DiffeditError: the file is damaged."""
    data = store.read(meta_name(number))
    if data is None:
        return SCHEMA.empty_table()
    try:
        return pq.read_table(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise DiffeditError(
            f"{meta_name(number)} is damaged.", "Remove that file, and run the same command again."
        ) from error


def is_ok(table: pa.Table) -> list[bool]:
    return [status == "ok" for status in table["status"].to_pylist()]


def read_tables(store: Store, numbers: list[int]) -> Iterator[pa.Table]:
    """The records of several parts, in order, few at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(numbers), READERS):
            yield from pool.map(lambda number: read_table(store, number), numbers[start : start + READERS])


@dataclass(frozen=True)
class Summary:
    """How many rows failed, and how many of the results have notices."""

    failed: int
    noted: int


def merge(store: Store, numbers: list[int]) -> Summary:
    """Write metadata.parquet, a row for each result, and failures.jsonl."""
    failed = noted = 0
    with TemporaryDirectory() as folder:
        results, failures = Path(folder, "metadata.parquet"), Path(folder, "failures.jsonl")
        with pq.ParquetWriter(results, SCHEMA) as writer, failures.open("w", encoding="utf-8") as lines:
            for table in read_tables(store, numbers):
                good = is_ok(table)
                noted += sum(map(bool, table["notices"].to_pylist()))
                writer.write_table(table.filter(pa.array(good)))
                for record in table.filter(pa.array([not one for one in good])).to_pylist():
                    failed += 1
                    kept = {key: record[key] for key in ("id", "source", "ref", "query", "error", "hint")}
                    lines.write(json.dumps(kept, ensure_ascii=False) + "\n")
        for file in (results, failures):
            store.put(file.name, file)
    return Summary(failed, noted)
