"""Engines of `diffedit batch`, as processes: what a kill costs, and what a cluster is asked for."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROWS = 24
WORDS = ["--ref", "horse", "--query", "zebra", "--steps", "3", "--mask-samples", "2", "--device", "cpu"]
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
ENGINES = {"local": ["--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(ROWS):
        small = Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8))
        small.resize((45, 37), Image.Resampling.BICUBIC).save(folder / f"p{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def start(pictures: Path, checkpoint: Path) -> Start:
    """diffedit batch as a process of its own, which kills of its group do not reach this one by."""

    def begin(out: Path, *flags: Any, words: list[str] = WORDS) -> subprocess.Popen[str]:
        call = "from diffedit_cli.cli import main; main()"
        command = [sys.executable, "-c", call, "batch", pictures, "-o", out, "--model", checkpoint, "--json"]
        one = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums of floats depend on the number of threads
        return subprocess.Popen(
            [str(word) for word in [*command, *words, *flags]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=one,
            start_new_session=True,
        )

    return begin


def end(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    """Wait for a run, and return its last line of JSON."""
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == code, stderr[-3000:]
    return json.loads(stdout.splitlines()[-1]) if stdout else {}


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes that a run in one process gives, which nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    end(start(out, "--rows-per-part", 2))
    return hashes(out)


def hashes(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) == ROWS
    return {row["id"]: row["sha256"] for row in rows}


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while len([*out.glob("meta/*.parquet")]) < count:
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that edit: children of the driver, or the actors of the cluster below it."""
    below = psutil.Process(process.pid).children(recursive=True)
    names = [(child, " ".join(child.cmdline())) for child in below]
    return [child for child, name in names if "spawn_main" in name or "ray::PartWorker" in name]


def check_nothing_is_left(out: Path) -> None:
    assert not [*out.rglob("*.part")]
    stored = {str(p.relative_to(out)) for folder in ("images", "masks") for p in out.glob(f"{folder}/*/*")}
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert stored == {row[key] for row in rows for key in ("file_name", "mask_file_name")}


@pytest.mark.cluster
def test_two_workers_give_what_one_process_gives(start: Start, whole: dict[str, str], tmp_path: Path) -> None:
    end(start(tmp_path / "out", "--rows-per-part", 5, "--workers", 2))
    assert hashes(tmp_path / "out") == whole


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_worker_costs_its_part(
    start: Start, whole: dict[str, str], tmp_path: Path, engine: str
) -> None:
    out, draw = tmp_path / "out", random.Random(1)
    run = start(out, "--rows-per-part", 2, *ENGINES[engine])
    wait_for_parts(out, 1, run)
    time.sleep(draw.uniform(0, 1))
    draw.choice(workers(run)).kill()
    done = end(run)
    assert (done["parts"], done["failed"]) == (12, 0)
    assert hashes(out) == whole
    check_nothing_is_left(out)


@pytest.mark.cluster
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_driver_takes_its_workers_along_and_another_run_goes_on(
    start: Start, whole: dict[str, str], tmp_path: Path, engine: str
) -> None:
    out, draw = tmp_path / "out", random.Random(2)
    run = start(out, "--rows-per-part", 2, *ENGINES[engine])
    wait_for_parts(out, 2, run)
    time.sleep(draw.uniform(0, 1))
    crew = workers(run)
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(crew, timeout=30)
    assert crew
    assert not alive
    done = {file.name for file in out.glob("meta/*.parquet")}
    assert 2 <= len(done) < 12
    again = end(start(out, *ENGINES[engine]))
    assert again["parts"] == 12 - len(done)
    assert hashes(out) == whole
    check_nothing_is_left(out)
    assert end(start(out, *ENGINES[engine]))["forwards"] == 0


@pytest.mark.cluster
def test_ctrl_c_leaves_nothing_half_written(start: Start, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(out, "--rows-per-part", 2, "--workers", 2)
    wait_for_parts(out, 1, run)
    crew = workers(run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the driver and its workers
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert stderr.strip() == "Interrupted; nothing half-written was left."
    assert not psutil.wait_procs(crew, timeout=5)[1]
    assert not [*out.rglob("*.part")]
    end(start(out, "--workers", 2))
    assert hashes(out) == whole


@pytest.mark.cluster
def test_a_model_that_no_worker_can_load_ends_the_run(start: Start, tmp_path: Path, checkpoint: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", checkpoint, broken], check=True)
    (broken / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    run = start(tmp_path / "out", "--model", broken, "--workers", 2)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 1
    assert stderr.count("Error: ") == 1
    assert "Traceback" not in stderr


# Ray


def test_as_many_actors_as_cpus(start: Start, whole: dict[str, str], tmp_path: Path) -> None:
    count = len(os.sched_getaffinity(0))
    end(start(tmp_path / "out", "--engine", "ray", "--workers", count, "--rows-per-part", 4))
    assert hashes(tmp_path / "out") == whole


def test_more_actors_than_the_cluster_has_room_for(start: Start, tmp_path: Path) -> None:
    count = psutil.cpu_count() or 1
    run = start(tmp_path / "out", "--engine", "ray", "--workers", count + 1, "--rows-per-part", 1)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 2
    assert f"The cluster has room for {count} workers of 1 CPU, not for {count + 1}." in stderr


def test_no_cluster_at_an_address(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "Error: There is no Ray cluster at 127.0.0.1:1" in stderr
    assert "Traceback" not in stderr


TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
    second = cluster.add_node(num_cpus=1)
cluster.shutdown()
"""


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a Ray cluster of two nodes on loopback, and what loses one node and adds another."""
    process = subprocess.Popen(
        [sys.executable, "-c", TWO_NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ALONE},
    )
    assert process.stdin
    assert process.stdout
    address = next(line for line in process.stdout if line.startswith("127.0.0.1:")).strip()

    def lose_one() -> None:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]

    try:
        yield address, lose_one
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


@pytest.mark.cluster
def test_a_cluster_of_two_nodes_that_loses_one(
    start: Start, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    with two_nodes() as (address, lose_one):
        run = start(out, "--engine", "ray", "--address", address, "--rows-per-part", 2)
        wait_for_parts(out, 2, run)
        lose_one()
        done = end(run)
    assert (done["parts"], done["failed"]) == (12, 0)
    assert hashes(out) == whole
