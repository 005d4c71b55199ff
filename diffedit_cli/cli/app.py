"""The Typer app: which commands there are. Nothing here or in the command files imports torch at the top."""

import os
from typing import Annotated

import typer

from .. import __version__
from ..settings import TalkConfig
from .compare import compare
from .config import config
from .defaults import for_commands, read_config
from .doctor import doctor
from .edit import edit
from .generate import generate
from .info import info
from .interpolate import interpolate
from .mask import mask
from .models import models
from .rerun import rerun
from .serve import serve
from .terminal import plain_errors

app = typer.Typer(
    name="diffedit",
    help="Change one thing in a picture by naming it, and leave every other pixel as it was.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diffedit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Change one thing in a picture by naming it, and leave every other pixel as it was."""
    if context.invoked_subcommand != "config":  # that is there to mend it
        with plain_errors(TalkConfig()):
            context.default_map = for_commands(context.command, read_config().values)


for command in (edit, mask, compare, generate, interpolate, serve, doctor):
    app.command()(command)
app.command()(info)
app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})(rerun)
app.add_typer(models, name="models")
app.add_typer(config, name="config")


def main() -> None:
    if "_DIFFEDIT_COMPLETE" in os.environ:  # a shell asks: fish takes every line of a broken help for a flag
        os.environ["COLUMNS"] = "1000"
    app()
