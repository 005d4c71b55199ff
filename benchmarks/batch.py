"""`diffedit batch`: what kills cost, a thousand rows with bad ones among them, and how many rows a minute.

    python -m benchmarks.batch kills local --times 20
    python -m benchmarks.batch kills ray --times 20
    python -m benchmarks.batch thousand
    python -m benchmarks.batch throughput
    python -m benchmarks.batch manifest

All but `throughput` run edits that are as small as the model allows: what counts there is which rows come
out. Each command prints its figures and appends a line to results.jsonl; `throughput` also writes its table
into docs/batch.md. It wants an idle machine.
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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import pyarrow.parquet as pq
import typer
from PIL import Image

from benchmarks.report import markdown, record, write_block

PAGE = Path(__file__).parents[1] / "docs/batch.md"
PICTURE = Path(__file__).parents[1] / "examples/horse_park.jpg"
WORDS = ["--ref", "horse", "--query", "zebra", "--device", "cpu"]
SMALL = ["--steps", "2", "--mask-samples", "1", "--size", "32", "--no-zoom"]
WAYS = {
    "one process": ["--workers", "1"],
    "local, 2 workers": ["--workers", "2"],
    "Ray, 2 actors": ["--engine", "ray", "--workers", "2"],
}
Engine = Literal["local", "ray"]
Process = subprocess.Popen[bytes]

app = typer.Typer(no_args_is_help=True)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def draw(target: Path, count: int, size: tuple[int, int] = (48, 40)) -> Path:
    """Pictures of noise."""
    target.mkdir()
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(values).save(target / f"p{number:05}.png")
    return target


def start(source: Path, out: Path, *flags: str, threads: int | None = 1) -> Process:
    """diffedit batch as a process. threads: of each worker; None for what the engine gives it."""
    call = "from diffedit_cli.cli import main; main()"
    command = [sys.executable, "-c", call, "batch", str(source), "-o", str(out), "--json", *WORDS, *flags]
    one = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **one}
    )


def finish(process: Process) -> dict[str, Any]:
    """Wait for a run; its last line of JSON, and its exit code."""
    stdout, _ = process.communicate()
    return {"code": process.returncode, **(json.loads(stdout.splitlines()[-1]) if stdout else {})}


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "metadata.parquet").to_pylist()


def workers_of(process: Process) -> list[psutil.Process]:
    """The processes that edit."""
    found: list[psutil.Process] = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            name = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "spawn_main" in name or "ray::PartWorker" in name:
            found.append(child)
    return found


def kill_one(process: Process, choose: random.Random) -> str:
    """Kill the driver or one of its workers, whatever they are doing; says which."""
    crew = workers_of(process)
    victim = choose.choice(["driver", "worker"]) if crew else "driver"
    if victim == "worker":
        choose.choice(crew).kill()
    else:
        process.kill()
    return victim


def difference(out: Path, whole: dict[str, str]) -> str:
    """What is wrong with the rows of a batch, against an uninterrupted one; nothing if all is well."""
    found = rows_of(out)
    counts = Counter(row["id"] for row in found)
    wrong = [row["id"] for row in found if whole.get(row["id"]) != row["sha256"]]
    doubled = [identity for identity, count in counts.items() if count > 1]
    lost = [identity for identity in whole if identity not in counts]
    return "".join(f"{k}: {v}; " for k, v in {"lost": lost, "doubled": doubled, "differ": wrong}.items() if v)


@app.command()
def kills(
    engine: Engine,
    times: Annotated[int, typer.Option(help="Batches that are killed once each.")] = 20,
    rows: Annotated[int, typer.Option(help="Of each batch.")] = 40,
) -> None:
    """Kill -9 the driver or a worker at a random moment, go on if the driver died; compare the rows."""
    flags = [*SMALL, "--rows-per-part", "2", "--workers", "2", "--engine", engine]
    choose, victims, faults = random.Random(0), Counter[str](), list[str]()
    with folder() as here:
        source = draw(here / "in", rows)
        begin = time.perf_counter()
        finish(start(source, here / "whole", *flags))
        seconds = time.perf_counter() - begin
        whole = {row["id"]: row["sha256"] for row in rows_of(here / "whole")}
        if len(whole) != rows:
            raise SystemExit("The run that nobody killed is not whole.")
        while victims.total() < times:
            out = Path(tempfile.mkdtemp(dir=here)) / "out"
            process = start(source, out, *flags)
            time.sleep(choose.uniform(0, seconds))
            if process.poll() is not None:
                finish(process)  # it was done before its turn came
                continue
            victim = kill_one(process, choose)
            victims[victim] += 1
            end = finish(process)
            if end["code"] != 0:
                end = finish(start(source, out, *flags))
            again = finish(start(source, out, *flags))
            fault = difference(out, whole)
            if end["code"] or again["code"] or again["forwards"]:
                fault += f"codes {end['code']} and {again['code']}, {again['forwards']} forwards"
            faults += [fault] if fault else []
            typer.echo(f"{victims.total()}: {victim} killed; {fault or 'all rows as they should be'}")
    record("batch kills", engine=engine, times=times, rows=rows, killed=dict(victims), faults=faults)


@app.command()
def thousand(rows: Annotated[int, typer.Option(help="A tenth of them is bad.")] = 1000) -> None:
    """A manifest whose every tenth row cannot be edited: broken files, missing files, impossible pairs."""
    bad = [{"image": "broken.png"}, {"image": "missing.png"}, {"ref": "zebra"}, {"steps": 0}]
    with folder() as here:
        source = draw(here / "in", 10)
        (source / "broken.png").write_bytes((source / "p00000.png").read_bytes()[:100])
        with (source / "rows.jsonl").open("w") as file:
            for number in range(rows):
                row = {"id": number, "image": f"p{number % 10:05}.png"}
                row |= bad[number // 10 % len(bad)] if number % 10 == 3 else {}
                file.write(json.dumps(row) + "\n")
        end = finish(start(source / "rows.jsonl", here / "out", *SMALL, "--workers", "2"))
        results = len(rows_of(here / "out"))
        pictures = len([*(here / "out/images").rglob("*.png")])
        failures = len((here / "out/failures.jsonl").read_text().splitlines())
        again = finish(start(source / "rows.jsonl", here / "out", *SMALL, "--workers", "2"))
    facts = dict(rows=rows, results=results, pictures=pictures, failures=failures, code=end["code"])
    facts |= {"again": {key: again[key] for key in ("code", "forwards", "failed")}}
    typer.echo(json.dumps(facts))
    record("batch thousand", **facts)


@app.command()
def throughput(
    rows: Annotated[int, typer.Option(help="Pictures of each run.")] = 40,
    rounds: Annotated[int, typer.Option(help="Runs of each way, interleaved.")] = 3,
    steps: Annotated[int, typer.Option(help="Of each edit.")] = 25,
) -> None:
    """Rows a minute, start-up included: one process, two, two actors of Ray; and pictures edited together."""
    seconds: dict[str, list[float]] = {way: [] for way in [*WAYS, *TOGETHER]}
    with folder() as here:
        source = here / "in"
        source.mkdir()
        for number in range(rows):
            (source / f"p{number:05}.jpg").write_bytes(PICTURE.read_bytes())
        for number in range(rounds):
            for way, flags in WAYS.items():
                out = here / f"{number} {way}"
                begin = time.perf_counter()
                end = finish(start(source, out, "--steps", str(steps), *flags, threads=None))
                seconds[way].append(time.perf_counter() - begin)
                if end["code"]:
                    raise SystemExit(f"{way} failed: {end}")
            for way, count in TOGETHER.items():
                seconds[way].append(edit_together(count, rows, steps))
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    rates = {way: round(60 * rows / value, 2) for way, value in middle.items()}
    cores = psutil.cpu_count()
    table = [
        [way, f"{rate:.1f}", f"{rate / rates[base_of(way)]:.2f}", spread(seconds[way], rows)]
        for way, rate in rates.items()
    ]
    text = markdown(["way", "rows a minute", "against one", "of all runs"], table)
    note = f"{rows} rows of {steps} steps, {rounds} rounds, {cores} cores, embedded model."
    write_block(PAGE, "throughput", f"{text}\n\n{note}")
    typer.echo(text)
    record(
        "batch throughput", rows=rows, rounds=rounds, steps=steps, cores=cores, rates=rates, seconds=seconds
    )


TOGETHER = {"in memory, one by one": 1, "in memory, 4 together": 4, "in memory, 8 together": 8}


def base_of(way: str) -> str:
    return next(iter(WAYS)) if way in WAYS else next(iter(TOGETHER))


def spread(seconds: Sequence[float], rows: int) -> str:
    return f"{60 * rows / max(seconds):.1f} to {60 * rows / min(seconds):.1f}"


def edit_together(count: int, rows: int, steps: int) -> float:
    """Seconds for `rows` edits in this process, `count` pictures in one call; the model is loaded before."""
    from dataclasses import replace

    from diffedit_cli import EditConfig, edit_images, load_image, load_model

    model = load_model("embedded", device="cpu")
    picture, config = load_image(PICTURE), EditConfig(ref="horse", query="zebra", steps=steps, seed=0)
    list(edit_images(model, [picture], replace(config, steps=2)))
    begin = time.perf_counter()
    for _ in range(0, rows, count):
        list(edit_images(model, [picture] * count, config))
    return time.perf_counter() - begin


@app.command()
def manifest(rows: Annotated[int, typer.Option(help="Of the manifest.")] = 1_000_000) -> None:
    """What reading and checking a large manifest takes, and handing out its parts: seconds and memory."""
    from diffedit_cli.batch.plan import make_plan, parts_of
    from diffedit_cli.settings import EditConfig

    config = EditConfig(ref="horse", query="zebra")
    with folder() as here:
        file = here / "rows.jsonl"
        with file.open("w") as lines:
            for number in range(rows):
                row = {
                    "id": f"{number:08}",
                    "image": f"s3://bucket/pictures/{number:08}.jpg",
                    "query": "zebra",
                }
                lines.write(json.dumps(row) + "\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        plan = make_plan(str(file), {}, config, {}, "webdataset", None)
        checked = time.perf_counter()
        parts = sum(1 for _ in parts_of(str(file), {}, plan))
        handed = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    facts = dict(rows=rows, parts=parts, check_seconds=round(checked - begin, 1), peak_mb=peak // 1024)
    facts |= {"hand_out_seconds": round(handed - checked, 1)}
    typer.echo(json.dumps(facts))
    record("batch manifest", **facts)


if __name__ == "__main__":
    app()
