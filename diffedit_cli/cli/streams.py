"""The standard streams, which may be closed, full, or unable to show a character: no traceback for that."""

import io
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

# How a closed stream is opened: reading and writing fail as on any broken file, but errors are for nobody.
FLAGS = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)


def prepare() -> None:
    """Give each closed stream a place, so that no file gets its number; replace what cannot be printed."""
    for number, flags in enumerate(FLAGS):
        try:
            os.fstat(number)
        except OSError:
            place = os.open(os.devnull, flags)
            if place != number:
                os.dup2(place, number)
                os.close(place)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def flushed() -> Generator[None, None, None]:
    """Around a whole command: all output has been written at its end, or it fails with a sentence."""
    try:
        try:
            yield
        except SystemExit as end:
            if end.code:
                flush()
                raise
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        with suppress(OSError):
            print(f"Error: The output cannot be written: {error.strerror}.", file=sys.stderr)
        flush()
        raise SystemExit(1) from None
    flush()


def flush() -> None:
    """Python flushes both streams once more at its exit, and would complain there."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)


def silence(stream: object) -> None:
    """Send what is still to be written to a stream nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]
