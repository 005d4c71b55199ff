"""What people see: results on stdout, everything else on stderr, and no control characters on either."""

import errno
import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import DiffeditError, MemoryShort, SettingError, is_shortage
from ..settings import TalkConfig
from . import interrupt
from .origins import RUNNING, told_origins
from .streams import silence

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status

    from ..compare import Comparison
    from ..core.types import Report
    from ..merge import MergeResult
    from ..results import Changed, Generated, MaskResult

    Result = Changed | MaskResult | Generated | Comparison | MergeResult

STAGES = {
    "mask": "Finding the mask",
    "place": "Recognising the place",
    "invert": "Encoding the picture",
    "decode": "Drawing the change",
    "generate": "Drawing",
    "frame": "Drawing frames",
    "compare": "Drawing tiles",
    "convert": "Converting for OpenVINO",
    "calibrate": "Measuring activation ranges",
    "quantise": "Quantising the UNet to 8 bits",
}
SECONDS_A_LINE = 5.0  # between two lines of progress where there is no terminal to draw a bar in
LONG_LOAD = 15.0  # seconds of loading after which that is worth a line
# Control characters, what changes the direction of writing, line separators, and bytes that are not UTF-8.
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SHORTAGES = (
    "out of memory", "not enough memory", "an't allocate memory", "annot allocate memory", "ALLOC_FAILED",
    "could not create a primitive", "unable to mmap", "can't start new thread", "bad_alloc",
    "failed to map segment",
)  # fmt: skip

Show = Callable[[str, str, float], None]


def printable(text: str, keep: str = "") -> str:
    """The text with each control character as an escape sequence that people can read."""
    return UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


def plain_console(quiet: bool = False) -> Console:
    """stderr, where a text is never taken for markup or an emoji."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet, soft_wrap=True)


class Terminal:
    """Tells the user what TalkConfig allows. With the output `-` stdout is the picture's: JSON goes to
    stderr, and then nothing else does."""

    def __init__(self, talk: TalkConfig, output: str | None = None) -> None:
        self.talk = talk
        self.is_piped = output == "-"
        self.console = plain_console(quiet=talk.quiet or (talk.json and self.is_piped))
        # FORCE_COLOR makes rich take a log for a terminal
        self.is_live = self.console.is_terminal and sys.stderr.isatty() and not self.console.is_dumb_terminal

    @classmethod
    def running(cls) -> "Terminal":
        """That of the command that runs, as its flags want it."""
        context = RUNNING.get()
        given = context.params if context else {}
        talk = TalkConfig(**{key: given.get(key) is True for key in ("quiet", "verbose", "json")})
        return cls(talk, given.get("output"))

    def say(self, text: str, style: str = "") -> None:
        with suppress(OSError):  # nobody is there to read it
            self.console.print(printable(text), style=style)

    def warn(self, text: str) -> None:
        self.say(f"Note: {text}", "yellow")

    def result(self, facts: Mapping[str, Any], lines: list[str]) -> None:
        """The outcome: JSON on stdout if that was asked for, otherwise sentences for people."""
        if self.talk.json:
            typer.echo(json.dumps(facts), err=self.is_piped)
        else:
            for line in lines:
                self.say(line)

    def answer(self, facts: Mapping[str, Any], lines: Iterable[str]) -> None:
        """What was asked for, on stdout: JSON if that was asked for, else lines."""
        typer.echo(json.dumps(facts) if self.talk.json else "\n".join(map(printable, lines)))

    def fail(self, error: DiffeditError, source: str = "") -> None:
        """What went wrong, in one sentence with a hint, also under --quiet; source: the input, of several.

        The traceback only under --verbose. To be called where the error is handled.
        """
        console = plain_console()
        hint = f"{error.hint} {told_origins(error)}".strip()
        with suppress(OSError):
            if self.talk.verbose:
                console.print(printable(traceback.format_exc(), keep="\n"))
            if self.talk.json:
                about = {"input": source} if source else {}
                facts = {**about, "error": error.message, "hint": hint}
                typer.echo(json.dumps(facts), err=self.is_piped)
        with suppress(OSError):
            if not (self.talk.json and self.is_piped):
                who = "" if source in error.message else f"{source}: "
                text = f"Error: {who}{error.message} {hint}".rstrip()
                console.print(printable(text), style="bold red")

    def finish(self, result: "Result", target: Path | None, sentence: str, **more: Any) -> None:
        """The outcome of a run: its notes, what it cost (--verbose), and where it is.

        more: further facts for --json.
        """
        run = result.run
        for notice in result.notices:
            self.warn(notice)
        if self.talk.verbose:
            self.say(
                f"{run.seconds:.2f} s, {run.network_seconds / run.seconds:.1%} of it in the networks; "
                f"{run.forwards} forward passes"
                + (f", for {run.results} results made together." if run.results > 1 else ".")
            )
        where = "the picture to stdout" if target is None else target
        facts = {"output": str(target or "-"), **more, **result.facts()}
        self.result(facts, [f"Wrote {where}{sentence}"])

    @contextmanager
    def status(self, text: str) -> Generator[None, None, None]:
        """What is being done: a spinner, or without a terminal a line if it takes long."""
        if self.is_live:
            with drawn(self.console.status(Text(printable(text)))):
                yield
            return
        late = threading.Timer(LONG_LOAD, self.say, (f"{text} ...",))
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()

    @contextmanager
    def progress(self, units: Mapping[str, int]) -> Generator["Report", None, None]:
        """What is being done, and the time left over all stages, as a bar, or without a terminal a line every
        few seconds; units: {stage: its weight}."""
        interrupt.begin_work()
        order, whole = list(units), max(sum(units.values()), 1)
        reached = 0.0
        with self._bar() if self.is_live else nullcontext(self._lines()) as show:

            def report(stage: str, done: int, total: int) -> None:
                nonlocal reached
                before = sum(units[name] for name in order[: order.index(stage)])
                share = (before + units[stage] * done / total) / whole
                reached = max(reached, share)  # a zoom searches more than once
                show(STAGES[stage], f"{done}/{total}", reached)

            yield report

    @contextmanager
    def _bar(self) -> Generator[Show, None, None]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}")
        bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        with drawn(bar):
            task = bar.add_task("", total=1.0, step="")
            yield lambda name, step, share: bar.update(task, completed=share, description=name, step=step)

    def _lines(self) -> Show:
        start = last = time.monotonic()

        def show(name: str, step: str, share: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= SECONDS_A_LINE and 0 < share < 1:
                last = now
                self.say(f"{name}: {step}, about {duration((now - start) * (1 / share - 1))} left.")

        return show


@contextmanager
def drawn(bar: "Status | Progress") -> Generator[None, None, None]:
    """Around what a bar or a spinner shows. A terminal that is closed meanwhile fails nothing."""
    with suppress(OSError):
        bar.start()
    try:
        yield
    finally:
        with suppress(OSError):
            bar.stop()


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@contextmanager
def plain_errors(talk: TalkConfig, output: str | None = None) -> Generator[None, None, None]:
    """End a command that failed with one sentence and the right exit code; a traceback only if asked for.

    SettingError: the output is `-`, and that is a terminal, which a picture would only spoil.
    """
    try:
        if output == "-" and sys.stdout.isatty():
            raise SettingError(
                "A terminal cannot show the picture.",
                "Name a file with -o, or send the output somewhere: > out.png.",
            )
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        known = error if isinstance(error, DiffeditError) else explain(error)
        Terminal(talk, output).fail(known)
        raise typer.Exit(known.exit_code) from None
    except KeyboardInterrupt:
        with suppress(OSError):
            plain_console().print(interrupt.SENTENCE)
        raise typer.Exit(interrupt.exit_code()) from None


def explain(error: Exception) -> DiffeditError:
    """An error that no part of the program expected, as one sentence and a hint."""
    if isinstance(error, BrokenPipeError):
        silence(sys.stdout)
        return DiffeditError("The program that reads the output has ended.", "Write to a file with -o.")
    if is_shortage(error) or any(words in str(error) for words in SHORTAGES):
        return MemoryShort(
            "Memory ran out.", "Use --low-memory, a smaller --size or picture, or close other programs."
        )
    if isinstance(error, OSError) and error.errno == errno.EBADF and error.filename is None:
        return DiffeditError("The standard input or output is closed.", "Name a file in place of -.")
    if isinstance(error, OSError) and error.strerror:
        name = error.filename or "The output cannot be written"
        return DiffeditError(f"{name}: {error.strerror}.", "Check the free space and the permissions.")
    if isinstance(error, UnicodeEncodeError):
        return DiffeditError("A name or a text is not UTF-8.", "Rename the file, or type the text again.")
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("diffedit_cli"):
        return DiffeditError(
            f"The package {error.name} is missing.",
            f"Install this program again: {sys.executable} -m pip install diffedit-cli.",
        )
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return DiffeditError(
        f"This is a bug in diffedit ({what}).", "Please report it with the output of --verbose."
    )
