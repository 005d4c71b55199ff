"""The command line: one file a command. It talks to people and holds no algorithm."""

import gc

from . import interrupt


def main() -> None:
    """The command `diffedit`. Its parts are imported in here, so that Ctrl-C ends it well meanwhile too."""
    try:
        with interrupt.handled():
            from .app import main

            main()
    finally:
        gc.freeze()  # the last collection would take a second to walk through all of torch
