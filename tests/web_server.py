"""A server of the page in a thread of the test process, and small pictures to send to it."""

import asyncio
import io
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.web.app import make_app
from diffedit_cli.web.server import open_port
from diffedit_cli.web.worker import Worker

TOKEN = "a-token-of-the-tests"


class Server:
    """A real server on the loopback address, and a client that speaks to it."""

    def __init__(self, model: DiffusersDenoiser) -> None:
        self.model = model
        self.worker = Worker(lambda: model)
        self.app = make_app(self.worker, TOKEN, "tiny", {})
        self.listener = open_port(0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", lifespan="off"))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def start(self, wait: bool = True) -> None:
        self.worker.start()
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve([self.listener])), daemon=True
        )
        self.thread.start()
        until(lambda: self.server.started and (not wait or self.worker.model is not None))

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)
        self.worker.close()
        self.listener.close()

    def open(self, picture: Path | bytes, name: str = "photo.png") -> str:
        body = picture if isinstance(picture, bytes) else picture.read_bytes()
        answer = self.client.post("/api/pictures", content=body, headers={"X-Name": name})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def area(self, picture: str, area: Image.Image) -> str:
        return self.client.post(f"/api/pictures/{picture}/areas", content=png(area)).json()["id"]

    def add(self, kind: str, tab: str = "tab", **body: Any) -> dict[str, Any]:
        answer = self.client.post("/api/jobs", json={"kind": kind, "tab": tab, **body})
        assert answer.status_code == 202, answer.text
        return answer.json()

    def state(self, job: dict[str, Any], tab: str = "tab") -> dict[str, Any]:
        jobs = self.client.get("/api/jobs", params={"tab": tab}).json()["jobs"]
        return next(one for one in jobs if one["id"] == job["id"])

    def end(self, job: dict[str, Any], tab: str = "tab") -> dict[str, Any]:
        until(lambda: self.state(job, tab)["state"] in ("done", "failed", "stopped"), 120)
        return self.state(job, tab)

    def make(self, kind: str, **body: Any) -> dict[str, Any]:
        job = self.end(self.add(kind, **body))
        assert job["state"] == "done", job
        return job

    def file(self, job: dict[str, Any], name: str) -> bytes:
        answer = self.client.get(f"/api/results/{job['id']}/{name}")
        assert answer.status_code == 200, answer.text
        return answer.content


def until(holds: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def photo(seed: int = 3, size: tuple[int, int] = (45, 37)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return png(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def allow_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network stays forbidden but for this machine's own address."""
    usual = socket.socket.connect

    def create(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        assert address[0] == "127.0.0.1", f"the tests forbid the network, and {address} was asked for"
        one = socket.socket()
        usual(one, address)
        return one

    monkeypatch.setattr(socket, "create_connection", create)
