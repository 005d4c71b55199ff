"""Running the app on this machine's loopback address, until Ctrl-C."""

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import uvicorn

from ..errors import DiffeditError, SettingError
from .app import make_app
from .worker import Worker

if TYPE_CHECKING:
    from ..models import DiffusersDenoiser

HOST = "127.0.0.1"


def open_port(port: int) -> socket.socket:
    """A listening socket on the loopback address; 0 is any free port. SettingError: it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingError(
            f"Port {port} cannot be used ({error.strerror}).",
            "Give another port with --port; 0 means any free one.",
        ) from error
    return listener


def address(listener: socket.socket, token: str) -> str:
    """The link to open. What follows the # never leaves the browser."""
    return f"http://{HOST}:{listener.getsockname()[1]}/#token={token}"


def serve(
    listener: socket.socket,
    load: "Callable[[], DiffusersDenoiser]",
    *,
    token: str,
    model_name: str,
    kept: Mapping[str, Any],
    on_start: Callable[[], None],
) -> None:
    """Serve until Ctrl-C, which then is a KeyboardInterrupt. Raises what kept the model from being loaded."""
    worker = Worker(load)
    config = uvicorn.Config(
        make_app(worker, token, model_name, kept),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
        lifespan="off",
        server_header=False,
    )
    server = Listening(config, on_start)

    def stop() -> None:
        server.should_exit = True

    worker.on_failure = stop
    try:
        worker.start()
        server.run(sockets=[listener])
    finally:
        worker.close()
    if worker.failure is not None:
        raise worker.failure
    if not server.started:
        raise DiffeditError("The page cannot be served.", "Try another --port.")


class Listening(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()
