"""What does the parts: processes on this machine (local), or actors of a Ray cluster (ray).

An engine takes a job and its tasks, one after the other, and yields each part that is done, in any order. A
part whose worker dies is started again, at most MOST_ATTEMPTS times.
"""

import os

from ...errors import DiffeditError

MOST_ATTEMPTS = 20


def threads_for(cores: int) -> int:
    """The threads of a worker with this many cores: OMP_NUM_THREADS, if that is set for the driver."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else max(1, cores)


def gave_up(part: int) -> DiffeditError:
    return DiffeditError(
        f"Part {part} killed its worker {MOST_ATTEMPTS} times.",
        "Most likely memory runs out: use fewer --workers, a smaller --size, or --low-memory.",
    )
