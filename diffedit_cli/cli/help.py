"""The help of each command: two examples first, and the flags for experts only under --help-all."""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .defaults import Layer
from .origins import running
from .terminal import Terminal, plain_errors, printable

EXAMPLES = {
    "": (
        "diffedit edit photo.jpg --ref horse --query zebra",
        'diffedit generate "a horse in a park" -o horse.png',
    ),
    "edit": (
        "diffedit edit photo.jpg --ref horse --query zebra",
        "diffedit edit *.jpg --ref horse --query zebra --query cow -o results/",
    ),
    "remove": (
        "diffedit remove photo.jpg --ref horse",
        "diffedit remove photo.jpg --mask painted.png --place meadow -o empty.png",
    ),
    "batch": (
        "diffedit batch photos/ --ref horse --query zebra -o dataset",
        "diffedit batch manifest.jsonl -o dataset --workers 2 --format parquet",
    ),
    "mask": (
        "diffedit mask photo.jpg --ref horse --query zebra",
        "diffedit mask photo.jpg --ref horse --query zebra --cutout horse.png",
    ),
    "compare": (
        "diffedit compare photo.jpg --ref horse --query zebra --strength 0.6,0.8,1",
        'diffedit compare --prompt "a horse,a zebra" --guidance-scale 3,7.5 --seed 1',
    ),
    "merge": (
        "diffedit merge photo.jpg returned.png -o merged.png",
        "diffedit merge photo.jpg returned.png --threshold 0.05 --grid grid.png",
    ),
    "generate": (
        'diffedit generate "a horse in a park"',
        'diffedit generate "a zebra in a park" --model sd15 --seed 7 -o zebra.png',
    ),
    "interpolate": (
        'diffedit interpolate "a horse" "a zebra" -o film.mp4',
        'diffedit interpolate "a horse" "a zebra" "a cow" --loop --seed 7 -o film.gif',
    ),
    "serve": ("diffedit serve --open", "diffedit serve --port 8000 --model sd15"),
    "doctor": ("diffedit doctor", "diffedit doctor --json"),
    "info": ("diffedit info photo-zebra.png", "diffedit info film.mp4 --json"),
    "rerun": (
        "diffedit rerun photo-zebra.png --query cow",
        "diffedit rerun photo-zebra.png pictures/photo.jpg --seed 8 -o other.png",
    ),
    "models": ("diffedit models list", "diffedit models pull sd15"),
    "models optimize": (
        "diffedit models optimize embedded",
        "diffedit models optimize sd15 --lora ink.safetensors",
    ),
    "models clean": ("diffedit models clean sd15", "diffedit models clean"),
    "models list": ("diffedit models list", "diffedit models list --json"),
    "models info": ("diffedit models info sd15", "diffedit models info ./my-model.safetensors"),
    "models pull": ("diffedit models pull sd15", "diffedit models pull org/name --variant fp16"),
    "models default": ("diffedit models default", "diffedit models default sd15"),
    "config": ("diffedit config set steps 50", "diffedit config show"),
    "config show": ("diffedit config show", "diffedit config show --json"),
    "config path": ("diffedit config path", "diffedit config path --json"),
    "config set": (
        "diffedit config set steps 50",
        "diffedit config set mask_strength 0.3,0.5 --project",
    ),
}
SHOW_ALL = "diffedit.help_all"


def show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[SHOW_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--help-all",
            callback=show_all,
            is_eager=True,
            help="Show every flag, including expert ones.",
        ),
    ],
)


class WithExamples:
    """Prints the examples of a command before its help."""

    callback: Any
    params: list[Any]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for param in self.params:
            if param.name in getattr(self.callback, "experts", ()):
                param.hidden = not ctx.meta.get(SHOW_ALL)
        examples = EXAMPLES.get(ctx.command_path.partition(" ")[2], ())
        typer.echo("\n".join(["Examples:", *(f"  {line}" for line in examples)]))
        ctx.default_map = {  # from a file, which may hold anything
            key: printable(value) if isinstance(value, str) else value
            for key, value in (ctx.default_map or {}).items()
        }
        super().format_help(ctx, formatter)  # type: ignore[misc]


class Command(WithExamples, TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        """Refuse a wrong configuration only here, so that every help can be read with one."""
        kept = ctx.find_root().obj
        with running(ctx):
            if isinstance(kept, Layer):
                terminal = Terminal.running()
                with plain_errors(terminal.talk, ctx.params.get("output")):
                    for note in kept.notes:
                        terminal.warn(note)
                    if kept.error is not None:
                        raise kept.error
            return super().invoke(ctx)


class Group(WithExamples, TyperGroup):
    """A command with commands below it."""


class Root(Group):
    """The whole program: errors of the command line are printed without control characters."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        with printable_errors():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        with printable_errors():
            return super().invoke(ctx)


@contextmanager
def printable_errors() -> Generator[None, None, None]:
    """Around what reads a command line, whose words may be names of a stranger's files."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of Typer's
            error.message = printable(str(getattr(error, "message", "")), keep="\n")  # type: ignore[attr-defined]
        raise
