"""Choose the defaults of the mask by measurement: IoU on held-out scenes over noise levels and thresholds.

    python -m benchmarks.mask_defaults --count 80

on the scenes of benchmarks.quality; needs the sources (`python -m training sources`). Prints a table and
appends a line to results.jsonl.
"""

from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.quality import cases_of
from benchmarks.report import record
from diffedit_cli.core.diffedit import Texts
from diffedit_cli.core.mask import binarise, difference_maps, grow, normalise, refine, weigh
from diffedit_cli.core.schedules import round_half_up
from diffedit_cli.core.types import Heat, Pixels
from diffedit_cli.models import load_model
from diffedit_cli.settings import EditConfig, MaskConfig
from training.evaluate import grouped, iou
from training.scenes import latent_mask
from training.sources import DATA

LEVELS = (0.3, 0.4, 0.5, 0.6)
MIXES = ((0.5,), (0.3,), (0.4,), (0.3, 0.5), (0.4, 0.6))
REFINES = (0.0, 0.125, 0.19, 0.25)
THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6)
CLIPS = (0.95, 0.97, 0.98, 0.99)
SAMPLES = 6
MAPS = (2, 3, 4, 6)  # at the default settings but for the threshold, with evidence and without


def mean_of(maps: dict[float, Tensor], levels: tuple[float, ...], count: int) -> Tensor:
    """The mean (1 3 h w) of the maps that a search at these levels draws; maps: SAMPLES of each level."""
    return torch.stack([maps[levels[k % len(levels)]][k] for k in range(count)]).mean(0)


def heat_of(shown: Tensor, pixels: Pixels, config: MaskConfig, evidence: bool) -> Heat:
    """The mean of some maps (1 3 h w) as heat."""
    heat = weigh(*shown.split(1, dim=1)) if evidence else shown[:, :1]
    return refine(normalise(heat, config.clip), pixels, round_half_up(config.refine * min(heat.shape[-2:])))


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 80,
    dtype: str = "auto",
) -> None:  # fmt: skip
    """Mean IoU of the mask, and its recall after growth, with SAMPLES maps for every mix of settings; and the
    IoU of fewer maps, with evidence and without, by kind of scene."""
    denoiser, usual = load_model(model, dtype=dtype), MaskConfig()
    by_maps: dict[str, list[tuple[tuple[str, str], float]]] = {}
    totals: dict[tuple[object, ...], tuple[float, float]] = {}
    assert denoiser.words is not None
    for case in cases_of(data, denoiser.words, count):
        words = EditConfig(ref=case.ref, query=case.query)
        texts = Texts.embed(denoiser, words).compared(words)
        x0, true = denoiser.encode(case.scene.pixels), latent_mask(case.scene.mask) > 0.5
        maps = {}
        for level in LEVELS:
            config = MaskConfig(strength=(level,), samples=SAMPLES)
            maps[level] = torch.cat(list(difference_maps(denoiser, x0, texts, config, [case.seed])))
        levels = usual.strength
        for count_of_maps, evidence in product(MAPS, (True, False)):
            heat = heat_of(mean_of(maps, levels, count_of_maps), case.scene.pixels, usual, evidence)
            for threshold in THRESHOLDS:
                found = binarise(heat, MaskConfig(threshold=threshold)) > 0.5
                name = f"{count_of_maps} maps, {'with' if evidence else 'without'} evidence, from {threshold}"
                by_maps.setdefault(name, []).append((("all", case.kind), iou(found, true)))
        for mix, radius, clip in product(MIXES, REFINES, CLIPS):
            mixed = MaskConfig(clip=clip, refine=radius)
            heat = heat_of(mean_of(maps, mix, SAMPLES), case.scene.pixels, mixed, True)
            for threshold in THRESHOLDS:
                found = binarise(heat, MaskConfig(threshold=threshold)) > 0.5
                grown = grow(found.float(), 1) > 0.5
                recall = float((grown & true).sum() / true.sum())
                key = (mix, radius, clip, threshold)
                before = totals.get(key, (0.0, 0.0))
                totals[key] = before[0] + iou(found, true) / count, before[1] + recall / count
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    print("strength, refine, clip, threshold: mean IoU, and recall once the mask is grown by one cell")
    for key, (mean_iou, recall) in ranked[:40]:
        print(*key, f"{mean_iou:.3f} {recall:.3f}")
    figures = {" ".join(map(str, key)): [round(value, 3) for value in values] for key, values in ranked}
    few = {name: grouped(rows) for name, rows in by_maps.items()}
    for name, values in few.items():
        print(name, values)
    record("mask_defaults", model=model, scenes=count, iou_by_maps=few, iou_and_recall_grown=figures)


if __name__ == "__main__":
    typer.run(main)
