"""The same edits by torch and by OpenVINO: time, memory, a first edit, and what precision does to quality.

    python -m benchmarks.backends edits
    python -m benchmarks.backends edits --model sd15 --side 256 --dtype bfloat16 --rounds 1
    python -m benchmarks.backends edits --busy 2
    python -m benchmarks.backends cold
    python -m benchmarks.backends quality --count 40
    python -m benchmarks.backends quality --count 200 --only "torch float32,openvino int8"

`edits` starts a process for each contender, since in one process the threads of torch and OpenVINO disturb
each other, and lets them edit in turns; the others sleep meanwhile. `sd15` is as in benchmarks.speed.
`quality` needs the sources (`python -m training sources`). Each command prints its figures, appends a line to
results.jsonl, and writes them into docs/speed.md where that has a place for them.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.openmp import COMMAND, load
from benchmarks.report import Figures, markdown, means, record
from benchmarks.speed import contenders, open_model, peak_memory, quiet, show, square, unpack
from diffedit_cli.models import load_model
from diffedit_cli.models.compiled import has_bfloat16
from training.sources import DATA
from training.train import HELD_OUT_SEED

TUNING_SEED = HELD_OUT_SEED + 90_000  # scenes that benchmarks.quality does not judge by
DIFFUSERS, TORCH, OPENVINO = "diffusers", "torch", "openvino"
EIGHT_BITS = f"{OPENVINO} int8"
Model = Annotated[str, typer.Option("-m", "--model", help="embedded or sd15.")]
Only = Annotated[str, typer.Option(help="Contenders, with commas between; default: all.")]


def names_of(dtype: str) -> list[str]:
    """The contenders: what runs the networks, and in which dtype; the last one of each also with --fast."""
    if dtype != "auto":
        torchs, openvinos = [f"{TORCH} {dtype}"], [f"{OPENVINO} {dtype}"]
    else:
        both = ["float32", *(["bfloat16"] if has_bfloat16() else [])]
        torchs, openvinos = [f"{TORCH} float32"], [f"{OPENVINO} {one}" for one in both]
    openvinos.append(EIGHT_BITS)
    fast = [f"{names[-1]} --fast" for names in (torchs, openvinos)]
    return [f"{DIFFUSERS} {dtype.replace('auto', 'float32')}", *torchs, *openvinos, *fast]


class Process:
    """A warm contender in a process of its own, which edits once for each line that it is sent."""

    def __init__(self, name: str, model: str, side: int, steps: int) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.backends",
            "contender",
            name,
            model,
            str(side),
            str(steps),
        ]
        if name.startswith(OPENVINO):
            start = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)  # converts, with memory of its own
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            told = f"{name}: converted in {time.perf_counter() - start:.0f} s, up to {peak:.1f} GiB"
            print(told, file=sys.stderr)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self._read()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.communicate()

    def edit(self) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write("\n")
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())


app = typer.Typer(no_args_is_help=True)


@app.callback()
def own_cache(context: typer.Context) -> None:
    """Converted networks go into a folder of this run: in the user's cache they would become the default."""
    if context.invoked_subcommand != "contender":  # which is a process of a run
        os.environ["XDG_CACHE_HOME"] = context.with_resource(tempfile.TemporaryDirectory())


@app.command(hidden=True)
def contender(name: str, model: str, side: int, steps: int) -> None:
    """Edit once for each line of stdin, after one edit of few steps to warm up; print seconds and memory."""
    backend, dtype, *fast = name.split()
    loaded = open_model(model, "cpu", dtype, backend if backend == OPENVINO else TORCH)
    ours = "ours --fast" if fast else "ours"
    wanted = "diffusers DiffEdit" if backend == DIFFUSERS else ours
    if backend == DIFFUSERS:
        unpack(loaded.unet)

    def run(steps: int) -> None:
        with quiet():
            contenders(loaded, square(side), steps, 10)[wanted]()

    run(25 if fast else 2)  # --fast has steps of its own
    print("{}", flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        before = loaded.forwards
        run(steps)
        row = {
            "seconds": time.perf_counter() - start,
            "cpu": time.process_time() - cpu,
            "forwards": loaded.forwards - before,
            "peak_gib": peak_memory(loaded),
        }
        print(json.dumps(row), flush=True)


@app.command()
def edits(
    model: Model = "embedded", side: int = 128, steps: int = 25, dtype: str = "auto", rounds: int = 3,
    busy: Annotated[int, typer.Option(help="Further processes that compute all the while.")] = 0,
    only: Only = "",
) -> None:  # fmt: skip
    """Time one edit by each contender, in turns, in an order that changes from round to round."""
    names = only.split(",") if only else names_of(dtype)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(name, model, side, steps)) for name in names}
        stack.enter_context(load(busy))
        for number in range(rounds):
            for name in random.Random(number).sample(names, len(names)):
                rows[name].append(processes[name].edit())
                print(f"{number + 1}/{rounds} {name}: {rows[name][-1]['seconds']:.2f} s", file=sys.stderr)
    medians = {
        name: {key: round(statistics.median(row[key] for row in some), 3) for key in some[0]}
        for name, some in rows.items()
    }
    facts = {
        "model": model,
        "side": side,
        "steps": steps,
        "rounds": rounds,
        "busy": busy,
        "cores": os.cpu_count(),
    }
    record("backends", **facts, torch=torch.__version__, contenders=medians)
    told = f"{side}x{side}, {steps} steps, {os.cpu_count()} cores, {busy} busy processes; rounds: {rounds}."
    show(f"backends {model} {side} {busy}", f"{told}\n\n{table(medians)}")


def table(medians: dict[str, dict[str, float]]) -> str:
    """Medians of the contenders; times as a share of diffusers' and of torch's, where these took part."""

    def of(name: str, one: dict[str, float]) -> str:
        base = next((row for key, row in medians.items() if key.startswith(name) and "fast" not in key), None)
        return f"{one['seconds'] / base['seconds']:.2f}" if base else ""

    rows = [
        [
            name,
            *(f"{one[key]:.2f}" for key in ("seconds", "cpu", "peak_gib")),
            of(DIFFUSERS, one),
            of(TORCH, one),
        ]
        for name, one in medians.items()
    ]
    head = ["", "seconds, median", "processor seconds", "peak GiB", "seconds of diffusers'", "of torch's"]
    return markdown(head, rows)


@app.command()
def cold(rounds: int = 3, dtype: str = "auto") -> None:
    """The wall time of a whole `diffedit edit` with the embedded model in a new process, in turns."""
    load_model("embedded", device="cpu", dtype=dtype, backend=OPENVINO)  # converts
    times: dict[str, list[float]] = {TORCH: [], OPENVINO: []}
    for number in range(rounds):
        for name in random.Random(number).sample(list(times), len(times)):
            with tempfile.TemporaryDirectory() as folder:
                command = [*COMMAND, "--backend", name, "-o", str(Path(folder) / "out.png")]
                start = time.perf_counter()
                subprocess.run(command, capture_output=True, check=True)
                times[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(some), 2) for name, some in times.items()}
    record("backends", rounds=rounds, cores=os.cpu_count(), cold_edit_s=medians)
    rows = [[name, f"{value:.2f}", f"{value / medians[TORCH]:.2f}"] for name, value in medians.items()]
    show("backends cold", markdown(["", "seconds, median", "of torch's"], rows))


@app.command()
def quality(data: Path = DATA, count: int = 40, only: Only = "") -> None:
    """Mask IoU, success, and likeness to torch's edit, of the embedded model on scenes for tuning."""
    from benchmarks.classifier import load_judge
    from benchmarks.quality import cases_of, figures_of, ours
    from training.evaluate import psnr

    names = [f"{TORCH} float32", f"{OPENVINO} {'bfloat16' if has_bfloat16() else 'float32'}", EIGHT_BITS]
    names = [name for name in names if name in only.split(",")] if only else names
    models = {name: open_model("embedded", "cpu", name.split()[1], name.split()[0]) for name in names}
    plain, (classifier, judged_by) = models[names[0]], load_judge()
    rows: dict[str, list[Figures]] = {name: [] for name in names}
    for case in cases_of(data, plain.words or {}, count, TUNING_SEED):
        attempts = {name: ours(model)(case) for name, model in models.items()}
        for name, attempt in attempts.items():
            figures = figures_of(case, attempt, plain, classifier)
            figures["psnr to torch"] = min(psnr(attempt.pixels, attempts[names[0]].pixels), 99.0)
            rows[name].append({key: value for key, value in figures.items() if key != "spill"})
    found = {name: means(some) for name, some in rows.items()}
    record("backends", edits=count, judge=judged_by, quality=found)
    formats = {"iou": ".3f", "success": ".1%", "query over ref": ".1%", "psnr to torch": ".1f"}
    cells = [[name, *(f"{row[key]:{how}}" for key, how in formats.items())] for name, row in found.items()]
    head = ["", "mask IoU", "success", "query over ref", "PSNR to torch's edit, dB"]
    show(f"backends quality {only}".strip(), f"{count} scenes for tuning.\n\n{markdown(head, cells)}")


if __name__ == "__main__":
    app()
