"""How long an edit takes by the way its OpenMP threads wait, on a quiet machine and on a busy one.

    python -m benchmarks.openmp [--rounds 3]

Each run is `diffedit edit` of an example in a process of its own, with GOMP_SPINCOUNT or OMP_WAIT_POLICY set.
Busy: two further processes compute all the while. The order is shuffled by a seed, so that a drift of the
machine falls on all alike. Prints the table, and appends a line to results.jsonl. The value to ship is
`SPIN_COUNT` in diffedit_cli/cli/__init__.py: it should be nearly as fast as `default` on a quiet machine, and
nearly as fast as PASSIVE on a busy one.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from benchmarks.report import markdown, record

PICTURE = Path(__file__).parent.parent / "examples" / "horse_park.jpg"
WORDS = ["--ref", "horse", "--query", "zebra", "--seed", "1", "--json", "--quiet"]
COMMAND = [sys.executable, "-c", "from diffedit_cli.cli import main; main()", "edit", str(PICTURE), *WORDS]
BUSY_PROCESSES = 2
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    **{f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in (100, 1000, 3000, 10000, 30000)},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def seconds(policy: dict[str, str]) -> float:
    """How long one edit takes after loading."""
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    # the library's own default, which the command line would replace
    environment |= policy or {"GOMP_SPINCOUNT": "300000"}
    with tempfile.TemporaryDirectory() as folder:
        command = [*COMMAND, "-o", str(Path(folder) / "out.png")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["seconds"]


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Processes that keep a core busy each."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**5))"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main(rounds: int = 3, policies: str = ",".join(POLICIES)) -> None:
    """Measure each policy `rounds` times, quiet and busy, and record the medians in seconds."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"quiet": [], "busy": []} for name in policies.split(",")
    }
    order = [(name, state) for name in found for state in ("quiet", "busy")] * rounds
    random.Random(0).shuffle(order)
    for name, state in order:
        with load(BUSY_PROCESSES if state == "busy" else 0):
            found[name][state].append(seconds(POLICIES[name]))
    medians: dict[str, Any] = {
        name: {state: round(statistics.median(times), 2) for state, times in one.items()}
        for name, one in found.items()
    }
    rows = [[name, f"{one['quiet']:.2f}", f"{one['busy']:.2f}"] for name, one in medians.items()]
    print(markdown(["threads wait by", "quiet, s", "busy, s"], rows))
    record("openmp", cores=os.cpu_count(), rounds=rounds, busy_processes=BUSY_PROCESSES, seconds=medians)


if __name__ == "__main__":
    typer.run(main)
