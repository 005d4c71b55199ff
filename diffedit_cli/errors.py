"""The errors that people see: one sentence, what to do about it, and the exit code."""

import re


class DiffeditError(Exception):
    """Something went wrong that the user can fix. The message is one sentence; `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def settings(self) -> list[str]:
        """The keys of the settings that the message names, as flags."""
        flags = re.findall(r"--(?:no-)?([a-z]+(?:-[a-z]+)*)", self.message)
        return [flag.replace("-", "_") for flag in flags]

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class SettingError(DiffeditError):
    """A setting is out of range, unknown, or cannot be combined with another one."""

    exit_code = 2


class ImageError(DiffeditError):
    """A picture cannot be read, or a result cannot be written."""


class ModelError(DiffeditError):
    """A checkpoint cannot be found, is unsafe, or is of a kind that this program does not run."""


class NumericError(DiffeditError):
    """A network returned NaN or infinity."""


class MemoryShort(DiffeditError):
    """Memory ran out, even for the smallest piece of the work."""


SHORTAGES = (  # what torch, its allocators and Python say where memory has run out
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "bad_alloc",
    "could not create a primitive",
    "unable to mmap",
    "failed to map segment",
    "can't start new thread",
)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory has run out. Most libraries have no error type for it."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(
        words in str(error).lower() for words in SHORTAGES
    )
