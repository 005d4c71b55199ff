"""Draw the input pictures of examples/ from their seeds: scenes that no training saw."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from training.scenes import Scenes, World, draw_scenes, load_world
from training.train import HELD_OUT_SEED
from training.words import PLACES


@dataclass(frozen=True)
class Example:
    """One picture. `background`: a held-out wallpaper, or a place word for a fresh crop of its panorama."""

    name: str
    thing: str
    background: str
    seed: int
    size: int = 256  # pixels on the longer side
    width: tuple[float, float] = (0.5, 0.65)  # of the object, as a share of the picture's
    aspect: float = 1.0  # width / height; wider than square is cut off at the top
    beside: str | None = None  # a second object


EXAMPLES = (
    Example("horse_park", "horse", "park", 13, 224, (0.55, 0.7)),
    Example("horse_dunes", "horse", "dune", 4, aspect=1.5),
    Example("horse_far", "horse", "park", 2, 640, (0.14, 0.2), aspect=1.5),
    Example("two_horses", "horse", "park", 21, 384, (0.35, 0.42), aspect=1.5, beside="horse"),
    Example("fox_forest", "fox", "path", 4, width=(0.45, 0.6)),
    Example("dog_grass", "dog", "grass", 3, width=(0.45, 0.6)),
    # The apple's photo is 46 pixels wide, so its picture is small.
    Example("apple_deck", "apple", "deck", 3, 160, (0.38, 0.48)),
)


def draw_example(worlds: tuple[World, World], example: Example) -> Tensor:
    """(3 h w) in [0, 1]. `worlds`: the training world and the held-out one, with large cut-outs."""
    training, held_out = worlds
    words = [place.word for place in PLACES]
    if example.background in words:
        world, backgrounds = training.at([words.index(example.background)]), "panoramas"
    else:
        papers = {example.background: held_out.wallpapers[example.background]}
        world, backgrounds = replace(training, wallpapers=papers), "wallpapers"
    scenes: Scenes = draw_scenes(
        world, 1, HELD_OUT_SEED + example.seed,
        size=example.size, things=[example.thing], beside=example.beside, backgrounds=backgrounds,
        width=example.width,
    )  # fmt: skip
    rows = round(example.size / example.aspect)
    return scenes.pixels[0, :, example.size - rows :]


def draw_examples(data: Path, out: Path, examples: tuple[Example, ...] = EXAMPLES) -> list[Path]:
    """Write every example as a JPEG into `out`; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    worlds = (load_world(data, side=300), load_world(data, held_out=True, side=300))
    paths = []
    for example in examples:
        pixels = (draw_example(worlds, example) * 255).round().to(torch.uint8)
        path = out / f"{example.name}.jpg"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=92, subsampling=0)
        paths.append(path)
    return paths
