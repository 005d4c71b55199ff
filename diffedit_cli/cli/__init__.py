"""The command line: one file for each command. It talks to people and holds no algorithm."""

import gc
import os

from . import interrupt, streams

# How often an OpenMP thread looks for new work before it sleeps. By default GNU OpenMP looks 300,000 times,
# which slows every other process down; to sleep at once slows a run on a quiet machine down.
# benchmarks/openmp.py measures both.
SPIN_COUNT = "1000"


def main() -> None:
    """The command `diffedit`. Its parts are imported in here, so that Ctrl-C ends the import well."""
    streams.prepare()
    set_waiting_policy()
    try:
        with interrupt.handled(), streams.flushed():
            from .app import main

            main()
    finally:
        gc.freeze()  # the last collection would take a second to walk through all of torch


def set_waiting_policy() -> None:
    """Before torch is loaded, which reads it once. What the user has set stands."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
