"""Choose the defaults of an edit by measurement: one setting at a time is moved away from its default.

    python -m benchmarks.edit_defaults --count 52

Needs what `python -m benchmarks.quality` needs. Prints a table and appends a line to results.jsonl.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.classifier import load_judge
from benchmarks.quality import Contender, measure, ours, summary, table
from benchmarks.report import record
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import EditConfig, GuidanceConfig, MaskConfig
from training.sources import DATA


def settings_to_try() -> dict[str, EditConfig]:
    """The model's own defaults and values near them, by the flag that sets each."""
    base = EditConfig()
    configs = {"the defaults": base}
    configs["--strength 0.8"] = replace(base, strength=0.8)
    configs["--strength 0.8 --guidance-scale 7.5"] = replace(
        base, strength=0.8, guidance=GuidanceConfig(scale=7.5)
    )
    for scale in (3.0, 7.5):
        configs[f"--guidance-scale {scale}"] = replace(base, guidance=GuidanceConfig(scale=scale))
    for inversion in ("negative-prompt", "noise"):
        configs[f"--inversion {inversion}"] = replace(base, inversion=inversion)
    for room in (0.0, 0.2):
        configs[f"--room {room:g}"] = replace(base, room=room)
    usual = base.mask.threshold
    for threshold in (usual - 0.1, usual - 0.05, usual + 0.05):
        configs[f"--mask-threshold {threshold:g}"] = replace(base, mask=MaskConfig(threshold=threshold))
    return configs


def variants(model: DiffusersDenoiser) -> dict[str, Contender]:
    """An edit under each of them."""
    return {name: ours(model, config) for name, config in settings_to_try().items()}


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 52,
    workers: int = 2, dtype: str = "auto",
) -> None:  # fmt: skip
    """Run every variant on every case; print the table, record the figures."""
    rows = measure(model, dtype, data, count, workers, variants)
    found = summary(rows, list(settings_to_try()))
    facts = {"model": model, "dtype": dtype, "edits": count, "judge": load_judge()[1]}
    record("edit_defaults", **facts, figures=found)
    typer.echo(table(found))


if __name__ == "__main__":
    typer.run(main)
