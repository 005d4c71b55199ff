"""What a zoom is worth: things of several sizes in large pictures, with and without it.

    python -m benchmarks.zoom

Held-out scenes of 512x512 pixels. The embedded model works at 128, so what is a tenth to a quarter of the
width is 3 to 8 of its cells. Mask IoU is taken over the pixels of the picture. Needs the sources
(`python -m training sources`). Writes one line to results.jsonl and the table of
docs/guides/small-objects.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

from benchmarks.classifier import Judge, judge, load_judge, verdict
from benchmarks.quality import PAIRS
from benchmarks.report import Figures, markdown, means, record, write_block
from diffedit_cli.api import edit_image
from diffedit_cli.images.canvas import pixels_to_image
from diffedit_cli.images.read import Picture
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig
from training.evaluate import Case, iou
from training.scenes import draw_scenes, load_world
from training.sources import DATA
from training.train import HELD_OUT_SEED

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "small-objects.md"
SIZE = 512
WIDTHS = {"small": (0.1, 0.25), "middle": (0.25, 0.4), "large": (0.4, 0.8)}  # shares of the picture's
SEED = HELD_OUT_SEED + 90_000
VARIANTS = {"--no-zoom": False, "the default": None, "--zoom": True}


def cases_of(data: Path, width: tuple[float, float], count: int) -> list[Case]:
    """Half of them in known places, half on wallpapers that no training saw."""
    world = replace(load_world(data), wallpapers=load_world(data, held_out=True).wallpapers)
    cases = []
    for index in range(count):
        ref, query = PAIRS[index % len(PAIRS)]
        backgrounds = ("panoramas", "wallpapers")[index // len(PAIRS) % 2]
        scene = draw_scenes(
            world, 1, SEED + index, size=SIZE, things=[ref], backgrounds=backgrounds, width=width
        )
        cases.append(Case(scene, ref, query, backgrounds, SEED + index))
    return cases


def as_pixels(image: Image.Image) -> Tensor:
    """(1 c s s) in [0, 1]."""
    values = torch.from_numpy(np.array(image)).float() / 255
    return values[None, None] if values.ndim == 2 else values.permute(2, 0, 1)[None]


def run_case(model: DiffusersDenoiser, classifier: Judge, case: Case) -> dict[str, Figures]:
    """Each variant on one scene, each from the start."""
    picture = Picture(pixels_to_image(case.scene.pixels), None, None, None, "scene", "")
    true, rows = case.scene.mask > 0.5, {}
    for name, zoom in VARIANTS.items():
        config = EditConfig(ref=case.ref, query=case.query, seed=case.seed, zoom=zoom)
        result = edit_image(model, picture, config)
        told, found = (
            judge(classifier, as_pixels(result.image), case.scene.mask),
            as_pixels(result.mask) > 0.5,
        )
        rows[name] = {
            **verdict(told, case.ref, case.query, classifier.sure),
            "iou": iou(found, true),
            "precision": float((found & true).sum() / found.sum().clamp(min=1)),
            "recall": float((found & true).sum() / true.sum()),
            "zoomed": float(bool(result.config.zoom)),
            "forwards": float(result.run.forwards),
        }
    return rows


def table(found: dict[str, dict[str, Figures]]) -> str:
    """The table of docs/guides/small-objects.md."""
    head = "thing", "", "mask IoU", "precision", "recall", "success", "query over ref", "zoomed", "forwards"
    rows = []
    for size, (low, high) in WIDTHS.items():
        for name, row in found[size].items():
            masks = (f"{row[key]:.2f}" for key in ("iou", "precision", "recall"))
            shares = (f"{row[key]:.0%}" for key in ("success", "query over ref", "zoomed"))
            rows.append((f"{low:g} to {high:g}", name, *masks, *shares, f"{row['forwards']:.0f}"))
    return markdown(head, rows)


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 26,
    dtype: str = "auto", page: bool = True,
) -> None:  # fmt: skip
    """Every variant on `count` scenes of each size: print the table, record the figures, write the page."""
    denoiser, (classifier, _) = load_model(model, dtype=dtype), load_judge()
    found: dict[str, dict[str, Figures]] = {}
    for size, width in WIDTHS.items():
        rows = [run_case(denoiser, classifier, case) for case in cases_of(data, width, count)]
        found[size] = {name: means([row[name] for row in rows]) for name in VARIANTS}
        typer.echo(f"{size}: done", err=True)
    record("zoom", model=model, dtype=dtype, edits=count, figures=found)
    typer.echo(table(found))
    if page:
        intro = f"{count} scenes of each size, {SIZE}x{SIZE} pixels, model {model}, {dtype}."
        write_block(PAGE, "zoom", f"{intro}\n\n{table(found)}")


if __name__ == "__main__":
    typer.run(main)
