"""Silences other libraries while they load, and restores everything afterwards."""

import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_depth = 0
_before: list[tuple[Any, int, bool]] = []
_warned = warnings.catch_warnings()


@contextmanager
def quiet() -> Generator[None, None, None]:
    """No progress bars and no remarks of diffusers and transformers: they would repeat what an error says.

    The settings are those of the whole process: the first thread in saves them, the last one out restores
    them.
    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _silence()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore()


def _silence() -> None:
    global _warned
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        _before.append((logging, logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)
    _warned = warnings.catch_warnings()
    _warned.__enter__()
    warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)  # Chroma, of diffusers'


def _restore() -> None:
    _warned.__exit__(None, None, None)
    while _before:
        logging, verbosity, has_bar = _before.pop()
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
