"""The command line in this process, as a user with a wide, plain terminal sees it."""

from typing import Any

from typer.testing import CliRunner

from diffedit_cli.cli.app import app

TERMINAL = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env=TERMINAL)


def good(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return result
