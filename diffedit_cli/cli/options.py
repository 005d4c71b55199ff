"""Flags made from the settings, so that each setting is written once (settings/)."""

import functools
import inspect
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from ..settings import FAST, build, keys, option_name, read_lists
from .help import HELP_ALL

Command = Callable[..., None]

Queries = Annotated[
    list[str],
    typer.Option(
        "--query",
        "-p",
        "--prompt",
        help="What to put there instead, for example zebra. Repeat the flag for several results.",
        rich_help_panel="Text",
        show_default=False,
    ),
]
PictureFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="PICTURE...", help="One or more pictures or folders; - is stdin.", show_default=False
    ),
]
PictureFile = Annotated[str, typer.Argument(metavar="PICTURE", help="The picture; - is stdin.")]
Output = Annotated[
    str | None,
    typer.Option(
        "-o", "--output", help="File or folder for the result; - is stdout.", rich_help_panel="Files"
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite/--no-overwrite",
        help="Replace existing files.",
        rich_help_panel="Files",
        show_default=False,
    ),
]
NoMetadata = Annotated[
    bool,
    typer.Option(
        "--no-metadata/--metadata",
        help="Do not store the settings in the result.",
        rich_help_panel="Files",
        show_default=False,
    ),
]
UseMask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        help="Edit the white part of this picture instead of searching. A folder holds one mask for each "
        "picture, under the picture's name.",
        rich_help_panel="Mask",
    ),
]
AddMask = Annotated[
    Path | None,
    typer.Option(
        "--mask-add", help="Add the white part of this picture to the mask.", rich_help_panel="Mask"
    ),
]
SubtractMask = Annotated[
    Path | None,
    typer.Option(
        "--mask-subtract", help="Take the white part of this picture out of the mask.", rich_help_panel="Mask"
    ),
]


def use_fast(context: typer.Context, wanted: bool) -> bool:
    """Put the settings of --fast in place of the defaults; flags override them."""
    if wanted:
        context.default_map = {**(context.default_map or {}), **FAST}
    return wanted


def fast_option(without: tuple[str, ...] = ()) -> Any:
    """--fast; its help names the settings that the command has."""
    settings = ", ".join(f"{option_name(key)} {value}" for key, value in FAST.items() if key not in without)
    return typer.Option(
        "--fast/--no-fast",
        help=f"Trade some quality for time: {settings}, unless given.",
        show_default=False,
        rich_help_panel="Sampling",
        is_eager=True,
        callback=use_fast,
    )


DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run/--no-dry-run",
        help="Say what would be done, and stop.",
        rich_help_panel="Messages",
        show_default=False,
    ),
]


def with_flags(
    without: tuple[str, ...] = (), comma_lists: str = "", **schemas: type
) -> Callable[[Command], Command]:
    """Give a command one flag for each setting of each schema, except those named in `without`.

    Under each schema's keyword the command receives a function that makes the config from the flags; further
    settings can be passed to it as a mapping. Under the keyword that `comma_lists` names, flags take comma
    lists, and the function returns those that were used (settings.read_lists).
    """

    def decorate(command: Command) -> Command:
        wanted = {
            name: [item for item in keys(schema) if item[0] not in without]
            for name, schema in schemas.items()
        }

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            for name, items in wanted.items():
                given = {key: arguments.pop(key) for key, *_ in items}
                if name == comma_lists:
                    given = {key: text for key, text in given.items() if text is not None}
                read = read_lists if name == comma_lists else build
                arguments[name] = functools.partial(read, schemas[name], given)
            arguments.pop("help_all", None)
            command(**arguments)

        own = [p for p in inspect.signature(command).parameters.values() if p.name not in schemas]
        first, *rest = (
            [list_flag_of(*item) if name == comma_lists else flag_of(*item) for item in items]
            for name, items in wanted.items()
        )
        experts = {key for items in wanted.values() for key, _, about, _ in items if about["expert"]}
        last = [HELP_ALL] if experts else []
        order = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in chain(first, own, *rest, last)]
        run.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
        run.comma_lists = {key for key, *_ in wanted.get(comma_lists, [])}  # type: ignore[attr-defined]
        run.experts = experts  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in order}
        return run

    return decorate


def flag_of(key: str, kind: Any, metadata: dict[str, Any], default: Any) -> inspect.Parameter:
    """The parameter from which Typer makes a flag."""
    flag = option_name(key)
    if get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]], list(default)
    elif bool in (kind, *get_args(kind)):
        flag += f"/--no-{flag[2:]}"
    option = typer.Option(
        flag,
        *metadata["flags"],
        help=metadata["help"],
        rich_help_panel=metadata["panel"],
        show_default=default not in (None, "", [], False),
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def list_flag_of(key: str, kind: Any, metadata: dict[str, Any], default: Any) -> inspect.Parameter:
    """Like `flag_of`, for a flag that takes a comma list of values and is None if it is left out."""
    is_switch = bool in (kind, *get_args(kind))
    choices = ("on", "off") if is_switch else get_args(kind) if get_origin(kind) is Literal else ()
    usual = "+".join(map(str, default)) if isinstance(default, tuple) else default
    usual = ("off", "on")[default] if isinstance(default, bool) else usual
    option = typer.Option(
        option_name(key),
        *metadata["flags"],
        help=metadata["help"],
        metavar=f"<{'|'.join(choices)}>,..." if choices else "LIST",
        rich_help_panel=metadata["panel"],
        show_default=False if usual in (None, "") else str(usual),
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )
