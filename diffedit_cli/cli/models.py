"""diffedit models"""

from collections.abc import Callable

import typer

from ..settings import TalkConfig
from .options import with_flags
from .terminal import Terminal, plain_errors

models = typer.Typer(help="Which checkpoints there are.", no_args_is_help=True)


@models.callback()
def group() -> None:
    """Which checkpoints there are."""


@models.command("list")
@with_flags(talk_config=TalkConfig)
def list_models(*, talk_config: Callable[..., TalkConfig]) -> None:
    """List the checkpoints that can be used at once: the embedded one and those in the hub's cache."""
    talk = talk_config()
    with plain_errors(talk):
        from ..models import EMBEDDED, cached_models, known_words

        size = sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file())
        found = [("embedded", size), *cached_models()]
        lines = [f"{name:50} {size / 1e6:8.0f} MB" for name, size in found]
        words = known_words(EMBEDDED) or {}
        lines += [f"embedded knows {group}: {', '.join(some)}." for group, some in words.items()]
        facts = {"models": [{"name": name, "bytes": size} for name, size in found], "words": words}
        Terminal(talk).answer(facts, lines)
