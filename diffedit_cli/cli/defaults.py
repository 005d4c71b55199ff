"""Settings that stand behind the flags: the user's file, the project's file, and DIFFEDIT_* variables.

A file is TOML with one `key = value` a setting, the keys being those of settings.py: `steps = 50`,
`mask_threshold = 0.5`. A variable is called DIFFEDIT_ and the key in capitals: DIFFEDIT_STEPS=50; several
values have commas between them. Each applies to every command that has the setting.

Precedence: flag, variable, project's file, user's file, default.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..errors import SettingError
from ..settings import SCHEMAS, check_setting, keys, unknown_setting
from .interrupt import begin_work

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

PROJECT_FILE = "diffedit.toml"
PREFIX = "DIFFEDIT_"
ARGUMENTS = ("prompt", "prompts")  # of the command line, so no settings to keep
SWITCHES: dict[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


@dataclass(frozen=True)
class Layer:
    """Checked settings, and where each was read: a path, or the name of a variable."""

    values: dict[str, Any]
    sources: dict[str, str]


def user_file() -> Path:
    """The user's configuration: config.toml in the folder that the system has for such files."""
    import typer

    return Path(typer.get_app_dir("diffedit")) / "config.toml"


def project_file() -> Path:
    """The nearest diffedit.toml in the working folder and those above it; if there is none, the one to be."""
    here = Path.cwd()
    candidates = [folder / PROJECT_FILE for folder in (here, *here.parents)]
    return next((file for file in candidates if file.is_file()), candidates[0])


def for_commands(command: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as Typer's default_map of a command, with those of the commands below it."""
    children = getattr(command, "commands", {})
    lists = getattr(command.callback, "comma_lists", ())
    own: dict[str, Any] = {}
    for option in command.params:
        if option.name in values:
            value = values[option.name]
            if option.name in lists:
                value = as_text(value)
            elif getattr(option, "multiple", False) and not isinstance(value, list):
                value = [value]
            own[option.name] = value
    return own | {name: for_commands(child, values) for name, child in children.items()}


def as_text(value: Any) -> str:
    """One value as it is written in a comma list (settings.read_lists)."""
    if isinstance(value, list):
        return "+".join(map(as_text, value))
    return ("off", "on")[value] if isinstance(value, bool) else str(value).replace(",", "\\,")


def read_config(environment: Mapping[str, str] = os.environ) -> Layer:
    """All that is configured, the stronger before the weaker. SettingError: an unknown key, a wrong value."""
    layers = [read_file(user_file()), read_file(project_file()), read_environment(environment)]
    return Layer(
        {key: value for layer in layers for key, value in layer.values.items()},
        {key: source for layer in layers for key, source in layer.sources.items()},
    )


def read_file(path: Path) -> Layer:
    """The settings in a file; none if it does not exist."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Layer({}, {})
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error
    except ValueError as error:
        raise SettingError(
            f"{path} is not valid TOML: {error}.", "Mend that line, or remove the file."
        ) from error
    for key, value in values.items():
        check(key, value, str(path))
    return Layer(values, dict.fromkeys(values, str(path)))


def read_environment(environment: Mapping[str, str]) -> Layer:
    """The settings in variables that begin with DIFFEDIT_; an empty one counts as not set."""
    found = {name: text for name, text in environment.items() if name.startswith(PREFIX) and text}
    known = {PREFIX + key.upper(): key for key in known_settings()}
    for name in found:
        if name not in known:
            raise unknown_setting(name, known)
    values = {known[name]: parse(known[name], text) for name, text in found.items()}
    for name in found:
        check(known[name], values[known[name]], name)
    return Layer(values, {known[name]: name for name in found})


def known_settings() -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """Type and metadata of each setting that can be configured, once for each command that has it."""
    known: dict[str, list[tuple[Any, dict[str, Any]]]] = {}
    for schema in SCHEMAS:
        for key, kind, metadata, _ in keys(schema):
            if key not in ARGUMENTS:
                known.setdefault(key, []).append((kind, metadata))
    return known


def check(key: str, value: Any, where: str) -> None:
    """SettingError if there is no such setting, or if a command that has it could not take the value."""
    known = known_settings()
    if key not in known:
        raise unknown_setting(key, known, f" in {where}")
    for kind, metadata in known[key]:
        if get_origin(kind) is tuple:
            wanted = tuple(value) if isinstance(value, list) else (value,)
        else:
            wanted = value
        check_setting(where if where.startswith(PREFIX) else f"{where}: {key}", wanted, kind, metadata)


def parse(key: str, text: str) -> Any:
    """A text as a value of the setting's type, so far as it can be read as one; `check` judges it."""
    kind = known_settings()[key][0][0]
    if get_origin(kind) is tuple:
        return [_number(part.strip()) for part in text.split(",")]
    kinds = (kind, *get_args(kind))
    if str in kinds or get_origin(kind) is Literal:
        return text
    return SWITCHES.get(text.lower(), text) if bool in kinds else _number(text)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def set_value(path: Path, key: str, text: str) -> Any:
    """Write one setting to a file, whose other lines stay as they are; returns the value.

    SettingError: an unknown key, a value that cannot be, or a file that this cannot change safely.
    """
    from ..images.write import atomic_path

    if key not in known_settings():
        raise unknown_setting(key, known_settings())
    value = parse(key, text)
    check(key, value, path.name)
    before = read_file(path).values
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"  # plain values are the same in TOML
    places = [i for i, old in enumerate(lines) if re.match(rf"\s*{key}\s*=", old)]
    if places:
        lines[places[0]] = line
    else:
        lines.append(line)
    after = "\n".join(lines) + "\n"
    try:
        is_right = tomllib.loads(after) == {**before, key: value}
    except ValueError:
        is_right = False
    if not is_right:  # a value over several lines, say
        raise SettingError(f"{path} cannot be changed by this command.", f"Write `{line}` into it by hand.")
    begin_work()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, overwrite=True) as part:
        part.write_text(after, "utf-8")
    return value
