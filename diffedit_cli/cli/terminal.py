"""What people see: results on stdout, everything else on stderr."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from ..errors import DiffeditError
from ..settings import TalkConfig

if TYPE_CHECKING:
    from ..api import EditResult, Generated, MaskResult
    from ..compare import Comparison
    from ..types import Report

    Result = EditResult | MaskResult | Generated | Comparison

STAGES = {
    "mask": "Finding the mask",
    "invert": "Encoding the picture",
    "decode": "Drawing the change",
    "generate": "Drawing",
    "frame": "Drawing frames",
    "compare": "Drawing tiles",
}


class Terminal:
    """Says to the user what TalkConfig allows."""

    def __init__(self, talk: TalkConfig) -> None:
        self.talk = talk
        self.console = Console(stderr=True, highlight=False, quiet=talk.quiet, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"Note: {text}", style="yellow", markup=False)

    def result(self, facts: Mapping[str, Any], lines: list[str]) -> None:
        """The outcome: JSON on stdout if that was asked for, else sentences for people."""
        if self.talk.json:
            typer.echo(json.dumps(facts))
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
            typer.echo(json.dumps({**about, "error": error.message, "hint": error.hint}))
        text = f"Error: {source}: {error}" if source else f"Error: {error}"
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
        if target is None:  # stdout is taken
            self.say(f"Wrote the picture to stdout{sentence}")
        else:
            facts = {"output": str(target), **more, **result.facts()}
            self.result(facts, [f"Wrote {target}{sentence}"])

    @contextmanager
    def progress(self, units: Mapping[str, int]) -> Generator["Report", None, None]:
        """A bar with what is being done and the time left over all stages; units: {stage: its weight}."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}")
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as bar:
            task = bar.add_task("", total=sum(units.values()), step="")
            order = list(units)

            def report(stage: str, done: int, total: int) -> None:
                before = sum(units[name] for name in order[: order.index(stage)])
                bar.update(
                    task,
                    completed=before + units[stage] * done / total,
                    description=STAGES[stage],
                    step=f"{done}/{total}",
                )

            yield report


@contextmanager
def plain_errors(talk: TalkConfig) -> Generator[None, None, None]:
    """End a command that failed with one sentence and the right exit code; a traceback only if asked for."""
    try:
        yield
    except DiffeditError as error:
        Terminal(talk).fail(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; nothing half-written was left.")
        raise typer.Exit(130) from None
