"""Folders and files on this machine or in an object store, named by a path or by a URL of fsspec."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ..errors import ImageError, SettingError
from ..images.read import reason
from ..images.write import atomic_path


def is_url(path: str) -> bool:
    return "://" in path


def absolute(path: str) -> str:
    """A path that means the same from every working folder; a URL stays as it is."""
    return path if is_url(path) else os.path.abspath(path)


def join(base: str, path: str) -> str:
    """A path as seen from the folder `base`."""
    return path if is_url(path) or os.path.isabs(path) else f"{base.rstrip('/')}/{path}"


def opened(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it. SettingError: there is no such file system."""
    if not is_url(url):
        return LocalFileSystem(auto_mkdir=True), os.path.abspath(url)
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise SettingError(f"{url} cannot be opened: {error}.", "Install what it names with pip.") from error
    except ValueError as error:
        raise SettingError(
            f"{url} cannot be opened: {error}.", "Give a path, or s3://..., gs://..."
        ) from error


class Store:
    """A folder of results: on this machine, or under a URL such as s3://bucket/folder."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = opened(url)

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file: all of it, or nothing.

        On this machine the file is renamed to its final name when it is complete; an object store shows an
        object only when all of it has arrived.
        """
        if isinstance(self.fs, LocalFileSystem):
            target = self._local_target(name)
            with atomic_path(target, overwrite=True) as part:
                part.write_bytes(data)
        else:
            self.fs.pipe_file(self.path(name), data)

    def put(self, name: str, file: Path) -> None:
        """Copy a file of this machine to `name`: all of it, or nothing."""
        if isinstance(self.fs, LocalFileSystem):
            with atomic_path(self._local_target(name), overwrite=True) as part:
                shutil.copyfile(file, part)
        else:
            self.fs.put_file(str(file), self.path(name))

    def _local_target(self, name: str) -> Path:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if it does not exist."""
        try:
            return self.fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> IO[bytes]:
        return self.fs.open(self.path(name), "rb")

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, sorted; none if there is no such folder."""
        self.fs.invalidate_cache()  # other processes write there too
        try:
            paths = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def clean(self, folder: str) -> None:
        """Remove the unfinished files that a killed process left in a folder of this machine."""
        if isinstance(self.fs, LocalFileSystem):
            for left in Path(self.path(folder)).glob(".diffedit-*.part"):
                left.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        if self.fs.exists(self.path(name)):
            self.fs.rm_file(self.path(name))


@contextmanager
def on_this_machine(url: str) -> Generator[str, None, None]:
    """The path of a file on this machine: its own, or that of a copy that lives as long as the block.

    ImageError: the file cannot be fetched.
    """
    if not is_url(url):
        yield url
        return
    fs, path = opened(url)
    name = path.rsplit("/", 1)[-1]
    with TemporaryDirectory() as folder:
        target = os.path.join(folder, name)
        try:
            fs.get_file(path, target)
        except FileNotFoundError as error:
            raise ImageError(f"{name} does not exist.", "Check the path.") from error
        except Exception as error:  # each store has errors of its own
            raise ImageError(
                f"{name} cannot be fetched ({reason(error)}).", "Check the network and your access to it."
            ) from error
        yield target
