"""One failure of several does not stop the rest; a single one ends the command."""

from collections.abc import Generator
from contextlib import contextmanager

import typer

from ..errors import DiffeditError
from .terminal import Terminal, explain


class Failures:
    """Reports the results that fail, and counts them."""

    def __init__(self, terminal: Terminal, results: int) -> None:
        self.terminal, self.results, self.count = terminal, results, 0

    @contextmanager
    def of(self, source: str, results: int = 1) -> Generator[None, None, None]:
        """Report what fails in the block as the failure of this many results of an input.

        Where only one result was asked for, the error goes on.
        """
        try:
            yield
        except BrokenPipeError:
            raise
        except (DiffeditError, OSError) as error:
            if self.results == 1:
                raise
            self.count += results
            self.terminal.fail(error if isinstance(error, DiffeditError) else explain(error), source)

    def end(self) -> None:
        """Exit code 3 where something failed."""
        if self.count:
            rest = "; the others were written" if self.count < self.results else ""
            self.terminal.say(f"{self.count} of {self.results} results failed{rest}.")
            raise typer.Exit(3)
