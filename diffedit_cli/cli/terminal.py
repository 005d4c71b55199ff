"""What people see: results on stdout, everything else on stderr."""

import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from ..errors import DiffeditError, is_shortage
from ..settings import TalkConfig
from .interrupt import SENTENCE, begin_work

if TYPE_CHECKING:
    from ..compare import Comparison
    from ..core.types import Report
    from ..merge import MergeResult
    from ..results import EditResult, Generated, MaskResult

    Result = EditResult | MaskResult | Generated | Comparison | MergeResult

STAGES = {
    "mask": "Finding the mask",
    "invert": "Encoding the picture",
    "decode": "Drawing the change",
    "generate": "Drawing",
    "frame": "Drawing frames",
    "compare": "Drawing tiles",
}


class Terminal:
    """Says to the user what TalkConfig allows. With the output `-` stdout is the picture's: JSON goes to
    stderr, and then nothing else does."""

    def __init__(self, talk: TalkConfig, output: str | None = None) -> None:
        self.talk = talk
        self.is_piped = output == "-"
        quiet = talk.quiet or (talk.json and self.is_piped)
        self.console = Console(stderr=True, highlight=False, quiet=quiet, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"Note: {text}", style="yellow", markup=False)

    def result(self, facts: Mapping[str, Any], lines: list[str]) -> None:
        """The outcome: JSON on stdout if that was asked for, else sentences for people."""
        if self.talk.json:
            typer.echo(json.dumps(facts), err=self.is_piped)
        else:
            for line in lines:
                self.say(line)

    def answer(self, facts: Mapping[str, Any], lines: list[str]) -> None:
        """What was asked for, on stdout: JSON if that was asked for, else lines."""
        typer.echo(json.dumps(facts) if self.talk.json else "\n".join(lines))

    def fail(self, error: DiffeditError, source: str = "") -> None:
        """What went wrong, in one sentence and what to do, also under --quiet; source: the input, of several.

        The traceback only under --verbose. To be called where the error is handled.
        """
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        if self.talk.verbose:
            console.print_exception()
        if self.talk.json:
            about = {"input": source} if source else {}
            typer.echo(json.dumps({**about, "error": error.message, "hint": error.hint}), err=self.is_piped)
        if not (self.talk.json and self.is_piped):
            text = f"Error: {source}: {error}" if source not in error.message else f"Error: {error}"
            console.print(text, style="bold red", markup=False)

    def finish(self, result: "Result", target: Path | None, sentence: str, **more: Any) -> None:
        """The outcome of a run: what to note, what it cost (--verbose), and where it is.

        more: further facts for --json.
        """
        run = result.run
        for notice in result.notices:
            self.warn(notice)
        if self.talk.verbose:
            self.say(
                f"{run.seconds:.2f} s, {run.network_seconds / run.seconds:.1%} of it in the networks; "
                f"{run.forwards} UNet sample-forwards"
                + (f", for {run.results} results made together." if run.results > 1 else ".")
            )
        where = "the picture to stdout" if target is None else target
        facts = {"output": str(target or "-"), **more, **result.facts()}
        self.result(facts, [f"Wrote {where}{sentence}"])

    @contextmanager
    def progress(self, units: Mapping[str, int]) -> Generator["Report", None, None]:
        """A bar with what is being done and the time left over all stages; units: {stage: its weight}."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        begin_work()
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}")
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # it would leave an empty line in a log
        ) as bar:
            task = bar.add_task("", total=sum(units.values()), step="")
            order = list(units)

            def report(stage: str, done: int, total: int) -> None:
                before = sum(units[name] for name in order[: order.index(stage)])
                reached = before + units[stage] * done / total
                bar.update(
                    task,
                    completed=max(reached, bar.tasks[0].completed),  # a zoom searches more than once
                    description=STAGES[stage],
                    step=f"{done}/{total}",
                )

            yield report


@contextmanager
def plain_errors(talk: TalkConfig, output: str | None = None) -> Generator[None, None, None]:
    """End a command that failed with one sentence and the right exit code; a traceback only if asked for."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        known = error if isinstance(error, DiffeditError) else explain(error)
        Terminal(talk, output).fail(known)
        raise typer.Exit(known.exit_code) from None
    except KeyboardInterrupt:
        Console(stderr=True).print(SENTENCE)
        raise typer.Exit(130) from None


def explain(error: Exception) -> DiffeditError:
    """What no part of the program foresaw, as one sentence and what to do."""
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return DiffeditError("What reads the output has gone away.", "Write to a file with -o.")
    if is_shortage(error):
        return DiffeditError(
            "The memory is full.", "Use a smaller --size or picture, or close other programs."
        )
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return DiffeditError(f"{name}{error.strerror}.", "Check the disk's room and the permissions.")
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return DiffeditError(
        f"This is a fault of the program ({what}).", "Please report it with what --verbose shows."
    )


def silence_stdout() -> None:
    """Python flushes stdout once more at its exit, and would complain there."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
