"""How strongly a place is redrawn under each grey of a mask: it should rise with the grey.

    python -m training sources && python -m benchmarks.grey --count 20

Flat: the true mask of a held-out scene, with room, at each grey in turn. Change is the mean difference from
the picture's reconstruction in the mask (levels of 255); query, how likely the pinned judge finds the query
there, and ref, the old object. Ramp: one mask from black on the left to white on the right, and in each of
BANDS the change as a share of the change under a white mask. Writes one line to results.jsonl and the table
of docs/guides/masks.md.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.classifier import Judge, judge, load_judge
from benchmarks.quality import ROOT, SEED, JudgedCase, cases_of
from benchmarks.report import Figures, markdown, means, record, write_block
from diffedit_cli.core.diffedit import Areas, DiffEdit
from diffedit_cli.core.mask import binarise, enlarge, widen
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig, filled_in
from training.scenes import latent_mask
from training.sources import DATA

PAGE = ROOT / "docs/guides/masks.md"
LEVELS = (0, 0.04, 0.08, 0.12, 0.25, 0.5, 0.75, 1)
BANDS = 8


def change(picture: Tensor, base: Tensor, where: Tensor) -> float:
    """The mean difference where a mask (1 1 H W) is white, in levels of 255."""
    gap = (picture - base).abs().mean(1, keepdim=True) * 255
    return float((gap * where).sum() / where.sum())


def chance(told: dict[str, float], word: str) -> float:
    return sum(value for name, value in told.items() if name == word or name.endswith(f" {word}"))


def run_flat(model: DiffusersDenoiser, case: JudgedCase, classifier: Judge) -> list[Figures]:
    """A row for each of LEVELS."""
    config = filled_in(EditConfig(ref=case.ref, query=case.query, keep_detail=False), model.own_defaults)
    editor = DiffEdit(model, case.scene.pixels)
    base = model.decode(editor.x0)
    found = binarise(latent_mask(case.scene.mask), replace(config.mask, threshold=0.5))
    area = widen(found, config.room)
    where = enlarge(area, model.factor)
    rows: list[Figures] = []
    for grey in LEVELS:
        drawn = editor.edit(config, [case.seed], Areas(grey * area, is_grey=True)).pixels
        told = judge(classifier, drawn, case.scene.mask)
        row = {"change": change(drawn, base, where)}
        rows.append(row | {"query": chance(told, case.query), "ref": chance(told, case.ref)})
    return rows


def run_ramp(model: DiffusersDenoiser, case: JudgedCase) -> list[Figures]:
    """The change in each of BANDS from left to right, under a ramp and under a white mask."""
    config = filled_in(EditConfig(ref=case.ref, query=case.query, keep_detail=False), model.own_defaults)
    editor = DiffEdit(model, case.scene.pixels)
    base = model.decode(editor.x0)
    rows, columns = editor.x0.shape[-2:]
    ramp = torch.linspace(0, 1, columns).repeat(1, 1, rows, 1)
    changes = []
    for mask in (ramp, torch.ones_like(ramp)):
        drawn = editor.edit(config, [case.seed], Areas(mask, is_grey=True)).pixels
        gaps = (drawn - base).abs().mean((0, 1, 2)) * 255
        changes.append([float(part.mean()) for part in gaps.chunk(BANDS)])
    return [{"ramp": one, "white": other} for one, other in zip(*changes, strict=True)]


def rises(values: list[float]) -> bool:
    return all(later > earlier for earlier, later in itertools.pairwise(values))


def main(
    count: Annotated[int, typer.Option(help="Scenes.")] = 20,
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded",
    data: Annotated[Path, typer.Option(help="Where the sources lie.")] = DATA,
) -> None:
    denoiser, (classifier, _) = load_model(model), load_judge()
    assert denoiser.words is not None
    cases = cases_of(data, denoiser.words, count, SEED)
    flat = [run_flat(denoiser, case, classifier) for case in cases]
    ramps = [run_ramp(denoiser, case) for case in cases]
    levels = [means(rows) for rows in zip(*flat, strict=True)]
    shares = [means(rows) for rows in zip(*ramps, strict=True)]
    bands = [round(row["ramp"] / row["white"], 3) for row in shares]
    facts: dict[str, Any] = {
        "rises": rises([row["change"] for row in levels]),
        "scenes that rise": sum(rises([row["change"] for row in rows]) for rows in flat),
        "bands rise": rises(bands),
        "flat": dict(zip(map(str, LEVELS), levels, strict=True)),
        "bands": bands,
    }
    record("grey", model=model, scenes=count, **facts)
    head = ["grey", *(f"{grey:.0%}" for grey in LEVELS)]
    lines = [["change, levels of 255", *(f"{row['change']:.1f}" for row in levels)]]
    lines += [[f"judged to be the {which}", *(f"{row[key]:.0%}" for row in levels)]
              for which, key in (("old object", "ref"), ("new one", "query"))]  # fmt: skip
    text = f"{count} held-out scenes, model {model}, the true mask.\n\n{markdown(head, lines)}"
    write_block(PAGE, "grey", text)
    print(text, facts, sep="\n\n")


if __name__ == "__main__":
    with torch.no_grad():
        typer.run(main)
