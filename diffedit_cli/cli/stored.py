"""What `diffedit rerun` reads from a result: a file can say anything, so all of it is checked here, once."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..settings import (
    EditConfig,
    GenerateConfig,
    InterpolateConfig,
    MergeConfig,
    ModelConfig,
    RemoveConfig,
    build,
    keys,
    unknown_setting,
)
from ..settings.fields import validate

SCHEMAS: dict[str, Any] = {
    "edit": EditConfig,
    "mask": EditConfig,
    "remove": RemoveConfig,
    "generate": GenerateConfig,
    "interpolate": InterpolateConfig,
    "merge": MergeConfig,
}
FACTS = {
    "diffedit",
    "command",
    "model_is_local",
    "own_norm",
    "input",
    "input_sha256",
    "edited",
    "edited_sha256",
    "together",
}
GONE = {"tries": 1, "guidance_norm_region": "latent"}  # former settings, with the value of no effect
# Settings of later versions, with the value that stands for what the earlier ones did.
CAME = {
    "keep_detail": False, "mask_grey": "blend", "solver": "ddim", "timestep_spacing": "scheduler",
    "backend": "torch", "per_object": False, "next_queries": [], "reuse": 1, "inversion_rounds": 0,
}  # fmt: skip
MASKS = {"mask_sha256": "--mask", "mask_add_sha256": "--mask-add", "mask_subtract_sha256": "--mask-subtract"}
MOST_TOGETHER = 8  # pictures of one batch


def read_stored(file: Path) -> dict[str, Any]:
    """The settings in a result, checked. ImageError: it holds none, or none that can be run again."""
    from ..images.video import read_film_settings

    stored = read_film_settings(file)
    if stored is None:
        raise ImageError(
            f"{file} holds no settings of this program.",
            "It was made by another program, or with --no-metadata.",
        )
    check_facts(file, stored)
    schema = SCHEMAS[stored["command"]]
    known = {key for of in (schema, ModelConfig) for key, *_ in keys(of)}
    stored = {key: value for key, value in stored.items() if key not in GONE or value != GONE[key]}
    for key in stored:
        if key not in known | FACTS | {*MASKS}:
            raise unknown_setting(key, known, f", but {file} (diffedit {stored['diffedit']}) has it")
    stored |= {key: CAME[key] for key in {*CAME} & known - {*stored}}
    for of in (schema, ModelConfig):  # types and ranges
        validate(build(of, {key: stored[key] for key, *_ in keys(of) if key in stored}))
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:\d{1,3})?", stored.get("device", "auto")):
        raise ImageError(f"{file} was made on the device {stored['device']}, which does not exist.", NO_USE)
    return stored


NO_USE = "Run the command itself, with settings of your own."


def check_facts(file: Path, stored: dict[str, Any]) -> None:
    """ImageError unless what is stored besides the settings has the types that this program writes."""
    command = stored.get("command")
    if not all_text(stored):
        raise ImageError(f"{file} holds settings that are not valid text.", NO_USE)
    needed = {"diffedit"} if command == "merge" else {"diffedit", "model"}
    if not isinstance(command, str) or command not in SCHEMAS or not needed <= {*stored}:
        raise ImageError(
            f"{file} was made by `{command}`, which cannot be rerun.",
            f"Only results of {', '.join(SCHEMAS)} can.",
        )
    if "fps" in stored and command != "interpolate":
        raise ImageError(f"{file} is a film of an edit.", "Rerun its picture instead, with --animate.")
    has_input = command in ("edit", "mask", "remove", "merge") or "input" in stored
    if has_input and not is_name(stored.get("input")):
        raise ImageError(f"{file} does not say which picture it was made from.", f"Use diffedit {command}.")
    if command == "merge" and not is_name(stored.get("edited")):
        raise ImageError(f"{file} does not say which edit was merged.", "Use diffedit merge.")
    if command == "generate" and not stored.get("prompt"):
        raise ImageError(f"{file} does not say which prompt it was made from.", "Use diffedit generate.")
    row, rows = read_pair(stored.get("together", [0, 1]))
    if not (0 <= row < rows <= MOST_TOGETHER and isinstance(stored["diffedit"], str)):
        raise ImageError(f"{file} holds settings that this program never writes.", NO_USE)


def all_text(value: Any) -> bool:
    """Whether every text in plain values can be written as UTF-8."""
    if isinstance(value, dict):
        return all(all_text(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return all(map(all_text, value))
    return not isinstance(value, str) or not re.search("[\ud800-\udfff]", value)


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a file; of a path, its last part."""
    return isinstance(value, str) and 0 < len(os.fsencode(Path(value).name)) <= 255 and "\0" not in value


def read_pair(value: Any) -> tuple[int, int]:
    """Row and number of the pictures of a batch; (0, 0) for anything else."""
    match value:
        case [int(row), int(rows)]:
            return row, rows
        case _:
            return 0, 0


def find_input(file: Path, stored: dict[str, Any], place: str | None, key: str = "input") -> str:
    """The picture that a result was made from, by its name and hash. ImageError if it is not there.

    place: where the user says that it is. key: under which it is stored; a merge has "edited" too.
    """
    name = Path(stored[key]).name
    candidates = [Path(place)] if place else [file.parent / name, Path(name)]
    words = "ORIGINAL EDITED" if stored["command"] == "merge" else "PICTURE"
    found = [path for path in candidates if path.is_file()]
    for path in found:
        if hashlib.sha256(path.read_bytes()).hexdigest() == stored.get(f"{key}_sha256"):
            return str(path)
    if found:
        raise ImageError(
            f"{found[0]} is not the picture that {file} was made from: its SHA-256 differs.",
            f"Name the right one: diffedit rerun FILE {words}. For another picture use diffedit "
            f"{stored['command'] if words != 'PICTURE' else 'edit'}.",
        )
    raise ImageError(
        f"The picture {name}, from which {file} was made, was not found.",
        f"Name it: diffedit rerun FILE {words}.",
    )
