"""What a run costs in forward passes, counted before it starts: the most that it can take.

Each is one run of the network on one sample. The searches of a zoom are not included.
"""

import math
from collections.abc import Sequence

from ..settings import EditConfig, GenerateConfig
from .diffedit import heat_key, source_key, texts_compared
from .flowedit import source_guidance
from .guidance import forwards_per_run
from .schedules import round_half_up


def edit_forwards(config: EditConfig, *, search: bool = True, frames: int = 0) -> dict[str, int]:
    """The forward passes of each stage of an edit of one picture; frames: those of its film, if any."""
    steps = max(1, round_half_up(config.ratio * config.step_count))
    if config.encoding == "flowedit":
        decode = forwards_per_run(config.guidance, steps)
        decode += forwards_per_run(source_guidance(config.guidance), steps)
    else:
        decode = forwards_per_run(config.guidance, steps, config.reuse)
    each = math.ceil(steps / config.reuse) * (1 + config.inversion_rounds)
    counts = {
        "mask": texts_compared(config) * config.mask.samples if search else 0,
        "invert": each if config.is_inverted else 0,
        "decode": decode,
    }
    return counts | ({"frame": (frames - 1) * decode} if frames else {})


def shared_forwards(configs: Sequence[EditConfig], *, search: bool = True) -> int:
    """The forward passes of several edits of one picture by one DiffEdit: what they share counts once."""
    stages: dict[object, int] = {}
    for number, config in enumerate(configs):
        counts = edit_forwards(config, search=search)
        stages |= {
            ("mask", heat_key(config), config.zoom): counts["mask"],
            ("invert", source_key(config), config.zoom): counts["invert"],
            ("decode", number): counts["decode"],
        }
    return sum(stages.values())


def batch_forwards(
    config: EditConfig, pictures: int, edits: int, *, search: bool = True, frames: int = 0
) -> dict[str, int]:
    """The forward passes of each stage of so many edits of every picture, which share its inversion."""
    counts = edit_forwards(config, search=search, frames=frames)
    return {stage: pictures * (1 if stage == "invert" else edits) * count for stage, count in counts.items()}


def generate_forwards(config: GenerateConfig) -> int:
    """The forward passes of one picture from a text."""
    return forwards_per_run(config.guidance, config.step_count)
