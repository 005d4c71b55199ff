"""The help: examples that parse, flags for experts apart, and a --no- form of every switch."""

import shlex
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.cli.defaults import ARGUMENTS
from diffedit_cli.cli.help import EXAMPLES
from diffedit_cli.settings import (
    PRESETS,
    EditConfig,
    FilmConfig,
    GenerateConfig,
    InterpolateConfig,
    TalkConfig,
    keys,
)

PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def every(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each command with the words that call it, groups too."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from every(below, f"{path} {name}".strip())


COMMANDS = dict(every(get_command(app)))


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, words, env=PLAIN, prog_name="diffedit")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("path", COMMANDS)
def test_each_help_begins_with_two_examples_that_parse(path: str) -> None:
    first, *lines = shown(*path.split(), "--help").splitlines()
    assert first == "Examples:"
    assert [line.strip() for line in lines[:2]] == [*EXAMPLES[path]]
    root = get_command(app)
    for example in EXAMPLES[path]:
        program, *words = shlex.split(example)
        assert program == "diffedit"
        assert example.startswith(f"diffedit {path}".strip())
        command, context = root, root.make_context("diffedit", list(words))
        while hasattr(command, "commands"):
            _, command, words = command.resolve_command(context, words)
            context = command.make_context(command.name, list(words), parent=context)
        assert not context.args or command.name == "rerun"


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert {*EXAMPLES} == {*COMMANDS}


@pytest.mark.parametrize(
    ("command", "schema"),
    [
        ("edit", EditConfig),
        ("compare", EditConfig),
        ("generate", GenerateConfig),
        ("interpolate", InterpolateConfig),
    ],
)
def test_flags_for_experts_are_shown_on_demand(command: str, schema: type) -> None:
    brief, full = ({*shown(command, flag).split()} for flag in ("--help", "--help-all"))
    for key, _, about, _ in keys(schema):
        flag = "--" + key.replace("_", "-")
        if key not in ARGUMENTS:
            assert any(word.startswith(flag) for word in full), flag
        if key not in (*ARGUMENTS, *chain(*PRESETS.values())):  # --fast and --paper name theirs
            assert any(word.startswith(flag) for word in brief) is not about["expert"], flag
    assert "--help-all" in brief
    assert len(brief) < len(full)


def test_a_command_without_expert_flags_has_one_help() -> None:
    assert "--help-all" not in shown("doctor", "--help")


SWITCHES = [
    (path, param)
    for path, command in COMMANDS.items()
    for param in command.params
    if path and getattr(param, "is_flag", False) and (not param.is_eager or param.name in PRESETS)
]


@pytest.mark.parametrize(
    ("path", "param"), SWITCHES, ids=[f"{path}-{param.name}" for path, param in SWITCHES]
)
def test_every_switch_can_be_set_both_ways(path: str, param: Any) -> None:
    assert any(flag.startswith("--") for flag in param.opts)
    assert any(flag.startswith("--") for flag in param.secondary_opts)


def test_the_switches_are_all_there() -> None:
    found = {(path, param.name) for path, param in SWITCHES}
    wanted = {
        ("edit", key)
        for schema in (EditConfig, FilmConfig, TalkConfig)
        for key, kind, *_ in keys(schema)
        if kind is bool
    }
    assert wanted | {("edit", "overwrite"), ("config set", "project"), ("interpolate", "resume")} <= found
