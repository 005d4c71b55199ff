"""diffedit config"""

from collections.abc import Callable
from typing import Annotated

import typer

from ..settings import TalkConfig
from . import defaults
from .options import with_flags
from .terminal import Terminal, plain_errors

config = typer.Typer(help="Settings that are kept: show them, say where, set one.", no_args_is_help=True)


@config.callback()
def group() -> None:
    """Settings that are kept: show them, say where, set one."""


@config.command()
@with_flags(talk_config=TalkConfig)
def show(*, talk_config: Callable[..., TalkConfig]) -> None:
    """Show each setting that is configured, and where."""
    talk = talk_config()
    with plain_errors(talk):
        found = defaults.read_config()
        facts = {key: {"value": found.values[key], "from": found.sources[key]} for key in found.values}
        lines = [f"{key} = {item['value']}  ({item['from']})" for key, item in facts.items()]
        Terminal(talk).answer({"settings": facts}, lines or ["Nothing is configured: the defaults hold."])


@config.command()
@with_flags(talk_config=TalkConfig)
def path(*, talk_config: Callable[..., TalkConfig]) -> None:
    """Say where the user's and the project's file are, or would be."""
    talk = talk_config()
    with plain_errors(talk):
        files = {"user": defaults.user_file(), "project": defaults.project_file()}
        facts = {name: {"path": str(file), "exists": file.is_file()} for name, file in files.items()}
        lines = [
            f"{name:8} {file}{'' if file.is_file() else '  (not there)'}" for name, file in files.items()
        ]
        Terminal(talk).answer(facts, lines)


@config.command("set")
@with_flags(talk_config=TalkConfig)
def set_setting(
    key: Annotated[str, typer.Argument(help="The setting, e.g. steps or mask_threshold.")],
    value: Annotated[str, typer.Argument(help="Its value; several have commas between them.")],
    project: Annotated[
        bool, typer.Option("--project", help="Set it for this folder and those below it.")
    ] = False,
    *,
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Keep a setting in the user's file, or in the project's."""
    talk = talk_config()
    with plain_errors(talk):
        file = defaults.project_file() if project else defaults.user_file()
        stored = defaults.set_value(file, key.replace("-", "_"), value)
        Terminal(talk).answer(
            {"key": key.replace("-", "_"), "value": stored, "path": str(file)}, [f"Wrote {file}."]
        )
