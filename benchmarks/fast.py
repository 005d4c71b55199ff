"""What --fast costs: mask IoU and edit success on held-out scenes, compared with the full edit.

    python -m benchmarks.fast --count 64

needs the sources (`python -m training sources`). Prints a table, appends a line to results.jsonl, and writes
docs/speed.md.
"""

from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.classifier import judge, load_judge, verdict
from benchmarks.report import Figures, markdown, means, record, write_block
from diffedit_cli.core.diffedit import DiffEdit
from diffedit_cli.models import load_model
from diffedit_cli.settings import FAST, EditConfig, build, filled_in
from training.evaluate import Case, held_out_cases, iou, psnr
from training.scenes import latent_mask
from training.sources import DATA

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
VARIANTS: dict[str, dict[str, Any]] = {"full": {}, "--fast": dict(FAST)}
TOGETHER = 4  # cases of one pair that are edited at once


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 64
) -> None:
    """Mean mask IoU, success, forwards, and likeness to the full edit, of each variant."""
    denoiser, (classifier, _) = load_model(model), load_judge()
    rows: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
    for group in groups(held_out_cases(data, count)):
        pixels = torch.cat([case.scene.pixels for case in group])
        editor, full = DiffEdit(denoiser, pixels), pixels
        for name, settings in VARIANTS.items():
            texts = {"ref": group[0].ref, "query": group[0].query}
            config = filled_in(build(EditConfig, settings, texts), denoiser.own_defaults)
            before = denoiser.forwards
            edited = editor.edit(config, [case.seed for case in group])
            forwards = (denoiser.forwards - before) / len(group)
            full = edited.pixels if name == "full" else full
            where = edited.plan.found > 0.5
            for i, case in enumerate(group):
                one, true = slice(i, i + 1), case.scene.mask
                told = judge(classifier, edited.pixels[one], true)
                rows[name].append(
                    {
                        "iou": iou(where[one], latent_mask(true) > 0.5),
                        **verdict(told, case.ref, case.query, classifier.sure),
                        "probability": told[case.query],
                        "forwards": forwards,
                        "psnr_to_full": min(psnr(edited.pixels[one], full[one], true), 99.0),
                    }
                )
    found = {name: means(some) for name, some in rows.items()}
    record("fast", model=model, scenes=count, fast=dict(FAST), variants=found)
    text = f"{count} held-out scenes, model {model}.\n\n{table(found)}"
    typer.echo(text)
    write_block(PAGE, "fast", text)


def table(found: dict[str, Figures]) -> str:
    """The table of docs/speed.md. PSNR: to the full edit, on the object."""
    head = (
        "",
        "mask IoU",
        "success",
        "query over ref",
        "sample-forwards",
        "PSNR to the full edit, on the object",
    )
    rows = []
    for name, row in found.items():
        cells = f"{row['iou']:.3f}", f"{row['success']:.1%}", f"{row['query over ref']:.1%}"
        likeness = "" if name == "full" else f"{row['psnr_to_full']:.1f} dB"
        rows.append((name, *cells, f"{row['forwards']:.0f}", likeness))
    return markdown(head, rows)


def groups(cases: list[Case]) -> list[list[Case]]:
    """Cases of one pair of words, a few at a time."""
    ordered = sorted(cases, key=lambda case: (case.ref, case.query, case.seed))
    found: list[list[Case]] = []
    for _, some in groupby(ordered, key=lambda case: (case.ref, case.query)):
        members = list(some)
        found += [members[start : start + TOGETHER] for start in range(0, len(members), TOGETHER)]
    return found


if __name__ == "__main__":
    typer.run(main)
