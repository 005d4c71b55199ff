"""Actors of a Ray cluster: an existing one, or one that is started here for this run, on loopback only.

Ray Core alone: Ray Data neither resumes nor keeps a failed row apart from its block.
"""

import os
import secrets
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ... import __version__
from ...errors import DiffeditError, SettingError
from ..parts import CAREFUL_FROM, Done, Job, Task, load, run_part
from ..plan import FILE
from ..storage import Store
from . import MOST_ATTEMPTS, gave_up, threads_for

RETRIES = 3  # by Ray itself, of a part whose actor died
PLACED_WITHIN = 300  # seconds; importing torch on a cold node takes long
CONNECTED_WITHIN = 10

LOCAL = {  # variables of the cluster that is started here, where the user has not set them
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only; read at Ray's import
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray keeps one in the user's home for all clusters to come
}


class PartWorker:
    """The actor: loads the model with its first part."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads, self.model = job, threads, None

    def look(self) -> tuple[str, str, bool]:
        """The version here, the node's address, and whether the folder of results is seen from here."""
        import ray

        return __version__, ray.util.get_node_ip_address(), Store(self.job.output).read(FILE) is not None

    def run(self, task: Task) -> Done:
        import torch

        if self.model is None:
            torch.set_num_threads(self.threads)
            self.model = load(self.job.checkpoint)
        return run_part(self.job, self.model, task, lambda: None)


@dataclass(frozen=True)
class Share:
    """What one actor is given."""

    cpus: int
    gpus: int


def run(
    job: Job, tasks: Iterator[Task], workers: int | None, parts: int, address: str | None
) -> Iterator[Done]:
    """Do the tasks in `workers` actors: by default one for each GPU, or one for each node without any.

    address: of an existing cluster; None starts one here. SettingError: the cluster has no room for them.
    """
    with cluster(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        use_gpus = job.checkpoint.device in ("auto", "cuda")
        gpus = sum(int(node.get("GPU", 0)) for node in nodes) if use_gpus else 0
        usual = gpus or sum(node.get("CPU", 0) >= 1 for node in nodes)
        count = min(workers or usual, parts)
        share = share_of(nodes, count, gpu=gpus > 0)
        kind = ray.remote(PartWorker).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=-1, max_task_retries=RETRIES
        )
        actors = [kind.remote(job, threads_for(share.cpus)) for _ in range(count)]
        yield from dispatch(ray, actors, tasks)


def share_of(nodes: Sequence[Mapping[str, float]], workers: int, *, gpu: bool) -> Share:
    """The most whole CPUs that each of `workers` actors can have; one with a GPU. SettingError: no room."""

    def room(cpus: int) -> int:
        return sum(
            min(int(node.get("CPU", 0)) // cpus, int(node.get("GPU", 0)) if gpu else workers)
            for node in nodes
        )

    if workers < 1 or room(1) < workers:
        what = "1 GPU and 1 CPU" if gpu else "1 CPU"
        raise SettingError(
            f"The cluster has room for {room(1)} workers of {what}, not for {workers}.",
            "Give fewer --workers, or add nodes.",
        )
    most = 1 if gpu else max(int(node.get("CPU", 0)) for node in nodes)
    return Share(max(cpus for cpus in range(1, most + 1) if room(cpus) >= workers), int(gpu))


def dispatch(ray: Any, actors: list[Any], tasks: Iterator[Task]) -> Iterator[Done]:
    """Give each actor a task as soon as it has started, and another one whenever it is free."""
    looks = {actor.look.remote(): actor for actor in actors}
    running: dict[Any, tuple[Any, Task]] = {}
    is_over = False
    while running or (looks and not is_over):
        ready, _ = ray.wait([*looks, *running], timeout=None if running else PLACED_WITHIN)
        if not ready:
            raise DiffeditError(
                f"The cluster started no worker within {PLACED_WITHIN} seconds.",
                "Other jobs hold its CPUs or GPUs: see `ray status`.",
            )
        (ref,) = ready
        following = None
        if ref in looks:
            actor = looks.pop(ref)
            check(ray, ref)
        else:
            actor, task = running.pop(ref)
            try:
                yield ray.get(ref)
            except ray.exceptions.RayActorError as error:
                if task.attempt >= MOST_ATTEMPTS:
                    raise gave_up(task.number) from error
                following = replace(task, attempt=max(task.attempt + RETRIES, CAREFUL_FROM))
            except ray.exceptions.RayTaskError as error:
                raise cause_of(error) from error
        following = following or next(tasks, None)
        is_over = following is None
        if following is not None:
            running[actor.run.remote(following)] = actor, following


def check(ray: Any, look: Any) -> None:
    """DiffeditError if an actor cannot be used."""
    try:
        version, node, sees_output = ray.get(look)
    except ray.exceptions.RayError as error:
        raise DiffeditError(
            f"A worker cannot be started ({first_line(error)}).",
            f"Install diffedit-cli[batch,ray]=={__version__} on every node.",
        ) from error
    if version != __version__:
        raise DiffeditError(
            f"Node {node} has diffedit {version}, and this is {__version__}.",
            "Install the same version everywhere.",
        )
    if not sees_output:
        raise DiffeditError(
            f"Node {node} cannot see the folder of results.", "Use shared storage, such as s3:// or NFS."
        )


def cause_of(error: Any) -> DiffeditError:
    if isinstance(error.cause, DiffeditError):
        return error.cause
    return DiffeditError(
        f"A worker failed ({first_line(error.cause)}).", "Fix that, and run the same command again."
    )


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def cluster(address: str | None) -> Generator[Any, None, None]:
    """Ray, connected to a cluster. One that is started here reports no usage and ends with the block."""
    before = {name: os.environ.get(name) for name in LOCAL}
    if address is None:
        os.environ.update({name: value for name, value in LOCAL.items() if before[name] is None})
    try:
        ray = connect(address)
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise SettingError(
            "The engine ray needs Ray, which is not installed.", "Run: pip install 'diffedit-cli[ray]'"
        ) from error
    options: dict[str, Any] = dict(log_to_driver=False, logging_level="ERROR", configure_logging=False)
    if address is None:
        options["include_dashboard"] = False
    try:
        check_answers(address)
        ray.init(address=address or "local", **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise DiffeditError(
            f"There is no Ray cluster at {address} ({first_line(error)}).",
            "Start one with `ray start --head`; RAY_AUTH_MODE must be the same as there.",
        ) from error
    return ray


def check_answers(address: str | None) -> None:
    """OSError if nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), CONNECTED_WITHIN).close()
