"""Configuration behind the flags: the user's file, the project's file, and DIFFEDIT_* variables.

A file is TOML with one `key = value` for each setting; the keys are those of settings/: `steps = 50`,
`mask_threshold = 0.5`. A variable is DIFFEDIT_ and the key in capitals: DIFFEDIT_STEPS=50; several values
are separated by commas. Each applies to every command that has the setting. Of the settings that name a file
(PLACES) `~` is the home folder, and in a file ./ and ../ start from the file's own folder.

Precedence: flag, variable, project's file, user's file, default.
"""

import difflib
import hashlib
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..errors import SettingError
from ..settings import SCHEMAS, build, check_setting, keys, unknown_setting
from .interrupt import begin_work

PROJECT_FILE = "diffedit.toml"
PREFIX = "DIFFEDIT_"
ARGUMENTS = ("prompt", "prompts", "next_queries")  # they belong to one command line and are not kept
PLACES = ("model", "lora", "embedding", "vae", "text_encoder")  # they may name a file or a folder
MOST_BYTES = 1_000_000  # of a file of settings
MOST_WAIT = 60.0  # seconds that one `config set` waits for another
LIKE_A_TYPO = 0.75  # difflib's ratio from which an unknown variable is a mistyped setting
SWITCHES: dict[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


@dataclass(frozen=True)
class Layer:
    """Checked settings, and where each was read: a path, or the name of a variable.

    notes: what to tell the user. error: why the configuration cannot be used (read_leniently).
    """

    values: dict[str, Any]
    sources: dict[str, str]
    notes: tuple[str, ...] = ()
    error: SettingError | None = None


def user_file() -> Path:
    """The user's configuration: config.toml in the system's folder for such files. SettingError: no home."""
    import typer

    folder = Path(typer.get_app_dir("diffedit"))
    if folder.parts[0] == "~":  # neither HOME nor an entry among the system's users
        raise SettingError(
            "There is no home folder to save settings in.", "Set HOME or XDG_CONFIG_HOME, or use --project."
        )
    return folder / "config.toml"


def project_file() -> Path:
    """The nearest diffedit.toml in the working folder and those above it; if there is none, its place."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise SettingError("The working folder no longer exists.", "Change to another folder.") from None
    candidates = [folder / PROJECT_FILE for folder in (here, *here.parents)]
    return next((file for file in candidates if os.path.isfile(file)), candidates[0])


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
    """All that is configured; of two values the stronger one. SettingError: an unknown key, a wrong value."""
    try:
        files = [user_file(), project_file()]
    except SettingError:
        files = [project_file()]
    layers = [*map(read_file, files), read_environment(environment)]
    return Layer(
        {key: value for layer in layers for key, value in layer.values.items()},
        {key: source for layer in layers for key, source in layer.sources.items()},
        tuple(note for layer in layers for note in layer.notes),
    )


def read_leniently(environment: Mapping[str, str] = os.environ) -> Layer:
    """As `read_config`, but with the error in the layer, so that --help works with a wrong configuration."""
    try:
        return read_config(environment)
    except SettingError as error:
        return Layer({}, {}, error=error)


def read_file(path: Path) -> Layer:
    """The settings in a file; none if it does not exist."""
    try:
        values = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise SettingError(
            f"{path} is not valid TOML: {what}.", "Correct that line, or remove the file."
        ) from error
    for key, value in values.items():
        check(key, value, str(path))
    placed = {key: in_place(key, value, path.parent) for key, value in values.items()}
    return Layer(placed, dict.fromkeys(placed, str(path)))


def read_text(path: Path) -> str:
    """The text of a file without the byte order mark that Notepad writes; empty if the file is absent."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} is not UTF-8.", "Save it with that encoding.") from error
    if len(data) > MOST_BYTES:
        raise SettingError(
            f"{path} is longer than {MOST_BYTES:,} bytes.", "A settings file has only a few lines."
        )
    return text


def in_place(key: str, value: Any, folder: Path) -> Any:
    """A value that names a file, with ~ expanded and a place relative to `folder` made absolute."""
    return on_places(key, value, lambda text: placed(text, folder))


def on_places(key: str, value: Any, change: Callable[[str], str]) -> Any:
    if key not in PLACES:
        return value
    return [change(part) for part in value] if isinstance(value, list) else change(value)


def placed(text: str, folder: Path | None = None) -> str:
    """A name with the home folder in place of ~; one that begins with ./ or ../ starts from the folder."""
    text = os.path.expanduser(text)
    is_relative = re.match(r"\.\.?([/\\]|$)", text) is not None
    return os.path.abspath(folder / text) if is_relative and folder is not None else text


def read_environment(environment: Mapping[str, str]) -> Layer:
    """The settings in variables that begin with DIFFEDIT_; an empty one counts as not set.

    SettingError: a wrong value, or a mistyped name. A variable of another program's gives a note.
    """
    known = {PREFIX + key.upper(): key for key in known_settings()}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    notes: list[str] = []
    for name, text in environment.items():
        if not name.startswith(PREFIX) or not text:
            continue
        if name not in known:
            if is_typo(name.removeprefix(PREFIX).lower()):
                raise unknown_setting(name, known)
            notes.append(f"The variable {name} is not a setting of this program, so it is ignored.")
            continue
        key = known[name]
        value = parse(key, text)
        check(key, value, name)
        values[key], sources[key] = on_places(key, value, placed), name
    return Layer(values, sources, tuple(notes))


def is_typo(key: str) -> bool:
    return bool(difflib.get_close_matches(key, known_settings(), cutoff=LIKE_A_TYPO))


def known_settings() -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """Type and metadata of each setting that can be configured, once for each command that has it."""
    known: dict[str, list[tuple[Any, dict[str, Any]]]] = {}
    for schema in SCHEMAS:
        for key, kind, metadata, _ in keys(schema):
            if key not in ARGUMENTS:
                known.setdefault(key, []).append((kind, metadata))
    return known


def check(key: str, value: Any, where: str) -> None:
    """SettingError if there is no such setting, or if a command that has it does not accept the value."""
    known = known_settings()
    if key not in known:
        raise unknown_setting(key, known, f" in {where}")
    for kind, metadata in known[key]:
        name = where if where.startswith(PREFIX) else f"{where}: {key}"
        check_setting(name, as_kind(value, kind), kind, metadata)


def parse(key: str, text: str) -> Any:
    """A text as a value of the setting's type if it can be read as one; `check` judges it."""
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
    """Write one setting to a file, whose other lines and comments stay; returns the value.

    Simultaneous runs wait for each other. A symbolic link stays one. SettingError: an unknown key, a wrong
    value, or a file that is wrong already.
    """
    import tomlkit
    from filelock import FileLock

    from ..images.write import atomic_path

    if key not in known_settings():
        raise unknown_setting(key, known_settings())
    value = on_places(key, parse(key, text), absolute)
    check(key, value, path.name)
    file = path.resolve()
    lock = f"diffedit-{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}.lock"
    begin_work()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(Path(tempfile.gettempdir()) / lock, timeout=MOST_WAIT):
        check_together({**read_file(file).values, key: value}, key, path)
        document = tomlkit.parse(read_text(file))
        document[key] = value
        with atomic_path(file, overwrite=True) as part:
            part.write_bytes(tomlkit.dumps(document).encode())
    return value


def check_together(values: Mapping[str, Any], new: str, path: Path) -> None:
    """SettingError if the value of a new setting does not go with the others of a file."""
    for schema in SCHEMAS:
        kinds = {key: kind for key, kind, *_ in keys(schema)}
        own = {key: as_kind(value, kinds[key]) for key, value in values.items() if key in kinds}
        try:
            build(schema, own, {"prompts": ("a", "b")} if "prompts" in kinds else {})
        except SettingError as error:
            if new in error.settings:
                others = [f"{key} = {values[key]}" for key in error.settings if key in values and key != new]
                raise SettingError(
                    error.message, f"{path} has {' and '.join(others)}; change that first."
                ) from error


def as_kind(value: Any, kind: Any) -> Any:
    """A value as its setting holds it: a file may give one value in place of a list."""
    if get_origin(kind) is not tuple:
        return value
    return tuple(value) if isinstance(value, list) else (value,)


def absolute(given: str) -> str:
    """A place as it holds in every working folder; the name of a model on the hub or of a preset as it is."""
    match = re.fullmatch(r"(.+\.safetensors)(:.*)?", text := placed(given))
    name, rest = (match[1], match[2] or "") if match else (text, "")
    return os.path.abspath(name) + rest if is_place(name) else text


def is_place(name: str) -> bool:
    """Whether a name is that of a file or a folder. A preset wins over a folder of that name."""
    if name == "embedded" or not os.path.exists(name):
        return False
    if Path(name).name == name:
        from ..models.presets import PRESETS

        return name not in PRESETS
    return True
