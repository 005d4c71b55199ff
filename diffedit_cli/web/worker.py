"""The one thread that runs the model: a queue of jobs, and short calls that go before them.

A cancelled job ends early: every forward pass of the network and every report of a step checks for that.
While a job runs, short calls are served between its steps, so a slider answers during an edit.
"""

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import DiffeditError

if TYPE_CHECKING:  # torch takes seconds to import, and the page is there before that
    from ..models import DiffusersDenoiser
    from .store import Result, Store

MOST_WAITING = 64
MOST_JOBS = 400  # that are remembered, finished ones too

T = TypeVar("T")
Report = Callable[[str, int, int], None]
State = Literal["waiting", "running", "done", "failed", "stopped"]


class Cancelled(Exception):
    """Raised inside a job that somebody stopped."""


class Busy(DiffeditError):
    """The server cannot take a request now, and can later."""


@dataclass
class Job:
    """One piece of work and how far it is. about: what the page needs to show and restore it."""

    kind: str
    tab: str
    about: dict[str, Any]
    work: "Callable[[DiffusersDenoiser, Report], Result]"
    units: Mapping[str, int]  # the stages in order, each with its weight
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    fraction: float = 0.0
    seconds_left: float | None = None
    started: tuple[float, float] | None = None  # when the first report came, and how far it was
    preview: bytes | None = None
    previews: int = 0
    seconds: float = 0.0
    error: str = ""
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    is_cancelled: bool = False

    def reached(self, stage: str, done: int, total: int) -> None:
        """Take note of a step; time left by the pace since the first report."""
        now, order = time.monotonic(), [*self.units]
        before = sum(self.units[name] for name in order[: order.index(stage)])
        share = (before + self.units[stage] * done / total) / max(1, sum(self.units.values()))
        self.stage, self.done, self.total = stage, done, total
        self.fraction = max(self.fraction, share)  # a zoom searches more than once
        if self.started is None:
            self.started = now, self.fraction
        begin, first = self.started
        if self.fraction > first:
            self.seconds_left = (now - begin) * (1 - self.fraction) / (self.fraction - first)

    def snapshot(self) -> dict[str, Any]:
        """All that the page needs to know, in plain values."""
        names = ("id", "kind", "state", "stage", "done", "total", "fraction", "seconds_left", "previews")
        names += ("seconds", "error", "hint", "facts")
        return {**{name: getattr(self, name) for name in names}, "about": self.about}


class Worker:
    """Owns the model. `load` makes it, in the worker's own thread, so that the page need not wait for it."""

    def __init__(self, load: "Callable[[], DiffusersDenoiser]") -> None:
        self.load = load
        self.model: DiffusersDenoiser | None = None
        self.store: Store | None = None
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.calls: deque[Callable[[], None]] = deque()
        self.wake = threading.Condition()
        self.current: Job | None = None
        self.is_closing = False
        self.thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """End the thread; a job that runs is cancelled."""
        with self.wake:
            self.is_closing = True
            for job in self.jobs.values():
                job.is_cancelled = True
            self.wake.notify_all()
        self.thread.join(timeout=30)

    def add(self, job: Job) -> None:
        """Queue a job. Busy: too many wait."""
        with self.wake:
            if sum(one.state == "waiting" for one in self.jobs.values()) >= MOST_WAITING:
                raise Busy(
                    f"{MOST_WAITING} jobs are waiting already.", "Wait for some to finish, or stop them."
                )
            self.jobs[job.id] = job
            for old in [one.id for one in self.jobs.values() if is_over(one)]:
                if len(self.jobs) > MOST_JOBS:
                    del self.jobs[old]
            self.wake.notify_all()

    def call(self, run: "Callable[[DiffusersDenoiser], T]") -> "Future[T]":
        """Run something short on the model's thread, before the jobs that wait and between steps."""
        future: Future[T] = Future()
        model, _ = self.ready()

        def serve() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(run(model))
            except Exception as error:
                future.set_exception(error)

        with self.wake:
            self.calls.append(serve)
            self.wake.notify_all()
        return future

    def ready(self) -> "tuple[DiffusersDenoiser, Store]":
        """The model and the store. Busy: it is still being loaded."""
        if self.model is None or self.store is None:
            raise Busy("The model is still being loaded.", "Try again in a few seconds.")
        return self.model, self.store

    def cancel(self, job_id: str) -> Job | None:
        """Stop a job; one that runs ends at its next forward."""
        with self.wake:
            if (job := self.jobs.get(job_id)) is None:
                return None
            job.is_cancelled = True
            if job.state == "waiting":
                job.state = "stopped"
            return job

    def report(self, stage: str, done: int, total: int) -> None:
        """The Report of the job that runs."""
        if (job := self.current) is None:
            return
        self.check()
        job.reached(stage, done, total)
        self._serve_calls()

    def check(self) -> None:
        """Cancelled, if the job that runs was stopped."""
        if self.current is not None and self.current.is_cancelled:
            raise Cancelled

    def _run(self) -> None:
        try:
            model, store = self._prepare()
        except Exception as error:
            self.failure = error
            self.on_failure()
            return
        while not self.is_closing:
            self._serve_calls()
            with self.wake:
                job = next((one for one in self.jobs.values() if one.state == "waiting"), None)
                if job is None:
                    if not self.calls:
                        self.wake.wait(timeout=1)
                    continue
                job.state, self.current = "running", job
            self._run_job(job, model, store)
            self.current = None

    def _prepare(self) -> "tuple[DiffusersDenoiser, Store]":
        model = self.load()
        from .preview import Preview
        from .store import Store

        Preview(model, self.check, lambda: self.current).attach()
        self.store, self.model = Store(), model
        return model, self.store

    def _run_job(self, job: Job, model: "DiffusersDenoiser", store: "Store") -> None:
        begin = time.monotonic()
        try:
            result = job.work(model, self.report)
            store.add_result(job.id, result)
            job.facts, job.fraction, state = {**result.facts, "files": [*result.files]}, 1.0, "done"
        except Cancelled:
            state = "stopped"
        except Exception as error:
            known = error if isinstance(error, DiffeditError) else explain(error)
            job.error, job.hint, state = known.message, known.hint, "failed"
        job.seconds, job.preview = time.monotonic() - begin, None
        job.state = state

    def _serve_calls(self) -> None:
        while self.calls:
            self.calls.popleft()()


def is_over(job: Job) -> bool:
    return job.state in ("done", "failed", "stopped")


def explain(error: Exception) -> DiffeditError:
    """An error that no part of the program expected, as one sentence and a hint."""
    if isinstance(error, MemoryError):
        return DiffeditError("Memory ran out.", "Use a smaller size or picture, or close other programs.")
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return DiffeditError(f"This is a bug in diffedit ({what}).", "Please report it.")
