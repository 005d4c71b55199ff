"""diffedit config"""

from collections.abc import Callable
from typing import Annotated

import typer

from ..settings import TalkConfig
from . import defaults
from .options import with_flags
from .terminal import Terminal, plain_errors

config = typer.Typer(help="Show, find and change the stored settings.", no_args_is_help=True)


@config.callback()
def group() -> None:
    """Show, find and change the stored settings."""


@config.command()
@with_flags(talk_config=TalkConfig)
def show(*, talk_config: Callable[..., TalkConfig]) -> None:
    """Show each setting that is configured, and where it is set."""
    talk = talk_config()
    with plain_errors(talk):
        found = defaults.read_config()
        facts = {key: {"value": found.values[key], "from": found.sources[key]} for key in found.values}
        lines = [f"{key} = {item['value']}  ({item['from']})" for key, item in facts.items()]
        terminal = Terminal(talk)
        for note in found.notes:
            terminal.warn(note)
        terminal.answer({"settings": facts}, lines or ["Nothing is configured, so the defaults apply."])


@config.command()
@with_flags(talk_config=TalkConfig)
def path(*, talk_config: Callable[..., TalkConfig]) -> None:
    """Show where the user's and the project's settings files are, or would be."""
    talk = talk_config()
    with plain_errors(talk):
        files = {"user": defaults.user_file(), "project": defaults.project_file()}
        facts = {name: {"path": str(file), "exists": file.is_file()} for name, file in files.items()}
        lines = [
            f"{name:8} {file}{'' if file.is_file() else '  (does not exist)'}" for name, file in files.items()
        ]
        Terminal(talk).answer(facts, lines)


@config.command("set")
@with_flags(talk_config=TalkConfig)
def set_setting(
    key: Annotated[str, typer.Argument(help="The setting, for example steps or mask_threshold.")],
    value: Annotated[str, typer.Argument(help="Its value; separate several values with commas.")],
    project: Annotated[
        bool,
        typer.Option(
            "--project/--no-project",
            help="Save it in the project's file, for this folder and those below it.",
            show_default=False,
        ),
    ] = False,
    *,
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Save a setting in the user's file or in the project's."""
    talk = talk_config()
    with plain_errors(talk):
        file = defaults.project_file() if project else defaults.user_file()
        stored = defaults.set_value(file, key.replace("-", "_"), value)
        Terminal(talk).answer(
            {"key": key.replace("-", "_"), "value": stored, "path": str(file)}, [f"Wrote {file}."]
        )
