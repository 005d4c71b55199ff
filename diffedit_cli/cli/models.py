"""diffedit models"""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..settings import ModelConfig, TalkConfig
from . import defaults
from .options import with_flags
from .session import told_defaults
from .terminal import Terminal, plain_errors

models = typer.Typer(
    help="List, describe, fetch and convert checkpoints, and choose the default.", no_args_is_help=True
)

MODEL_HELP = "embedded, sd15, ..., a Hugging Face Hub id, a folder, a .safetensors or .gguf file."
Name = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of the weight files, e.g. fp16.")]


@models.callback()
def group() -> None:
    """List, describe, fetch and convert checkpoints, and choose the default."""


@models.command("list")
@with_flags(talk_config=TalkConfig)
def list_models(*, talk_config: Callable[..., TalkConfig]) -> None:
    """List the checkpoints that have a name: the embedded one, the presets, and those in the Hub's cache."""
    talk = talk_config()
    with plain_errors(talk):
        from ..models import EMBEDDED, catalogue, converted_networks, known_words

        words, entries, converted = known_words(EMBEDDED) or {}, catalogue(), converted_networks()
        lines = [
            f"{entry.name:42} {amount(entry.bytes):>8} {'here' if entry.is_here else 'to fetch':9} "
            f"{entry.licence:24} {entry.about}".rstrip()
            for entry in entries
        ]
        lines += [f"embedded knows {kind}: {', '.join(some)}." for kind, some in words.items()]
        lines += [
            f"Converted for OpenVINO {one.openvino}: {' with '.join([one.model, *one.lora])}, {one.dtype}, "
            f"{amount(one.bytes)}."
            for one in converted
        ]
        facts = {"models": entries, "converted": converted}
        plain = {key: [vars(one) for one in some] for key, some in facts.items()}
        Terminal(talk).answer({**plain, "words": words}, lines)


@models.command("info")
@with_flags(talk_config=TalkConfig)
def info(
    model: Name, revision: Revision = None, variant: Variant = None, *, talk_config: Callable[..., TalkConfig]
) -> None:
    """Describe a checkpoint: its kind, size, licence and the memory that it needs. Nothing is downloaded."""
    talk = talk_config()
    with plain_errors(talk):
        from ..models import describe

        facts = describe(model, revision=revision, variant=variant)
        Terminal(talk).answer(facts, [f"{name:12} {value}" for name, value in told(facts).items()])


def told(facts: dict[str, Any]) -> dict[str, str]:
    """What `describe` found, for people."""
    count = facts["parameters"]
    own = {
        "about": facts.get("about", ""),
        "family": facts.get("kind", ""),
        "predicts": facts.get("predicts", ""),
        "scheduler": facts.get("scheduler", ""),
        "lacks": " and ".join(facts.get("lacks", [])),
        "side": f"{facts['side']} pixels",
        "size": f"{amount(facts['bytes'])} {'on disk' if facts['is_here'] else 'to fetch'}",
        "weights": f"{count / 1e6:.0f} million",
        "memory": told_memory(facts["memory"]),
        "networks": ", ".join(
            f"{part} {network['parameters'] / 1e6:.0f} million ({network['dtype']})"
            for part, network in facts.get("networks", {}).items()
        ),
    }
    defaults = facts.get("defaults", {})
    own["defaults"] = told_defaults(defaults)
    for name in ("licence", "repository", "revision", "variant", "path"):
        own[name] = str(facts.get(name) or "")
    return {"name": facts["name"], **{name: value for name, value in own.items() if value}}


def told_memory(needs: dict[str, Any]) -> str:
    """What a run needs here, and what there is."""
    there = f"{amount(needs['free'])} are free"
    if needs["run"] > needs["free"]:
        there += ", so --low-memory will be on"
        if needs["kept"] < needs["weights"]:
            there += f" and the weights stay quantised and take {amount(needs['kept'])}"
        if needs["at_once"] < needs["kept"]:
            there += f", with {amount(needs['at_once'])} of the weights in memory at a time"
        if needs["at_once"] > needs["free"]:
            there += ", and even that is too little"
    return (
        f"about {amount(needs['run'])} for a run on {needs['device']} in {needs['dtype']}, "
        f"{amount(needs['weights'])} of it weights; {there}"
    )


@models.command("pull")
@with_flags(talk_config=TalkConfig)
def pull_model(
    model: Name, revision: Revision = None, variant: Variant = None, *, talk_config: Callable[..., TalkConfig]
) -> None:
    """Download a checkpoint from the Hub, so that later runs need no network."""
    talk = talk_config()
    with plain_errors(talk):
        from ..models import pull

        if talk.quiet:
            from huggingface_hub.utils import disable_progress_bars

            disable_progress_bars()
        path = str(pull(model, revision=revision, variant=variant).path)
        Terminal(talk).result({"name": model, "path": path}, [f"{model} is here: {path}"])


CONVERTED = ("model", "embedding", "device", "backend", "low_memory", "compile")  # no matter to a conversion


@models.command("optimize")
@with_flags(without=CONVERTED, model_config=ModelConfig, talk_config=TalkConfig)
def optimize_model(
    model: Name, *, model_config: Callable[..., ModelConfig], talk_config: Callable[..., TalkConfig]
) -> None:
    """Convert a checkpoint's networks for OpenVINO, which runs them faster on a CPU.

    This takes seconds to a minute, once (minutes with --dtype int8), and about as much disk space as the
    weights. From then on every command uses the converted networks unless --backend torch is given; those in
    8 bits are used only with --dtype int8. Results differ in rounding.
    """
    talk = talk_config()
    with plain_errors(talk):
        from .session import convert

        terminal = Terminal(talk)
        found = convert(model_config({"model": model}), terminal)
        cost = f"{amount(found.bytes)} in {found.path}, {found.seconds:.0f} s"
        lines = [f"{found.model} is converted for OpenVINO in {found.dtype}: {cost}."]
        terminal.result(vars(found), lines)


@models.command("clean")
@with_flags(talk_config=TalkConfig)
def clean(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)] = None,
    *,
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Remove the networks that were converted for OpenVINO, of one checkpoint or of all."""
    talk = talk_config()
    with plain_errors(talk):
        from ..models import remove_converted

        gone = remove_converted(model)
        lines = [f"Removed {one.model}, {one.dtype}: {amount(one.bytes)}." for one in gone]
        Terminal(talk).result(
            {"removed": [vars(one) for one in gone]}, lines or ["There was nothing to remove."]
        )


@models.command("default")
@with_flags(talk_config=TalkConfig)
def default_model(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)] = None,
    *,
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Show the default checkpoint, or set it in the user's settings file."""
    talk = talk_config()
    with plain_errors(talk):
        if model is not None:
            from ..models import check_name

            check_name(model)
            model = defaults.set_value(defaults.user_file(), "model", model)
        found = defaults.read_config()
        used = found.values.get("model", ModelConfig().model)
        source = found.sources.get("model", "the package")
        lines = [f"{used}  ({source})"]
        if model not in (None, used):
            lines.append(f"{model} is in {defaults.user_file()}, but {source} takes precedence.")
        Terminal(talk).answer({"model": used, "from": source}, lines)


def amount(size: int) -> str:
    """Bytes for people: 37 MB, 2.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
