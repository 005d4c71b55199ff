"""Choose the defaults of the mask by measurement: IoU on held-out scenes over noise levels and thresholds.

    python -m benchmarks.mask_defaults --count 64

needs the sources (`python -m training sources`). Prints a table and appends a line to results.jsonl.
"""

from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.report import record
from diffedit_cli.edit import Texts
from diffedit_cli.mask import binarise, difference_maps, grow, normalise, refine
from diffedit_cli.models import load_model
from diffedit_cli.settings import EditConfig, MaskConfig
from training.evaluate import held_out_cases, iou
from training.scenes import latent_mask
from training.sources import DATA

LEVELS = (0.3, 0.4, 0.5, 0.6)
MIXES = ((0.5,), (0.3,), (0.4,), (0.3, 0.5), (0.4, 0.6))
RADII = (0, 4, 6, 8)  # of the guided filter, in cells of 32
THRESHOLDS = (0.35, 0.4, 0.45, 0.5, 0.55)
CLIPS = (0.95, 0.97, 0.98, 0.99)
SAMPLES = 10
MAPS = (2, 4, 6, 10)  # at the default settings


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 64
) -> None:
    """Mean IoU of the mask, and its recall after growth, with 10 maps in all, for every mix of settings; and
    the IoU of fewer maps."""
    denoiser, usual = load_model(model), MaskConfig()
    by_maps = dict.fromkeys(MAPS, 0.0)
    totals: dict[tuple[object, ...], tuple[float, float]] = {}
    for case in held_out_cases(data, count):
        texts = Texts.embed(denoiser, EditConfig(ref=case.ref, query=case.query))
        x0, true = denoiser.encode(case.scene.pixels), latent_mask(case.scene.mask) > 0.5
        maps = {}
        for level in LEVELS:
            config = MaskConfig(strength=(level,), samples=SAMPLES)
            parts = difference_maps(denoiser, x0, texts.ref, texts.query, config, [case.seed])
            maps[level] = torch.cat(list(parts))
        for count_of_maps in MAPS:
            share = count_of_maps // len(usual.strength)
            mean = torch.cat([maps[level][:share] for level in usual.strength]).mean(0)
            heat = refine(
                normalise(mean, usual.clip), case.scene.pixels, round(usual.refine * mean.shape[-1])
            )
            by_maps[count_of_maps] += iou(binarise(heat, usual) > 0.5, true) / count
        for mix, radius, clip in product(MIXES, RADII, CLIPS):
            share = SAMPLES // len(mix)
            mean = torch.cat([maps[level][:share] for level in mix]).mean(0)
            heat = refine(normalise(mean, clip), case.scene.pixels, radius)
            for threshold in THRESHOLDS:
                found = binarise(heat, MaskConfig(threshold=threshold)) > 0.5
                grown = grow(found.float(), 1) > 0.5
                recall = float((grown & true).sum() / true.sum())
                key = (mix, radius, clip, threshold)
                before = totals.get(key, (0.0, 0.0))
                totals[key] = before[0] + iou(found, true) / count, before[1] + recall / count
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    print("strength, radius, clip, threshold: mean IoU, and recall once the mask is grown by one cell")
    for key, (mean_iou, recall) in ranked:
        print(*key, f"{mean_iou:.3f} {recall:.3f}")
    figures = {" ".join(map(str, key)): [round(value, 3) for value in values] for key, values in ranked}
    few = {maps: round(value, 3) for maps, value in by_maps.items()}
    print("IoU by number of maps:", few)
    record("mask_defaults", model=model, scenes=count, iou_by_maps=few, iou_and_recall_grown=figures)


if __name__ == "__main__":
    typer.run(main)
