"""How a setting is declared once and read, checked and written everywhere.

A nested group is flattened with its name as a prefix: `EditConfig.mask.threshold` is the key `mask_threshold`
and the flag `--mask-threshold`. Imports neither torch nor anything heavy: `diffedit --help` needs it.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from ..errors import SettingError

T = TypeVar("T")

LONGEST = 60  # characters of a value that an error or a note repeats
TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def setting(
    default: T,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    panel: str = "Sampling",
    flags: tuple[str, ...] = (),
    expert: bool = False,
) -> T:
    """A dataclass field that knows its help text, its closed range, its help panel and its extra flags.

    expert: only `--help-all` shows its flag.
    """
    about = dict(help=help, low=low, high=high, panel=panel, flags=flags, expert=expert)
    return field(default=default, metadata=about)


@cache
def hints_of(schema: type) -> dict[str, Any]:
    """The type of each field of a config class."""
    return get_type_hints(schema)


def option_name(key: str) -> str:
    return "--" + key.replace("_", "-")


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any], Any]]:
    """Each setting of a config class, flattened: (key, type, metadata, default)."""
    hints = hints_of(schema)
    for item in fields(schema):
        kind = hints[item.name]
        if is_dataclass(kind):
            yield from keys(cast(type, kind), f"{prefix}{item.name}_")
        else:
            yield f"{prefix}{item.name}", kind, dict(item.metadata), item.default


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as one flat mapping of plain values, ready for JSON."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}_")
        else:
            flat[f"{prefix}{item.name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def build(schema: type[T], *layers: Mapping[str, Any]) -> T:
    """A config from flat mappings; later ones override earlier ones. SettingError: an unknown key."""
    known = [key for key, *_ in keys(schema)]
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in known:
                raise unknown_setting(key, known)
            merged[key] = value
    return _nest(schema, merged, "")


def unknown_setting(key: str, known: Iterable[str], where: str = "") -> SettingError:
    """The error for a key that no config class has; the hint names the nearest one that exists."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"The settings are: {', '.join(known)}."
    return SettingError(f"There is no setting {key}{where}.", hint)


def _nest(schema: type[T], flat: Mapping[str, Any], prefix: str) -> T:
    hints = hints_of(schema)
    values: dict[str, Any] = {}
    for item in fields(schema):  # type: ignore[arg-type]
        key = f"{prefix}{item.name}"
        if is_dataclass(hints[item.name]):
            values[item.name] = _nest(hints[item.name], flat, f"{key}_")  # type: ignore[arg-type]
        elif key in flat:
            value = flat[key]
            values[item.name] = tuple(value) if isinstance(value, list) else value
    return schema(**values)


def read_lists(schema: type, texts: Mapping[str, str]) -> dict[str, list[Any]]:
    """Comma lists as people type them, each part as a value of its setting; duplicates are dropped.

    `none,pred` is two values; `\\,` is a comma within a text; `0.3+0.5` is one value of a setting that is a
    list itself. SettingError: a part cannot be read. Ranges and choices are left to `build`.
    """
    kinds = {key: kind for key, kind, *_ in keys(schema)}
    lists: dict[str, list[Any]] = {}
    for key, text in texts.items():
        parts = [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text)]
        lists[key] = list(dict.fromkeys(_read(option_name(key), part, kinds[key]) for part in parts))
    return lists


def _read(name: str, text: str, kind: Any) -> Any:
    """A text as a value of a setting's type."""
    if get_origin(kind) is tuple:
        return tuple(_read(name, part, get_args(kind)[0]) for part in text.split("+"))
    types = get_args(kind) or (kind,)
    try:
        if int in types:
            return int(text)
        if float in types:
            return float(text)
        if bool in types:
            return {"on": True, "off": False}[text.lower()]
    except (ValueError, KeyError):
        wanted = "a whole number" if int in types else "a number" if float in types else "on or off"
        raise SettingError(
            f"{name} cannot be {shown(text)}.", f"Each value in the list must be {wanted}."
        ) from None
    return text


def validate(config: Any, prefix: str = "") -> None:
    """Check each field of a config against its type, its choices and its closed range."""
    hints = hints_of(type(config))
    for item in fields(config):
        if not is_dataclass(kind := hints[item.name]):
            check_setting(option_name(prefix + item.name), getattr(config, item.name), kind, item.metadata)


def check_setting(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> None:
    """SettingError, which calls the setting `name`, if a value has the wrong type or is out of range."""
    if (get_origin(kind) is tuple) != isinstance(value, tuple):
        takes = "a list of values" if get_origin(kind) is tuple else "one value"
        raise SettingError(f"{name} cannot be {shown(value)}.", f"It takes {takes}.")
    for part in value if isinstance(value, tuple) else (value,):
        _check(name, part, kind, metadata)


def _check(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SettingError(
                f"{name} cannot be {shown(value, bare=True)}.",
                f"Choose {', '.join(get_args(kind))}.",
            )
        return
    accepted = tuple(a for a in get_args(kind) if isinstance(a, type)) or (kind,)
    if float in accepted:
        accepted += (int,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise SettingError(f"{name} cannot be {shown(value)}.", f"It takes {TYPES[accepted[0]]}.")
    if isinstance(value, str) and not is_text(value):
        raise SettingError(
            f"{name} {shown(value)} is not valid text.", "It must be UTF-8 without NUL characters."
        )
    low, high = metadata["low"], metadata["high"]
    if low is not None and value is not None and not low <= value <= high:
        raise SettingError(
            f"{name} {shown(value, bare=True)} is out of range.", f"Give a value from {low} to {high}."
        )


def is_text(value: str) -> bool:
    """Whether every character can be stored as UTF-8, and none ends a string in C."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def shown(value: Any, bare: bool = False) -> str:
    """A value as an error or a note names it: short, and as Python writes it, or bare."""
    try:
        text = str(value) if bare else repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python prints, or a deep nesting
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
