"""diffedit rerun"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import SettingError
from ..settings import (
    EditConfig,
    InterpolateConfig,
    ModelConfig,
    RemoveConfig,
    TalkConfig,
    build,
    filled_in,
    keys,
)
from ..settings.idle import is_unguided
from .defaults import Layer, for_commands
from .files import cut
from .idle import is_given
from .origins import GIVEN, settled
from .stored import CAME, MASKS, SCHEMAS, find_input, read_stored
from .terminal import Terminal, plain_errors

# What a run takes from its model, or chooses by the model's size, where no flag says otherwise.
OF_THE_MODEL = {
    "revision", "variant", "size", "width", "height", "zoom", "guidance_scale", "device", "dtype", "backend",
}  # fmt: skip
MUCH_WORK = 20  # times the forwards of a run with the default settings
LARGE_SIDE = 1024  # pixels: the native side of the largest model


def rerun(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The result of an earlier run.")],
    yes: Annotated[
        bool,
        typer.Option("--yes/--no-yes", help="Run it even if it takes far more work than the picture needs."),
    ] = False,
) -> None:
    """Make FILE again with the settings stored in it: diffedit rerun FILE [PICTURE] [FLAGS].

    FLAGS are flags of the command that made FILE; each overrides a stored setting, as in diffedit rerun a.png
    --query dog. The input is looked for in the folder of FILE and in the current one; if it is elsewhere,
    give it as PICTURE. If FILE was made from a text, you can give another text instead. The result goes to
    the folder of FILE, under its name with -rerun, or where -o says. A model that has never been downloaded
    is used only if --model names it.
    """
    words = [word for word in context.args if word != "--yes"]
    talk = talk_of(words)
    with plain_errors(talk):
        stored = read_stored(file)
    group: Any = context.find_root().command
    name, command = stored["command"], group.commands[stored["command"]]
    asked = command.make_context(name, [*words], parent=context.parent, resilient_parsing=True)
    with plain_errors(talk):
        terminal = Terminal(talk)
        arguments, flags = positionals(file, stored, words, asked)
        check_what_is_needed(file, stored, asked)
        source = find_input(file, stored, first_of(arguments)) if "input" in stored else None
        sources = [source or ""]
        if name == "merge":
            sources.append(find_input(file, stored, first_of(arguments[1:]), "edited"))
        stored = adapted(file, stored, asked, terminal)
        if source and name == "interpolate" and not is_given(asked, "init"):
            flags = [*flags, "--init", source]
        if name != "merge" and not (yes or "--yes" in context.args):
            check_work(file, stored, asked, source)
    if name == "edit":  # its --query names all of them
        stored["query"] = [stored["query"], *stored.pop("next_queries")]
    prompts: list[str] = [stored["prompt"]] if name == "generate" else stored.get("prompts", [])
    arguments = sources if name == "merge" else arguments or prompts or sources
    kept = (context.find_root().default_map or {}).get(name, {})
    usual = {"output": str(default_output(file, source))}
    with command.make_context(
        name,
        [*flags, "--", *arguments],
        parent=context.parent,
        default_map={**kept, **for_commands(command, {**usual, **stored})},
        obj=Layer(stored, {**context.obj.sources, **dict.fromkeys(stored, str(file))}),
    ) as inner:
        with plain_errors(talk):
            for flag in other_masks(stored, inner.params, arguments):
                terminal.warn(f"{flag} is not what {file} was made with: the result will differ.")
        command.invoke(inner)


def talk_of(words: list[str]) -> TalkConfig:
    return TalkConfig(
        json="--json" in words,
        verbose=bool({"-v", "--verbose"} & {*words}),
        quiet=bool({"-q", "--quiet"} & {*words}),
    )


def first_of(places: list[str]) -> str | None:
    return places[0] if places else None


def positionals(
    file: Path, stored: Mapping[str, Any], words: list[str], asked: typer.Context
) -> tuple[list[str], list[str]]:
    """What stands before the first flag, and the rest. SettingError: more of it than the command takes."""
    first = next((i for i, word in enumerate(words) if word.startswith("-") and word != "-"), len(words))
    places, flags = words[:first], words[first:]
    names = {"edit": "pictures", "merge": "edited", "generate": "prompt", "interpolate": "prompts"}
    name = names.get(stored["command"], "picture")
    found = asked.params.get(name) or ()
    count = len(found) if isinstance(found, (list, tuple)) else 1
    extra = len(asked.args) + max(0, count - len(places))
    most = {"prompts": len(places), "edited": 2}.get(name, 1)
    if extra or len(places) > most:
        wanted, inputs = ("ORIGINAL EDITED", "two inputs") if name == "edited" else ("PICTURE", "one input")
        raise SettingError(
            f"{file} is rerun from {inputs}, and there are more words that belong to no flag.",
            f"Put the names right after the file: diffedit rerun FILE {wanted} [FLAGS].",
        )
    return places, flags


def check_what_is_needed(file: Path, stored: Mapping[str, Any], asked: typer.Context) -> None:
    """SettingError if the run took files that its result does not hold, and they are not given again."""
    needed = {flag[2:].replace("-", "_"): "a mask" for key, flag in MASKS.items() if key in stored}
    for key in ("lora", "embedding"):
        if stored.get(key):
            needed[key] = ", ".join(stored[key])
    if stored.get("text_encoder"):
        needed["text_encoder"] = f"the text encoder {' and '.join(stored['text_encoder'])}"
    if stored.get("vae"):
        needed["vae"] = f"the VAE {stored['vae']}"
    if "model" in stored and not is_trusted(stored):
        needed["model"] = f"the local model {stored['model']}" if stored.get("model_is_local") else ""
    for key, what in needed.items():
        flag = "--" + key.replace("_", "-")
        if is_given(asked, key):
            continue
        if key == "model" and not what:
            raise SettingError(
                f"{file} was made with the model {stored['model']}, which is not on this machine.",
                f"If you trust it, name it yourself: {flag} {stored['model']}.",
            )
        raise SettingError(
            f"{file} was made with {what}, which is not stored in it.", f"Give it again with {flag}."
        )


def is_trusted(stored: Mapping[str, Any]) -> bool:
    """Whether a result's model may be used unasked: the embedded one, a preset, or what is in the cache."""
    from ..models.presets import PRESETS
    from ..models.sources import find_hub_id, find_in_cache, local_path

    name, revision = stored["model"], stored.get("revision")
    if name == "embedded":
        return True
    if stored.get("model_is_local") or local_path(name) is not None:
        return False
    if name in PRESETS and revision in (None, PRESETS[name].revision):
        return True
    return find_in_cache(find_hub_id(name, revision, stored.get("variant"))) is not None


def is_same_model(named: str, stored: Mapping[str, Any]) -> bool:
    """Whether the model named is that of a result, by its public name or its repository."""
    from ..models.presets import PRESETS
    from ..settings import public_name

    def repository(name: str) -> str:
        return PRESETS[name].repository if name in PRESETS else name

    return repository(public_name(named)) == repository(stored["model"])


def is_few_step(named: str, stored: Mapping[str, Any]) -> bool:
    """Whether a few-step model made a result, or is named now: the one's steps do not suit the other."""
    from ..models import own_defaults

    return "steps" in own_defaults(named) or stored["timestep_spacing"] != CAME["timestep_spacing"]


def has_norm(stored: Mapping[str, Any]) -> bool:
    """Whether a norm had an effect on a result; if not, the one stored says nothing."""
    schema = SCHEMAS[stored["command"]]
    config = build(schema, {key: stored[key] for key, *_ in keys(schema) if key in stored})
    is_plain = config.guidance.method == "cfg" and getattr(config, "inversion", "") != "flowedit"
    return is_plain and not is_unguided(config.guidance)


def adapted(
    file: Path, stored: Mapping[str, Any], asked: typer.Context, terminal: Terminal
) -> dict[str, Any]:
    """The stored settings without those that flags rule out; notes what may make the result differ."""
    gone = {"compile"}  # a picture starts no compiler
    if is_given(asked, "guidance_norm") or is_given(asked, "guidance_method"):
        gone.add("guidance_scale")  # it is a measure of the old one
    if "guidance_norm" in stored and not has_norm(stored):
        gone.add("guidance_norm")
    if is_given(asked, "model"):
        if not is_same_model(asked.params["model"], stored):
            gone |= OF_THE_MODEL | {"low_memory"}
            gone |= set() if stored["command"] == "interpolate" else {"strength"}
            gone |= {"guidance_method"} if stored.get("guidance_method") in ("cfg", "embedded") else set()
            if stored.get("guidance_norm") == stored.get("own_norm", "none"):
                gone.add("guidance_norm")
            if is_few_step(asked.params["model"], stored):
                gone |= {"steps", "solver", "inversion", "timestep_spacing"}
        elif not is_trusted(stored):
            gone |= {"revision", "variant"}
    if any(
        is_given(asked, key) for of in (EditConfig, ModelConfig) for key, *_ in keys(of) if key != "model"
    ):
        gone.add("together")  # another result: nothing to repeat to the byte
    if stored.get("compile") and not is_given(asked, "compile"):
        terminal.warn(
            f"{file} was made with --compile, which a stored setting never turns on: rounding will differ."
        )
    if stored["diffedit"] != __version__:
        terminal.warn(
            f"{file} was made by diffedit {stored['diffedit']}, and this is {__version__}: "
            "the result may differ."
        )
    kept = {key: value for key, value in stored.items() if key not in gone}
    settled(
        lambda: config_of(kept, asked),
        kept,
        terminal.warn,
        rank=lambda key: GIVEN if is_given(asked, key) else int(key in kept),
        origin=lambda key: str(file),
    )
    return kept


def config_of(stored: Mapping[str, Any], asked: typer.Context) -> Any:
    """The settings of the run: the stored ones, and over them those that flags give."""
    schema = SCHEMAS[stored["command"]]
    known = {key for key, *_ in keys(schema)}
    given = {key: value for key, value in asked.params.items() if is_given(asked, key) and key in known}
    for key in ("query", "seed"):  # a flag that may be repeated where its setting has one value
        if stored["command"] in ("edit", "generate") and key in given:
            given[key] = given[key][0]
    return build(schema, {key: value for key, value in stored.items() if key in known}, given)


def check_work(file: Path, stored: Mapping[str, Any], asked: typer.Context, source: str | None) -> None:
    """SettingError for a run that takes far more work than its picture needs: a file can say anything."""
    from ..images.read import load_image

    config = config_of(stored, asked)
    side = max(getattr(config, name, None) or 0 for name in ("size", "width", "height"))
    texts = {"prompts": ("a", "b")} if stored["command"] == "interpolate" else {}
    work = count_forwards(config) / count_forwards(build(SCHEMAS[stored["command"]], texts))
    if side > LARGE_SIDE:
        path = source or (None if file.is_dir() or file.suffix.lower() == ".mp4" else file)
        side = 0 if path and side <= 2 * max(load_image(path).rgb.size) else side
    if side > LARGE_SIDE or work > MUCH_WORK:
        what = f"{side} pixels a side" if side > LARGE_SIDE else f"{work:.0f} times the usual steps"
        raise SettingError(
            f"{file} asks for a run of {what}, far more than its picture needs.",
            "Add --yes to run it, or give smaller values.",
        )


def count_forwards(config: Any) -> int:
    """Sample-forwards of a run, the most that it can take."""
    from ..core.costs import edit_forwards
    from ..core.guidance import forwards_per_run
    from ..core.text2image import count_frames

    config = config.as_edit() if isinstance(config, RemoveConfig) else config
    config = filled_in(config, {"guidance_method": config.guidance.method})
    if isinstance(config, EditConfig):
        return sum(edit_forwards(config).values())
    frames = count_frames(config) if isinstance(config, InterpolateConfig) else 1
    return frames * forwards_per_run(config.guidance, config.step_count)


def default_output(file: Path, source: str | None) -> Path:
    """The name of the result: that of the file with -rerun, which never is the input's."""
    stem = cut(file.stem, 200)
    names = (file.with_name(f"{stem}{end}{file.suffix}") for end in ("-rerun", "-again"))
    return next(name for name in names if source is None or name.resolve() != Path(source).resolve())


def other_masks(stored: Mapping[str, Any], params: Mapping[str, Any], arguments: list[str]) -> list[str]:
    """The flags whose masks differ from those of the run that is stored, by their SHA-256."""
    given = {key: path for key in MASKS if (path := params.get(key.removesuffix("_sha256"))) is not None}
    if not {*given} & {*stored}:
        return []

    from ..images.read import load_image
    from .files import read_masks

    files = (given.get(key) for key in MASKS)
    found = read_masks(files, load_image(arguments[0])).hashes()
    return [MASKS[key] for key in given if key in stored and found[key] != stored[key]]
