"""How the results of a part are laid out: files in folders, one Parquet file, or one tar (WebDataset).

Each is a context that is given the results of a part in order, one by one: `add` a new one, `keep` one of an
earlier run. Files of one part hold the same bytes however often the part is done.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ImageError
from .records import SCHEMA, Record
from .storage import Store

Files = tuple[bytes, bytes]  # the PNGs of a result and its mask
# Words in a file's name that `datasets` takes for the split that the file belongs to.
SPLITS = {"train", "training", "valid", "validation", "val", "dev", "test", "testing", "eval", "evaluation"}


def part_name(number: int) -> str:
    return f"part-{number:06}"


def names_of(ids: Sequence[str]) -> list[str]:
    """A file name for each id of a part, without a suffix, and no two alike on any file system.

    An id that is fit for one is its own name; any other is given its hash.
    """
    lower = [identity.lower() for identity in ids]
    names: list[str] = []
    for identity in ids:
        is_plain = re.fullmatch(r"[A-Za-z0-9][\w-]{0,99}", identity, re.ASCII)
        is_split = SPLITS & set(re.split(r"[\W\d_]+", identity.lower()))
        is_alone = lower.count(identity.lower()) == 1
        code = hashlib.sha256(identity.encode()).hexdigest()[:16]
        names.append(identity if is_plain and is_alone and not is_split else f"id-{code}")
    return names


class Layout(Protocol):
    """Where the results of one part go."""

    def add(self, record: Record, name: str, files: Files) -> None: ...
    def keep(self, record: Record, name: str) -> None: ...
    def close(self) -> None: ...


class Folder:
    """images/part-000012/NAME.png and masks/part-000012/NAME.png."""

    def __init__(self, store: Store, number: int) -> None:
        self.store, self.part = store, part_name(number)
        for folder in ("images", "masks"):
            store.clean(f"{folder}/{self.part}")

    def add(self, record: Record, name: str, files: Files) -> None:
        for key, folder, data in zip(
            ("file_name", "mask_file_name"), ("images", "masks"), files, strict=True
        ):
            record[key] = f"{folder}/{self.part}/{name}.png"
            self.store.write(record[key], data)

    def keep(self, record: Record, name: str) -> None:
        """The files are there."""

    def close(self) -> None:
        """Each file was written when it was ready."""


class Packed:
    """One file for all results of a part, if it has any: written here first, and then put into its place."""

    suffix = ""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.name = f"data/{part_name(number)}{self.suffix}"
        self.scratch = TemporaryDirectory()
        self.file = Path(self.scratch.name) / f"part{self.suffix}"
        self.old = self.stored()
        self.count = 0

    def add(self, record: Record, name: str, files: Files) -> None:
        record["file_name"] = record["mask_file_name"] = self.name
        self.count += 1
        self.pack(record, name, files)

    def keep(self, record: Record, name: str) -> None:
        for key, files in self.old:
            if key in (record["id"], name):
                self.add(record, name, files)
                return
        raise ImageError(f"{self.name} lacks {record['id']}.", "Start again in another folder with -o.")

    def close(self) -> None:
        self.finish()
        if self.count:
            self.store.put(self.name, self.file)
        self.scratch.cleanup()

    def stored(self) -> Iterator[tuple[str, Files]]:
        """The ids, or the names, and the PNGs that an earlier run packed, in order."""
        raise NotImplementedError

    def pack(self, record: Record, name: str, files: Files) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"info": {"features": {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}}}
GROUP_BYTES = 2**25  # of a row group


class Parquet(Packed):
    """data/part-000012.parquet, with columns `image` and `mask` that `datasets` shows as pictures."""

    suffix = ".parquet"

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(store, number)
        facts = [(field.name, field.type) for field in SCHEMA if field.name not in LEFT_OUT]
        self.schema = pa.schema(
            [("image", IMAGE), ("mask", IMAGE), *facts], {"huggingface": json.dumps(FEATURES)}
        )
        self.writer = pq.ParquetWriter(self.file, self.schema, compression="none")
        self.rows: list[Record] = []
        self.bytes = 0

    def stored(self) -> Iterator[tuple[str, Files]]:
        with self.store.open(self.name) as file:
            for batch in pq.ParquetFile(file).iter_batches(1, columns=["id", "image", "mask"]):
                (row,) = batch.to_pylist()
                yield row["id"], (row["image"]["bytes"], row["mask"]["bytes"])

    def pack(self, record: Record, name: str, files: Files) -> None:
        image, mask = ({"bytes": data, "path": f"{name}.png"} for data in files)
        self.rows.append({"image": image, "mask": mask, **facts_of(record)})
        self.bytes += sum(map(len, files))
        if self.bytes >= GROUP_BYTES:
            self.write_group()

    def write_group(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows, self.bytes = [], 0

    def finish(self) -> None:
        if self.rows:
            self.write_group()
        self.writer.close()


class WebDataset(Packed):
    """data/part-000012.tar, with NAME.png, NAME.mask.png and NAME.json for each result."""

    suffix = ".tar"

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(store, number)
        self.tar = tarfile.open(self.file, "w")  # noqa: SIM115 (finish closes it)

    def stored(self) -> Iterator[tuple[str, Files]]:
        with self.store.open(self.name) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            members = ((member.name, cast(IO[bytes], tar.extractfile(member)).read()) for member in tar)
            for (name, image), (_, mask), _ in zip(*[members] * 3, strict=True):
                yield name.removesuffix(".png"), (image, mask)

    def pack(self, record: Record, name: str, files: Files) -> None:
        facts = json.dumps(facts_of(record), ensure_ascii=False).encode()
        for suffix, data in zip((".png", ".mask.png", ".json"), (*files, facts), strict=True):
            member = tarfile.TarInfo(name + suffix)  # without a time: the same bytes in every run
            member.size = len(data)
            self.tar.addfile(member, io.BytesIO(data))

    def finish(self) -> None:
        self.tar.close()


LEFT_OUT = ("file_name", "mask_file_name", "status", "error", "hint")


def facts_of(record: Mapping[str, Any]) -> Record:
    return {field.name: record.get(field.name) for field in SCHEMA if field.name not in LEFT_OUT}


LAYOUTS: Mapping[str, Callable[[Store, int], Layout]] = {
    "folder": Folder,
    "parquet": Parquet,
    "webdataset": WebDataset,
}
