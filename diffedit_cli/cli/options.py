"""Flags made from the settings, so that each setting is written once (settings/)."""

import functools
import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from ..errors import SettingError
from ..settings import MAX_SEED, PRESETS, EditConfig, TalkConfig, build, keys, option_name, read_lists
from .defaults import as_text, for_commands
from .help import HELP_ALL
from .origins import settled
from .terminal import Terminal, plain_errors

Command = Callable[..., None]
T = TypeVar("T")

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
Seeds = Annotated[
    list[int],
    typer.Option(
        "--seed",
        help="Seed of all noise; repeat the flag for several results. Without one a random seed is chosen, "
        "printed and stored in the result.",
        rich_help_panel="Sampling",
        show_default=False,
    ),
]
SeedCount = Annotated[
    int,
    typer.Option(
        "--seeds",
        help="Number of results, each with its own seed: --seed, or a random one, and those that follow it.",
        rich_help_panel="Sampling",
        show_default=False,
        min=1,
        max=1000,
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
        help="Edit the white part of this picture instead of searching, and grey parts less. A folder must "
        "hold a mask for each picture, with the picture's name.",
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
        "--mask-subtract", help="Remove the white part of this picture from the mask.", rich_help_panel="Mask"
    ),
]


def each_seed(seeds: Sequence[int], count: int) -> list[int]:
    """The seed of each result, from --seed and --seeds."""
    given = list(dict.fromkeys(seeds))
    if count > 1 and len(given) > 1:
        raise SettingError(
            "--seeds cannot be used with several seeds.",
            "Give one --seed to count up from, or repeat --seed.",
        )
    first = given[0] if given else secrets.randbelow(MAX_SEED + 2 - count)
    return given if len(given) > 1 else [*range(first, first + count)]


def preset_option(name: str, what: str, without: tuple[str, ...] = ()) -> Any:
    """--fast or --paper; its help names the settings that it changes. without: those the command lacks."""
    usual = {key: default for key, _, _, default in keys(EditConfig)}
    changed = [
        as_flag(key, value)
        for key, value in PRESETS[name].items()
        if value != usual[key] and key not in without
    ]

    def use(context: typer.Context, wanted: bool) -> bool:
        """Put the settings in place of the defaults and of what is configured; flags override them."""
        if not wanted:
            return False
        with plain_errors(TalkConfig()):
            for other in PRESETS:
                if other != name and context.params.get(other):
                    raise SettingError(
                        f"--{name} cannot be used with --{other}.",
                        "Each chooses the number of steps and more; leave one of the two out.",
                    )
        settings = for_commands(context.command, PRESETS[name])
        context.default_map = {**(context.default_map or {}), **settings}
        return True

    return typer.Option(
        f"--{name}/--no-{name}",
        help=f"{what}: {', '.join(changed)}, unless set otherwise.",
        show_default=False,
        rich_help_panel="Sampling",
        is_eager=True,
        callback=use,
    )


def as_flag(key: str, value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, bool):
        return option_name(key if value else f"no_{key}")
    return f"{option_name(key)} {as_text(value)}"


def fast_option(without: tuple[str, ...] = ()) -> Any:
    return preset_option("fast", "Trade some quality for time", without)


def paper_option(without: tuple[str, ...] = ()) -> Any:
    return preset_option("paper", "DiffEdit as it was published", without)


DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run/--no-dry-run",
        help="Say what would be done, without doing it.",
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
                    texts = {key: text for key, text in given.items() if text is not None}
                    arguments[name] = functools.partial(read_lists, schemas[name], texts)
                else:
                    arguments[name] = functools.partial(built, schemas[name], given)
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


def built(schema: type[T], given: dict[str, Any], *more: Mapping[str, Any]) -> T:
    """The config from the flags, and from what is configured and goes with them."""
    return settled(lambda: build(schema, given, *more), given, lambda note: Terminal.running().warn(note))


def flag_of(key: str, kind: Any, metadata: dict[str, Any], default: Any) -> inspect.Parameter:
    """The parameter from which Typer creates a flag."""
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
