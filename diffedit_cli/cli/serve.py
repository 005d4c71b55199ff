"""diffedit serve"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated

import typer

from ..errors import ModelError
from ..settings import ModelConfig, TalkConfig
from .defaults import read_config
from .interrupt import begin_work
from .options import with_flags
from .session import open_model
from .terminal import Terminal, plain_errors

PORT = 8185


@with_flags(model_config=ModelConfig, talk_config=TalkConfig)
def serve(
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port on this machine; 0 takes any free one.", rich_help_panel="Server"
        ),
    ] = PORT,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.", rich_help_panel="Server")
    ] = False,
    *,
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Edit pictures on a page in the browser. Only this machine can reach it; Ctrl-C stops it."""
    talk = talk_config()
    with plain_errors(talk):
        terminal, checkpoint = Terminal(talk), model_config()
        require_packages()
        import secrets

        from ..settings import public_name
        from ..web.server import address, open_port
        from ..web.server import serve as run

        token = secrets.token_urlsafe(24)
        with open_port(port) as listener:
            link = address(listener, token)

            def say() -> None:
                terminal.answer({"url": link}, [link])
                if open_page:
                    typer.launch(link)

            begin_work()
            run(
                listener,
                lambda: open_model(checkpoint, Terminal(TalkConfig(quiet=True))),
                token=token,
                model_name=public_name(checkpoint.model),
                kept=read_config().values,
                on_start=say,
            )


def require_packages() -> None:
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise ModelError(
            "The page needs two packages that are not installed: starlette and uvicorn.",
            "Run: pip install 'diffedit-cli[web]'.",
        )
