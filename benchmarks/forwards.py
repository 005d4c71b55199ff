"""Which forwards of an edit can be left out: each way, measured on scenes with exact masks.

    python -m benchmarks.forwards --tuning --count 80
    python -m benchmarks.forwards --count 200 --only "--reuse 2,--mask-samples 4"

Every way edits the same scenes with the same noise as an edit that leaves nothing out. Outside is what
neither the object nor its soft edge covers, before the paste. Needs the sources (`python -m training
sources`). Writes a line to results.jsonl, and the table of docs/speed.md unless it was for tuning.
"""

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from benchmarks.backends import TUNING_SEED
from benchmarks.classifier import Judge, judge, load_judge, verdict
from benchmarks.quality import SEED, JudgedCase, cases_of
from benchmarks.report import Figures, markdown, record, write_block
from diffedit_cli.core.diffedit import DiffEdit
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig, build, filled_in
from training.evaluate import iou, psnr
from training.scenes import latent_mask
from training.sources import DATA

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
TOGETHER = 4  # cases of one pair that are edited at once
FULL = "every forward"


WAYS: dict[str, dict[str, Any]] = {  # the settings of each
    FULL: {},
    "--reuse 2": {"reuse": 2},
    "--reuse 3": {"reuse": 3},
    "--guidance-interval 0:0.5": {"guidance_interval": "0:0.5"},
    "--mask-samples 4": {"mask_samples": 4},
    "--steps 20": {"steps": 20},
    "--steps 18 --solver dpm++": {"steps": 18, "solver": "dpm++"},
}


def config_of(model: DiffusersDenoiser, case: JudgedCase, settings: dict[str, Any]) -> EditConfig:
    texts = {"ref": case.ref, "query": case.query}
    return filled_in(build(EditConfig, settings, texts), model.own_defaults)


def figures_of(case: JudgedCase, found: Tensor, pixels: Tensor, full: Tensor, classifier: Judge) -> Figures:
    """Of one edit (1 3 s s), with the mask that it found."""
    true = case.scene.mask
    told = judge(classifier, pixels, true)
    return {
        "iou": iou(found > 0.5, latent_mask(true) > 0.5),
        **verdict(told, case.ref, case.query, classifier.sure),
        "outside": psnr(pixels, case.scene.pixels, (F.max_pool2d(true, 9, 1, 4) < 0.01).float()),
        "likeness": min(psnr(pixels, full, true), 99.0),
    }


def run_group(
    model: DiffusersDenoiser, group: list[JudgedCase], ways: dict[str, dict[str, Any]], judged: Judge
) -> dict[str, list[Figures]]:
    """Every way on some cases of one pair; the first is the full edit."""
    pixels, seeds = torch.cat([case.scene.pixels for case in group]), [case.seed for case in group]
    editor, full, rows = DiffEdit(model, pixels), pixels, dict[str, list[Figures]]()
    for name, settings in ways.items():
        edited = editor.edit(config_of(model, group[0], settings), seeds)
        full = edited.pixels if name == FULL else full
        rows[name] = [
            figures_of(case, edited.plan.found[[i]], edited.pixels[[i]], full[[i]], judged)
            for i, case in enumerate(group)
        ]
    return rows


def forwards_of(model: DiffusersDenoiser, case: JudgedCase, settings: dict[str, Any]) -> int:
    """Counted, of one edit that shares nothing with another."""
    before = model.forwards
    DiffEdit(model, case.scene.pixels).edit(config_of(model, case, settings), [case.seed])
    return model.forwards - before


def groups(cases: list[JudgedCase]) -> Iterator[list[JudgedCase]]:
    """Cases of one pair of words, a few at a time."""
    ordered = sorted(cases, key=lambda case: (case.ref, case.query, case.seed))
    for _, some in groupby(ordered, key=lambda case: (case.ref, case.query)):
        members = list(some)
        yield from (members[start : start + TOGETHER] for start in range(0, len(members), TOGETHER))


def summary(rows: list[Figures], full: list[Figures]) -> Figures:
    """Means, and how far they lie from the full edit's, with the standard error over the scenes."""
    found: Figures = {key: mean([row[key] for row in rows]) for key in rows[0]}
    for key in ("iou", "success"):
        differences = [row[key] - other[key] for row, other in zip(rows, full, strict=True)]
        middle, count = mean(differences), len(differences)
        variance = sum((value - middle) ** 2 for value in differences) / max(1, count - 1)
        found[f"{key} gained"], found[f"{key} error"] = middle, math.sqrt(variance / count)
    return {key: round(value, 4) for key, value in found.items()}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(found: dict[str, Figures]) -> str:
    """The table of docs/speed.md."""
    head = [
        "", "forwards", "mask IoU", "success", "success gained", "query over ref", "PSNR outside, dB",
        "PSNR to the full edit, on the object, dB",
    ]  # fmt: skip
    rows = [
        [
            name,
            f"{row['forwards']:.0f}",
            f"{row['iou']:.3f}",
            f"{row['success']:.1%}",
            "" if name == FULL else f"{100 * row['success gained']:+.1f} ± {100 * row['success error']:.1f}",
            f"{row['query over ref']:.1%}",
            f"{row['outside']:.1f}",
            "" if name == FULL else f"{row['likeness']:.1f}",
        ]
        for name, row in found.items()
    ]
    return markdown(head, rows)


def main(
    data: Path = DATA, count: int = 200, dtype: str = "auto",
    backend: Annotated[str, typer.Option(help="What runs the networks: auto, torch or openvino.")] = "auto",
    tuning: Annotated[bool, typer.Option(help="On scenes that nothing is reported of.")] = False,
    strength: Annotated[float | None, typer.Option(help="Of all edits; default: the model's own.")] = None,
    only: Annotated[str, typer.Option(help="Ways, with commas between; default: all.")] = "",
) -> None:  # fmt: skip
    """Edit every scene by every way; print the table, record the figures."""
    model, (classifier, judged_by) = load_model("embedded", dtype=dtype, backend=backend), load_judge()
    base = {} if strength is None else {"strength": strength}
    names = [FULL, *only.split(",")] if only else list(WAYS)
    ways = {name: base | WAYS[name] for name in names}
    cases = cases_of(data, model.words or {}, count, TUNING_SEED if tuning else SEED)
    rows: dict[str, list[Figures]] = {name: [] for name in ways}
    for group in groups(cases):
        for name, some in run_group(model, group, ways, classifier).items():
            rows[name] += some
        typer.echo(f"{len(rows[FULL])} of {count}", err=True)
    found = {name: summary(some, rows[FULL]) for name, some in rows.items()}
    for name, settings in ways.items():
        found[name]["forwards"] = forwards_of(model, cases[0], settings)
    facts = {"edits": count, "dtype": str(model.dtype).removeprefix("torch."), "judge": judged_by, **base}
    record("forwards", **facts, tuning=tuning, backend=model.origin["backend"], ways=found)
    typer.echo(table(found))
    if not tuning and strength is None:
        write_block(PAGE, "forwards", f"{count} held-out scenes, model embedded.\n\n{table(found)}")


if __name__ == "__main__":
    typer.run(main)
