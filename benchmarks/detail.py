"""What --keep-detail brings back into an edit, and what it costs, on the edits of benchmarks.quality.

    python -m training sources && python -m benchmarks.detail --count 200

Each edit is drawn once and pasted twice, without and with the picture's own detail and tone. Beside the
objects is what was redrawn although neither the old object nor a photo of the new one covers it. There,
fine detail is the share of the source's that is left (the Laplacian projected on the source's), and PSNR is
against the source. Jump: how far the gradients differ from the source's where the redrawn area ends. The
old object's fine detail is what is left of it in its place; an edit should draw it anew. Success: by the
pinned judge. Seconds: of the edit, without and with. Writes a line to results.jsonl and the table of
docs/quality.md.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from benchmarks.classifier import Judge, judge, load_judge, verdict
from benchmarks.quality import PAGE, PAIRS, SEED, JudgedCase, cases_of
from benchmarks.report import Figures, markdown, means, record, write_block
from diffedit_cli.core.detail import kept_at, recover
from diffedit_cli.core.diffedit import DiffEdit, Edited
from diffedit_cli.core.mask import enlarge, feather
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.notices import HARDLY
from diffedit_cli.settings import EditConfig, filled_in
from training.evaluate import psnr
from training.sources import DATA

LAPLACIAN = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]).expand(3, 1, 3, 3)
WAYS = ("without", "with")
TOLD = {
    "detail": "fine detail left beside the objects",
    "psnr": "PSNR beside the objects, dB",
    "jump": "jump at the outline",
    "ghost": "the old object's fine detail left",
    "success": "success",
    "seconds": "seconds",
}


def grown(mask: Tensor, pixels: int) -> Tensor:
    return F.max_pool2d(mask, 2 * pixels + 1, 1, pixels)


def fine(picture: Tensor) -> Tensor:
    return F.conv2d(F.pad(picture, (1, 1, 1, 1), "replicate"), LAPLACIAN, groups=3)


def detail_left(picture: Tensor, source: Tensor, where: Tensor) -> float:
    """How much of the source's fine detail stands in the picture: 1 all of it, 0 none. Not its energy, which
    noise or another texture has too."""
    own = fine(source) * where
    return float((fine(picture) * own).sum() / (own * own).sum().clamp(min=1e-12))


def jump(picture: Tensor, source: Tensor, rim: Tensor) -> float:
    """How far the gradients of the two differ at the rim, on average."""
    total = sum(
        (
            (picture - source).diff(dim=axis).abs().mean(1, keepdim=True)
            * rim.narrow(axis, 1, rim.shape[axis] - 1)
        ).sum()
        for axis in (2, 3)
    )
    return float(total / (2 * rim.sum()).clamp(min=1))


def with_detail(drawn: Edited, source: Tensor, factor: int) -> Tensor:
    """The edit with detail and tone, as images.paste.paste_edit lays it at the picture's own size."""
    if (detail := drawn.detail) is None:
        return drawn.pixels
    return (drawn.pixels + detail.tone).clamp(0, 1) + detail.keep * (source - detail.base)


def figures_of(case: JudgedCase, drawn: Edited, picture: Tensor, factor: int, classifier: Judge) -> Figures:
    scene, area = case.scene, enlarge(drawn.plan.mask, factor)
    soft = feather(area, EditConfig().mask.feather)
    final = torch.lerp(scene.pixels, picture, soft).clamp(0, 1)
    old, new = ((one.mask > 0.01).float() for one in (scene, case.perfect))
    beside = (soft > 0.5) * (1 - grown(torch.maximum(old, new), 2))
    told = verdict(judge(classifier, picture, scene.mask), case.ref, case.query, classifier.sure)
    figures = {
        "jump": jump(final, scene.pixels, ((soft > 0) & (soft < 1)).float()),
        "ghost": detail_left(final, scene.pixels, grown(old, 2) * (soft == 1)),
        "success": told["success"],
    }
    if float(beside.sum()) > 64:  # pixels
        figures["detail"] = detail_left(final, scene.pixels, beside)
        figures["psnr"] = psnr(final, scene.pixels, beside)
    return figures


def run_case(model: DiffusersDenoiser, case: JudgedCase, classifier: Judge) -> dict[str, Figures]:
    config = filled_in(EditConfig(ref=case.ref, query=case.query, keep_detail=False), model.own_defaults)
    begin = time.perf_counter()
    editor = DiffEdit(model, case.scene.pixels)
    plain = editor.edit(config, [case.seed])
    drawn = time.perf_counter()
    base, source = model.decode(editor.x0), case.scene.pixels
    plan, factor = plain.plan, model.factor
    kept = kept_at(plan.found, plan.area, factor)
    full = Edited(plan, plain.pixels, recover(plain.pixels, source, base, plan.mask, kept, factor))
    done = time.perf_counter()
    rows = {
        way: figures_of(case, edit, with_detail(edit, source, factor), factor, classifier)
        for way, edit in (("without", plain), ("with", full))
    }
    rows["without"]["seconds"], rows["with"]["seconds"] = drawn - begin, done - begin
    assert plan.recognised is not None
    rows["with"]["recognised"] = float(plan.recognised)
    return rows


def mean_of(rows: list[Figures]) -> Figures:
    """The mean of each figure over the rows that have it."""
    return {key: means([{key: row[key]} for row in rows if key in row])[key] for key in TOLD}


def notes(rows: list[Figures]) -> dict[str, int]:
    """How often the note comes that the model hardly knows what it looks for, after good and bad edits."""
    found = Counter[str]()
    for row in rows:
        kind = "good" if row["success"] else "bad"
        found[kind] += 1
        found[f"{kind}, hardly recognised"] += row["recognised"] < HARDLY
    return dict(found)


def main(
    data: Path = DATA, count: int = 200, dtype: str = "auto",
    first: Annotated[int, typer.Option(help="The first seed.")] = SEED,
    pages: bool = True,
) -> None:  # fmt: skip
    """Draw every edit; print the table, record the figures."""
    model, (classifier, about) = load_model("embedded", dtype=dtype), load_judge()
    rows: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for index, case in enumerate(cases_of(data, model.words or {}, count, first), 1):
        with torch.no_grad():
            for way, figures in run_case(model, case, classifier).items():
                rows[way].append(figures)
        if index % len(PAIRS) == 0:
            typer.echo(f"{index} of {count}", err=True)
    found = {way: mean_of(of) for way, of in rows.items()}
    facts: dict[str, Any] = {"edits": count, "first": first, "dtype": dtype, "judge": about}
    facts["beside"] = sum("detail" in row for row in rows["with"])
    text = markdown(
        ["", *WAYS], [[told, *(f"{found[way][key]:.3f}" for way in WAYS)] for key, told in TOLD.items()]
    )
    told = notes(rows["with"])
    typer.echo(f"{text}\n{told}")
    if pages:
        write_block(PAGE, "detail", text)
        record("detail", **facts, figures=found, notes=told)


if __name__ == "__main__":
    typer.run(main)
