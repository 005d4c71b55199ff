"""Where the values of the settings come from, and which of two gives way where they do not go together."""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import typer

from ..errors import DiffeditError, SettingError
from ..settings import PRESETS, option_name
from .defaults import PLACES, PREFIX, PROJECT_FILE, Layer

T = TypeVar("T")

RUNNING: ContextVar[typer.Context | None] = ContextVar("RUNNING", default=None)
GIVEN = 4  # the rank of what stands on the command line
NAMED = (*PLACES, "device", "backend")  # settings that an error may name by their values alone


@contextmanager
def running(context: typer.Context) -> Generator[None, None, None]:
    """Around a command, so that what it says can name where its settings come from."""
    token = RUNNING.set(context)
    try:
        yield
    finally:
        RUNNING.reset(token)


def origin_of(key: str) -> str:
    """The file, the variable or the flag for several settings that a value comes from.

    Empty for a setting on the command line and for one that was left out.
    """
    context = RUNNING.get()
    source = context and context.get_parameter_source(key)
    if context is None or source is None or source.name != "DEFAULT_MAP":
        return ""
    preset = next((name for name in PRESETS if context.params.get(name) and key in PRESETS[name]), "")
    if preset:
        return option_name(preset)
    return context.obj.sources.get(key, "") if isinstance(context.obj, Layer) else ""


def rank_of(key: str) -> int:
    """Of two settings that do not go together the lower one gives way; 0 for one that was left out."""
    context = RUNNING.get()
    source = context and context.get_parameter_source(key)
    if source is not None and source.name == "COMMANDLINE":
        return GIVEN
    if not (origin := origin_of(key)) or origin.startswith("--"):
        return GIVEN if origin else 0
    return 3 if origin.startswith(PREFIX) else 2 if Path(origin).name == PROJECT_FILE else 1


def told_origins(error: DiffeditError) -> str:
    """Where each setting comes from that an error names, or whose value it repeats, unless it was given."""
    named = dict.fromkeys([*error.settings, *(key for key in NAMED if repeats(error, key))])
    found = {key: origin for key in named if (origin := origin_of(key))}
    return " ".join(f"{option_name(key)} is set {where(origin)}." for key, origin in found.items())


def where(origin: str) -> str:
    return f"by {origin}" if origin.startswith(("--", PREFIX)) else f"in {origin}"


def repeats(error: DiffeditError, key: str) -> bool:
    """Whether an error names the file, the model, the device or the backend that a setting has."""
    context = RUNNING.get()
    value = context.params.get(key) if context else None
    parts = value if isinstance(value, (list, tuple)) else [value]
    names = [re.sub(r":[^:/\\]*$", "", part) for part in parts if isinstance(part, str)]
    words = (rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\w)" for name in names if name)
    return any(re.search(word, error.message, re.IGNORECASE) for word in words)


def settled(
    make: Callable[[], T],
    values: dict[str, Any],
    note: Callable[[str], None],
    rank: Callable[[str], int] = rank_of,
    origin: Callable[[str], str] = origin_of,
) -> T:
    """What `make` makes of the values. Of two that do not go together the weaker one is taken out, and noted.

    SettingError: none of them is weaker.
    """
    while True:
        try:
            return make()
        except SettingError as error:
            ranks = {key: rank(key) for key in error.settings}
            weak = [key for key in ranks if key in values and 0 < ranks[key] < max(ranks.values())]
            if not weak:
                raise
            key = min(weak, key=ranks.__getitem__)
            note(f"{option_name(key)}, set {where(origin(key))}, is left out: {error.message}")
            del values[key]
