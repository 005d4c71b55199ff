"""The Typer app: which commands there are. Nothing here or in the command files imports torch at the top."""

import os
import warnings
from typing import Annotated

import typer

from .. import __version__
from .batch import batch
from .compare import compare
from .config import config
from .defaults import for_commands, read_leniently
from .doctor import doctor
from .edit import edit
from .generate import generate
from .help import Command, Group, Root
from .info import info
from .interpolate import interpolate
from .mask import mask
from .merge import merge
from .models import models
from .remove import remove
from .rerun import rerun
from .serve import serve

app = typer.Typer(
    name="diffedit",
    cls=Root,
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
    """Change one object in a picture by naming it, and leave every other pixel as it was."""
    if context.invoked_subcommand != "config":  # which is there to mend it
        context.obj = read_leniently()
        context.default_map = for_commands(context.command, context.obj.values)


for command in (edit, remove, batch, mask, compare, merge, generate, interpolate, serve, doctor, info):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})(rerun)
for name, group in {"models": models, "config": config}.items():
    app.add_typer(group, name=name, cls=Group)
for group in (app, models, config):
    for registered in group.registered_commands:
        registered.cls = Command


def main() -> None:
    if "_DIFFEDIT_COMPLETE" in os.environ:  # a shell asks: fish takes every line of a broken help for a flag
        os.environ["COLUMNS"] = "1000"
    warnings.filterwarnings("ignore", module="PIL")  # images/ says what is wrong with a file
    app()
