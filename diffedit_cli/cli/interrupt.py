"""Ctrl-C at any moment: exit code 130, one line, nothing half-written, and no traceback.

Python raises KeyboardInterrupt wherever it is at that moment. While modules are imported and weights are read
it often gets lost there: destructors swallow it (regex, which tokenizers use, has some), C++ aborts on it,
and torch goes on without the module that it struck. Nothing has been written by then, so Ctrl-C just ends the
process. Once the work has begun, it is a KeyboardInterrupt that ends loops and removes unfinished files.
"""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

SENTENCE = "Interrupted; nothing half-written was left."


@contextmanager
def handled() -> Generator[None, None, None]:
    """Round a whole command. A process that ignores Ctrl-C, as a shell's background job does, goes on so."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, end_at_once)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the outcome is told


def begin_work() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt: to be called before anything is written."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_at_once(number: int, frame: FrameType | None) -> None:
    clear = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # the spinner, which hides the cursor
    with suppress(OSError):
        os.write(2, f"{clear}{SENTENCE}\n".encode())
    os._exit(130)


def raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Raise a KeyboardInterrupt that met a destructor once more, a moment later."""
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)
