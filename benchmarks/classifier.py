"""A small classifier of the things that a model knows: what judges whether an edit succeeded.

    python -m benchmarks.classifier --minutes 8

trains it on scenes whose seeds no other benchmark uses, half of them passed through the VAE, since every
edit is, and prints its accuracy on held-out scenes. It sees squares round the object, which the scene's
exact mask gives it, and never the mask itself: of three sizes, since a new thing may be larger than the old.
"""

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffedit_cli.models import load_model
from training.scenes import Scenes, World, draw_scenes, load_world
from training.sources import DATA
from training.train import HELD_OUT_SEED, Pool, fresh_seeds

WORDS = (  # what it tells apart, as far as the model knows it: what quality.py edits
    "horse", "zebra", "donkey", "cow", "sheep", "goat", "dog", "fox", "lion", "tiger", "bear", "elephant",
    "apple", "pear", "orange", "duck", "rooster", "rabbit", "squirrel", "car", "bus",
    "white horse", "black horse", "bowl of apples", "bowl of pears", "bowl of oranges",
    "bowl of lemons",
)  # fmt: skip
VIEW = 64  # pixels a side of what the classifier sees
MARGINS = (1.2, 1.5, 1.8)  # sides of the squares that it judges by, in units of the object's longer side
WEIGHTS = "classifier.pt"  # in the folder of the sources


class Classifier(nn.Module):
    """Strided convolutions, the maximum over the picture, and one linear layer over `words`."""

    def __init__(self, words: list[str], width: int = 48):
        super().__init__()
        self.words = words
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(itertools.pairwise([3, width, 2 * width, 3 * width, 4 * width])):
            layers += [nn.Conv2d(a, b, 5 if index == 0 else 3, 2, 1), nn.GroupNorm(8, b), nn.GELU()]
            layers += [nn.Conv2d(b, b, 3, 1, 1), nn.GroupNorm(8, b), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, len(words))

    def forward(self, views: Tensor) -> Tensor:
        """views (b 3 VIEW VIEW) in [0, 1]; logits (b words)."""
        return self.head(self.body(views * 2 - 1).amax((2, 3)))


def views_of(pixels: Tensor, mask: Tensor, shift: Tensor | None = None, margin: float = 1.25) -> Tensor:
    """The square round each mask, `margin` times its longer side, as (b 3 VIEW VIEW).

    shift: (b 3), moves of the square along x and y, and of its size, as shares of its side.
    """
    size = pixels.shape[-1]
    axis = torch.arange(size, dtype=torch.float32)
    inside = mask[:, 0] > 0.5
    boxes = []
    for lines in (inside.any(1), inside.any(2)):  # columns, then rows
        low = torch.where(lines, axis, torch.inf).amin(1)
        high = torch.where(lines, axis, -torch.inf).amax(1)
        boxes.append((low, high + 1))
    (left, right), (top, bottom) = boxes
    half = margin * torch.maximum(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    if shift is not None:
        x, y, half = x + shift[:, 0] * half, y + shift[:, 1] * half, half * (1 + shift[:, 2])
    step = (torch.arange(VIEW) + 0.5) / VIEW * 2 - 1
    grid = torch.stack(
        [
            (x[:, None, None] + half[:, None, None] * step[None, None, :]).expand(-1, VIEW, -1),
            (y[:, None, None] + half[:, None, None] * step[None, :, None]).expand(-1, -1, VIEW),
        ],
        -1,
    )
    return F.grid_sample(pixels, grid / size * 2 - 1, padding_mode="border", align_corners=False)


@torch.no_grad()
def through_vae(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode and decode (b 3 s s) in [0, 1]."""
    latents = vae.encode(pixels * 2 - 1).latent_dist.mean
    return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def train(world: World, vae: AutoencoderKL, words: list[str], minutes: float, batch: int = 48) -> Classifier:
    """Train on fresh scenes for some minutes."""
    torch.manual_seed(0)
    seeds, model = fresh_seeds(0), Classifier(words)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)

    def draw() -> tuple[Tensor, ...]:
        truth = torch.randint(len(words), (32,))
        scenes = draw_scenes(world, 32, next(seeds), things=[words[index] for index in truth.tolist()])
        pixels = torch.cat([through_vae(vae, scenes.pixels[:16]), scenes.pixels[16:]])
        shift = torch.cat([torch.randn(32, 2) * 0.08, torch.randn(32, 1) * 0.1], 1)
        return (views_of(pixels, scenes.mask, shift) * 255).byte(), truth

    pool = Pool(draw, 12000, 24, 0)
    start = time.monotonic()
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, 2 * (1 - done))
        views, truth = pool.take(batch)
        loss = F.cross_entropy(model(views.float() / 255), truth, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def chances(model: Classifier, pixels: Tensor, mask: Tensor) -> Tensor:
    """(b words): the probability of each word for the object under each mask, the mean over the squares of
    all MARGINS; pixels (b 3 s s) in [0, 1].
    """
    views = [views_of(pixels.clamp(0, 1), mask, margin=margin) for margin in MARGINS]
    return torch.stack([model(view).softmax(1) for view in views]).mean(0)


def judge(model: Classifier, pixels: Tensor, mask: Tensor) -> dict[str, float]:
    """The probability of each word for the object under `mask`; pixels (1 3 s s)."""
    return dict(zip(model.words, chances(model, pixels, mask)[0].tolist(), strict=True))


def verdict(told: dict[str, float], ref: str, query: str) -> dict[str, float]:
    """Whether an edit succeeded by what `judge` told: 1 if the query won over all words, or over the ref."""

    def chance(word: str) -> float:
        """Of this word, or of it in a colour: a horse may be a white horse."""
        return sum(value for name, value in told.items() if name == word or name.endswith(f" {word}"))

    winner = max(told, key=lambda word: told[word])
    return {
        "success": float(winner == query or winner.endswith(f" {query}")),
        "query over ref": float(chance(query) > chance(ref)),
    }


@torch.no_grad()
def accuracy(
    model: Classifier, worlds: dict[str, tuple[World, str]], vae: AutoencoderKL, scenes: int = 600
) -> dict[str, float]:
    """The share of held-out scenes, after the VAE, whose thing is told right, by kind.

    worlds: {kind: (world, its backgrounds as in draw_scenes)}.
    """
    found = {}
    for kind, (world, backgrounds) in worlds.items():
        hits: list[float] = []
        for start in range(0, scenes, 60):
            names = [model.words[index % len(model.words)] for index in range(start, start + 60)]
            seed = HELD_OUT_SEED + 50_000 + start
            drawn: Scenes = draw_scenes(world, 60, seed, things=names, backgrounds=backgrounds)
            told = chances(model, through_vae(vae, drawn.pixels), drawn.mask).argmax(1).tolist()
            hits += [float(model.words[index] == name) for index, name in zip(told, names, strict=True)]
        found[kind] = round(sum(hits) / len(hits), 4)
    return found


def load_classifier(data: Path) -> tuple[Classifier, dict[str, float]]:
    """The trained classifier and its held-out accuracy, from the folder of the sources."""
    content = torch.load(data / WEIGHTS, weights_only=True)
    model = Classifier(content["words"])
    model.load_state_dict(content["model"])
    return model.eval(), content["accuracy"]


def main(
    model: Annotated[str, typer.Option("-m", "--model", help="Whose words and VAE.")] = "embedded",
    minutes: float = 8, data: Path = DATA,
) -> None:  # fmt: skip
    """Train, measure and save."""
    denoiser = load_model(model)
    known = denoiser.words or {}
    nouns, colours = known["objects"], known.get("colours", [])
    painted = [f"{colour} {noun}" for colour in colours for noun in nouns]
    words = [word for word in WORDS if word in nouns or word in painted]
    world = load_world(data)
    classifier = train(world, denoiser.vae, words, minutes)
    photos = load_world(data, held_out=True).wallpapers
    kinds = {
        "known places": (world, "panoramas"),
        "unseen photos": (replace(world, wallpapers=photos), "wallpapers"),
    }
    figures = accuracy(classifier, kinds, denoiser.vae)
    content = {"words": words, "model": classifier.state_dict(), "accuracy": figures}
    torch.save(content, data / WEIGHTS)
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
