"""Processes of this machine. They die with their parent, and each has its share of threads and one GPU."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from ...errors import DiffeditError
from ..parts import Done, Job, Task, is_fatal, load, run_part
from . import MOST_ATTEMPTS, gave_up, threads_for

READY, TICK = "ready", "tick"
PATIENCE = 10  # seconds that a process has to remove what it has half written

Message = str | Done | DiffeditError


def run(job: Job, tasks: Iterator[Task], workers: int, tick: Callable[[], None]) -> Iterator[Done]:
    """Do the tasks in `workers` processes, or in this one if that is enough. tick: called after each row."""
    if workers == 1:
        model = load(job.checkpoint)
        for task in tasks:
            yield run_part(job, model, task, tick)
        return
    crew = [start(job, number, workers) for number in range(workers)]
    try:
        yield from Crew(job, crew, tasks, tick).run()
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.process.join(PATIENCE)
            worker.process.kill()


@dataclass
class Worker:
    """A process, our end of the pipe to it, and the task that it does."""

    number: int
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    is_ready: bool = False


def start(job: Job, number: int, workers: int) -> Worker:
    context = multiprocessing.get_context("spawn")  # a fork would share threads and locks of torch
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, job, number, workers), daemon=True)
    process.start()
    theirs.close()
    return Worker(number, process, ours)


class Crew:
    """Hands tasks to workers, and replaces workers that die."""

    def __init__(
        self, job: Job, workers: list[Worker], tasks: Iterator[Task], tick: Callable[[], None]
    ) -> None:
        self.job, self.workers, self.tick = job, workers, tick
        self.again: deque[Task] = deque()
        self.tasks = tasks
        self.failed_starts = 0

    def next_task(self) -> Task | None:
        return self.again.popleft() if self.again else next(self.tasks, None)

    def run(self) -> Iterator[Done]:
        while any(worker.task or not worker.is_ready for worker in self.workers) or self.again:
            by_pipe = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index]
                try:
                    message: Message = worker.pipe.recv()
                except (EOFError, OSError):
                    self.replace(worker)
                    continue
                if isinstance(message, DiffeditError):
                    raise message
                if isinstance(message, Done):
                    yield message
                self.hear(worker, message)

    def hear(self, worker: Worker, message: Message) -> None:
        if message == TICK:
            self.tick()
            return
        worker.is_ready, self.failed_starts = True, 0
        worker.task = self.next_task()
        if worker.task is not None:
            worker.pipe.send(worker.task)

    def replace(self, worker: Worker) -> None:
        """Start another worker for one that died; its part starts again."""
        worker.process.join()
        if not worker.is_ready:
            self.failed_starts += 1
            if self.failed_starts == 3:
                raise DiffeditError(
                    f"A worker died while it loaded the model (exit code {worker.process.exitcode}).",
                    "Most likely memory runs out: use fewer --workers.",
                )
        if worker.task is not None:
            if worker.task.attempt == MOST_ATTEMPTS:
                raise gave_up(worker.task.number)
            self.again.append(replace(worker.task, attempt=worker.task.attempt + 1))
        fresh = start(self.job, worker.number, len(self.workers))
        worker.process, worker.pipe, worker.task, worker.is_ready = fresh.process, fresh.pipe, None, False


def work(pipe: Connection, job: Job, number: int, workers: int) -> None:
    """The worker process: load the model, then do one task after another until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    threading.Thread(target=die_with_parent, daemon=True).start()
    take_share(number, workers)
    try:
        model = load(job.checkpoint)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that half-written files are removed
        pipe.send(READY)
        while True:
            pipe.send(run_part(job, model, pipe.recv(), lambda: pipe.send(TICK)))
    except EOFError:
        pass
    except DiffeditError as error:
        pipe.send(error)
    except Exception as error:
        if is_fatal(error):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        pipe.send(DiffeditError(f"A worker failed ({what}).", "Fix that, and run the same command again."))


def die_with_parent() -> None:
    """End this process, even in the middle of its work, once the parent has died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def take_share(number: int, workers: int) -> None:
    """Take one of the GPUs and an equal share of the cores for this process. Before CUDA is used."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = gpus.split(",") if gpus else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]
    torch.set_num_threads(threads_for(cores() // workers))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_workers(device: str) -> int:
    """One for each GPU, or one if there is none, or it is not to be used."""
    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") else 1
