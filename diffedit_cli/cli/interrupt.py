"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line, nothing half-written, exit code 128 + signal.

Python raises KeyboardInterrupt wherever it is at that moment. While modules are imported and weights are read
it often gets lost there: destructors swallow it (regex, which tokenizers use, has some), C++ aborts on it,
and torch goes on without the module that it struck. Nothing has been written by then, so the signal just ends
the process. Once the work has begun, it is a KeyboardInterrupt that ends loops and removes unfinished files.
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

SENTENCE = "Interrupted; nothing half-written was left."
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)

GRACE = 1.0  # seconds: a terminal that closes sends SIGHUP twice, and the second must not end the cleaning up

_number = signal.SIGINT  # the signal that struck
_struck = -GRACE


@contextmanager
def handled() -> Generator[None, None, None]:
    """Around a whole command. A signal that the process ignores, as under nohup, stays ignored."""
    ours = [number for number in SIGNALS if signal.getsignal(number) in UNTOUCHED]
    for number in ours:
        signal.signal(number, end_at_once)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_IGN)  # the outcome has been printed


def begin_work() -> None:
    """From here on a signal raises KeyboardInterrupt: to be called before anything is written."""
    for number in SIGNALS:
        if signal.getsignal(number) is end_at_once:
            signal.signal(number, raise_interrupt)


def exit_code() -> int:
    """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + _number


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    global _number, _struck
    if time.monotonic() - _struck > GRACE:
        _number, _struck = number, time.monotonic()
        raise KeyboardInterrupt


def end_at_once(number: int, frame: FrameType | None) -> None:
    clear = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # the spinner, which hides the cursor
    with suppress(OSError):
        os.write(2, f"{clear}{SENTENCE}\n".encode())
    os._exit(128 + number)


def raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Raise a KeyboardInterrupt that met a destructor once more, a moment later."""
    global _struck
    if lost.exc_type is KeyboardInterrupt:
        _struck = -GRACE
        threading.Timer(0.01, _thread.interrupt_main, (_number,)).start()
    else:
        sys.__unraisablehook__(lost)
