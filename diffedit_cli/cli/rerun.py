"""diffedit rerun"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import ImageError, SettingError
from ..settings import (
    EditConfig,
    GenerateConfig,
    InterpolateConfig,
    ModelConfig,
    TalkConfig,
    build,
    keys,
    unknown_setting,
)
from .defaults import for_commands
from .terminal import Terminal, plain_errors

SCHEMAS = {
    "edit": EditConfig,
    "mask": EditConfig,
    "generate": GenerateConfig,
    "interpolate": InterpolateConfig,
}
FACTS = {"diffedit", "command", "model_is_local", "input", "input_sha256"}
GONE = {"tries": 1, "guidance_norm_region": "latent"}  # former settings, with the value of no effect
MASKS = {"mask_sha256": "--mask", "mask_add_sha256": "--mask-add", "mask_subtract_sha256": "--mask-subtract"}


def rerun(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What an earlier run made.")],
) -> None:
    """Make FILE again with the settings that are stored in it: diffedit rerun FILE [PICTURE] [FLAGS].

    FLAGS are those of the command that made it and change what they name: diffedit rerun a.png --query dog.
    The input is looked for beside FILE and here; name it as PICTURE if it is elsewhere. The result goes
    beside FILE, under its name with -rerun, or where -o says. Where a text was the input, PICTURE is that.
    """
    words = {*context.args}
    talk = TalkConfig(
        json="--json" in words,
        verbose=bool({"-v", "--verbose"} & words),
        quiet=bool({"-q", "--quiet"} & words),
    )
    with plain_errors(talk):
        stored = read_stored(file)
        places, flags = split_arguments(context.args)
        check_what_is_needed(file, stored, flags)
        arguments = positionals(file, stored, places)
        if stored["command"] == "interpolate" and "input" in stored and not is_given("--init", flags):
            flags = [*flags, "--init", str(find_input(file, stored, []))]
        if is_given("--guidance-norm", flags) or is_given("--guidance-method", flags):
            stored |= {"guidance_scale": None}  # it is a measure of the old one
        if is_model_given(flags):  # these belong to the other one
            stored |= {"revision": None, "variant": None}
        if stored["diffedit"] != __version__:
            Terminal(talk).warn(
                f"{file.name} was made by diffedit {stored['diffedit']}, and this is {__version__}: "
                "the result may differ."
            )
    group: Any = context.find_root().command
    command = group.commands[stored["command"]]
    kept = (context.find_root().default_map or {}).get(stored["command"], {})
    usual = {"output": str(file.with_name(f"{file.stem}-rerun{file.suffix}"))}
    with command.make_context(
        stored["command"],
        [*flags, "--", *arguments],
        parent=context.parent,
        default_map={**kept, **for_commands(command, {**usual, **stored})},
    ) as inner:
        with plain_errors(talk):
            for flag in other_masks(stored, inner.params, arguments):
                Terminal(talk).warn(f"{flag} is not what {file.name} was made with: the result will differ.")
        command.invoke(inner)


def read_stored(file: Path) -> dict[str, Any]:
    """The settings in a result, checked. ImageError: it holds none, or none that can be run again."""
    from ..images.video import read_film_settings

    stored = read_film_settings(file)
    if stored is None:
        raise ImageError(
            f"{file.name} holds no settings of this program.",
            "It was made by another program, or with --no-metadata.",
        )
    if not {"diffedit", "command", "model"} <= {*stored} or stored["command"] not in SCHEMAS:
        raise ImageError(
            f"{file.name} was made by `{stored.get('command')}`, which cannot be run again.",
            f"A result of {', '.join(SCHEMAS)} can.",
        )
    if "fps" in stored and stored["command"] != "interpolate":
        raise ImageError(f"{file.name} is a film of an edit.", "Run its picture again, with --animate.")
    if stored["command"] in ("edit", "mask") and not isinstance(stored.get("input"), str):
        raise ImageError(f"{file.name} does not say which picture it was made from.", "Use diffedit edit.")
    schema = SCHEMAS[stored["command"]]
    known = {key for of in (schema, ModelConfig) for key, *_ in keys(of)}
    stored = {key: value for key, value in stored.items() if (key, value) not in GONE.items()}
    for key in stored:
        if key not in known | FACTS | {*MASKS}:
            raise unknown_setting(key, known, f", but {file.name} (diffedit {stored['diffedit']}) has it")
    for of in (schema, ModelConfig):  # types and ranges: a file can say anything
        build(of, {key: stored[key] for key, *_ in keys(of) if key in stored})
    return stored


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first flag, and the rest."""
    first = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return [*arguments[:first]], [*arguments[first:]]


def is_given(flag: str, flags: Sequence[str]) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in flags)


def is_model_given(flags: Sequence[str]) -> bool:
    return is_given("--model", flags) or is_given("-m", flags)


def check_what_is_needed(file: Path, stored: dict[str, Any], flags: Sequence[str]) -> None:
    """SettingError if the run took files that its result does not hold, and they are not given again."""
    needed = {flag: "a mask" for key, flag in MASKS.items() if key in stored}
    if stored.get("model_is_local"):
        needed["--model"] = f"the local model {stored['model']}"
    for key in ("lora", "embedding"):
        if stored.get(key):
            needed[f"--{key}"] = ", ".join(stored[key])
    for flag, what in needed.items():
        if not (is_model_given(flags) if flag == "--model" else is_given(flag, flags)):
            raise SettingError(
                f"{file.name} was made with {what}, which it does not hold.", f"Give it again with {flag}."
            )


def other_masks(stored: dict[str, Any], params: dict[str, Any], arguments: list[str]) -> list[str]:
    """The flags whose masks differ from those of the run that is stored, by their SHA-256."""
    given = {key: path for key in MASKS if (path := params.get(key.removesuffix("_sha256"))) is not None}
    if not {*given} & {*stored}:
        return []

    from ..images.read import load_image
    from .files import read_masks

    files = given.get("mask_sha256"), given.get("mask_add_sha256"), given.get("mask_subtract_sha256")
    found = read_masks(files, load_image(arguments[0])).hashes()
    return [MASKS[key] for key in given if key in stored and found[key] != stored[key]]


def positionals(file: Path, stored: dict[str, Any], places: list[str]) -> list[str]:
    """The picture, the prompt or the prompts that the command takes."""
    if stored["command"] == "generate":
        return places or [stored["prompt"]]
    if stored["command"] == "interpolate":
        return places or stored["prompts"]
    return [find_input(file, stored, places)]


def find_input(file: Path, stored: dict[str, Any], places: list[str]) -> str:
    """The picture that a result was made from, by its name and hash. ImageError if it is not there."""
    name = Path(stored["input"]).name
    candidates = [Path(place) for place in places[:1]] or [file.parent / name, Path(name)]
    found = [path for path in candidates if path.is_file()]
    for path in found:
        if hashlib.sha256(path.read_bytes()).hexdigest() == stored.get("input_sha256"):
            return str(path)
    if found:
        raise ImageError(
            f"{found[0].name} is not the picture that {file.name} was made from: its SHA-256 differs.",
            "Name the right one: diffedit rerun FILE PICTURE. For another picture use diffedit edit.",
        )
    raise ImageError(
        f"The picture {name}, from which {file.name} was made, is not here.",
        "Name it: diffedit rerun FILE PICTURE.",
    )
