"""Flags that have no effect in a run: a note says so."""

from collections.abc import Mapping

import typer

from ..settings import option_name
from .terminal import Terminal


def is_given(context: typer.Context, key: str) -> bool:
    """Whether a setting stands on the command line."""
    source = context.get_parameter_source(key)
    return source is not None and source.name == "COMMANDLINE"


def note_idle(context: typer.Context, terminal: Terminal, idle: Mapping[str, str]) -> None:
    """Note each flag on the command line that has no effect; idle: {its key: the reason}."""
    for key, why in idle.items():
        if is_given(context, key):
            terminal.warn(f"{option_name(key)} does nothing {why}.")
