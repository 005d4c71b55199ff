"""`diffedit merge` on composed pairs whose truth is known.

    python -m training sources && python -m benchmarks.merge --count 200

Each pair is one held-out scene drawn twice, with one object and with another in its place. The second is
shifted by up to 8 pixels, zoomed by up to 2 %, recoloured, scaled to another size in two of five cases, and
compressed as a JPEG of quality 85. The truth is where the two scenes differ by more than TOLD levels.
Hopeless pairs are two scenes that have nothing to do with each other. Writes one line to results.jsonl.
"""

import io
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from torch import Tensor

from benchmarks.quality import PAIRS, SEED
from benchmarks.report import Figures, means, record
from diffedit_cli import DiffeditError, MergeResult, Picture, load_image, merge_images
from diffedit_cli.core.align import place
from diffedit_cli.images.canvas import pixels_to_image
from training.evaluate import iou
from training.scenes import World, draw_scenes, load_world
from training.sources import DATA

SIZE = 512
MOST_SHIFT, MOST_ZOOM = 8, 0.02  # pixels; share
TOLD = 8  # levels of 255
SIDES = (1.0, 0.8, 1.25, 1.0, 1.0)


def picture_of(image: Image.Image, kind: str = "PNG", **options: int) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return load_image(buffer.getvalue())


def draw_pair(worlds: tuple[World, World], index: int, seed: int) -> tuple[Tensor, Tensor]:
    """A scene and its twin with another object, (1 3 SIZE SIZE): in a known place, or before a wallpaper."""
    world, backgrounds = (worlds[0], "panoramas") if index % 2 == 0 else (worlds[1], "wallpapers")
    one, other = (
        draw_scenes(world, 1, seed, things=[word], backgrounds=backgrounds, size=SIZE).pixels
        for word in PAIRS[index % len(PAIRS)]
    )
    return one, other


def returned(pixels: Tensor, index: int, seed: int) -> tuple[Picture, Tensor]:
    """The twin as an instruction editor returns it, and how it was placed."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    zoom, shift = between(-MOST_ZOOM, MOST_ZOOM), 2 * MOST_SHIFT / SIZE
    placed = torch.tensor([zoom, zoom, between(-shift, shift), between(-shift, shift)], dtype=torch.float64)
    gain = torch.tensor([between(0.92, 1.08) for _ in range(3)]).view(1, 3, 1, 1)
    moved = place(pixels, placed, SIZE, SIZE) * gain + between(-0.03, 0.03)
    side = round(SIZE * SIDES[index % len(SIDES)])
    image = pixels_to_image(moved).resize((side, side), Image.Resampling.LANCZOS)
    return picture_of(image, "JPEG", quality=85), placed


def misplaced(result: MergeResult, placed: Tensor) -> float:
    """Pixels by which the registration is off in the corner where it is off most."""
    scale, shift = 1 / (1 + placed[:2]), -placed[2:] / (1 + placed[:2])
    found = torch.tensor([1 / zoom for zoom in result.zoom] + [-2 * one / SIZE for one in result.shift])
    gap = found - torch.cat([scale, shift])
    return float((gap[:2].abs() + gap[2:].abs()).amax()) * SIZE / 2


def run_pair(pixels: tuple[Tensor, Tensor], index: int, seed: int) -> Figures:
    one, other = (x.mul(255).round() / 255 for x in pixels)
    edited, placed = returned(other, index, seed)
    original = picture_of(pixels_to_image(one))
    start = time.perf_counter()
    try:
        result = merge_images(original, edited)
    except DiffeditError:
        return {"refused": 1.0}
    figures = {"refused": 0.0, "seconds": time.perf_counter() - start}
    true = ((one - other).abs().amax(1)[0] * 255 > TOLD).flatten()
    found = torch.frombuffer(bytearray(result.mask.tobytes()), dtype=torch.uint8) > 127
    return figures | {
        "iou": iou(found, true),
        "changed outside": float(result.changed_outside),
        "pixels off": misplaced(result, placed),
    }


def main(
    count: Annotated[int, typer.Option(help="Pairs.")] = 200,
    hopeless: Annotated[int, typer.Option(help="Pairs that do not match.")] = 20,
    data: Annotated[Path, typer.Option(help="Where the sources lie.")] = DATA,
    offset: Annotated[int, typer.Option(help="Added to the seeds: other scenes.")] = 0,
) -> None:
    worlds = load_world(data), load_world(data).before(load_world(data, held_out=True))
    rows: list[Figures] = []
    for index in range(count):
        seed = SEED + offset + index
        rows.append(run_pair(draw_pair(worlds, index, seed), index, seed))
    refused = 0
    for index in range(hopeless):
        seed = SEED + offset + count + 2 * index
        one, other = (draw_pair(worlds, index + i, seed + i)[0] for i in range(2))
        try:
            merge_images(picture_of(pixels_to_image(one)), returned(other, index, seed)[0])
        except DiffeditError:
            refused += 1
    found = [row for row in rows if not row["refused"]]
    off = sorted(row["pixels off"] for row in found)
    figures: dict[str, Any] = means(found) | {
        "refused": sum(row["refused"] for row in rows) / count,
        "iou above 0.8": sum(row["iou"] > 0.8 for row in found) / len(found),
        "pixels off, median": off[len(off) // 2],
        "pixels off, 90 %": off[int(0.9 * len(off))],
        "hopeless refused": refused / max(1, hopeless),
    }
    record("merge", count=count, hopeless=hopeless, offset=offset, **figures)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    typer.run(main)
