"""A small classifier of the things that a model knows: what judges whether an edit succeeded.

    python -m benchmarks.classifier --minutes 30

fine-tunes EfficientNet-Lite0 with its ImageNet weights (Tan and Le 2019, arXiv 1905.11946) on scenes whose
seeds no other benchmark uses, most of them passed through the VAE, since every edit is, and prints its
accuracy on held-out scenes. It sees squares round the object, which the scene's exact mask gives it, and
never the mask itself: of three sizes, since a new thing may be larger than the old.

It was taught whole things, and takes half a lion for a lion, though less surely. So an edit succeeds where
it is as sure of the query as of 98 % of the photos in held-out scenes.

The judge of all benchmarks is next to this file. It was trained for 27 minutes on scenes without neighbours,
then for 17 minutes as the code is now (`--start`), each time on one of two busy cores. Another judge can
differ from it by some points: compare figures of one judge only.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffedit_cli.models import load_model
from training.classifier import Classifier, through_vae, train_classifier, views_of
from training.scenes import Scenes, draw_scenes, load_world
from training.sources import DATA
from training.train import HELD_OUT_SEED

WORDS = (  # what it tells apart, as far as the model knows it: what quality.py edits
    "horse", "zebra", "donkey", "cow", "sheep", "goat", "dog", "fox", "lion", "tiger", "bear", "elephant",
    "apple", "pear", "orange", "duck", "rooster", "rabbit", "squirrel", "car", "bus",
    "white horse", "black horse", "bowl of apples", "bowl of pears", "bowl of oranges",
    "bowl of lemons",
)  # fmt: skip
MARGINS = (1.2, 1.5, 1.8)  # sides of the squares that it judges by, in units of the object's longer side
SURE = 0.02  # the share of photos in held-out scenes of which the judge is less sure than of a success
WEIGHTS = Path(__file__).parent / "judge.safetensors"


class Judge(Classifier):
    """sure: the probability of the query from which on an edit has succeeded."""

    def __init__(self, words: list[str], sure: float = 0.5):
        super().__init__(words, "lite0")
        self.sure = sure


@torch.no_grad()
def chances(model: Classifier, pixels: Tensor, mask: Tensor) -> Tensor:
    """(b words): the probability of each word for the object under each mask, the mean over the squares of
    all MARGINS; pixels (b 3 s s) in [0, 1].
    """
    views = [views_of(pixels.clamp(0, 1), mask, margin=margin) for margin in MARGINS]
    return torch.stack([model(view).softmax(1) for view in views]).mean(0)


def judge(model: Judge, pixels: Tensor, mask: Tensor) -> dict[str, float]:
    """The probability of each word for the object under `mask`; pixels (1 3 s s)."""
    return dict(zip(model.words, chances(model, pixels, mask)[0].tolist(), strict=True))


def verdict(told: dict[str, float], ref: str, query: str, sure: float) -> dict[str, float]:
    """Whether an edit succeeded by what `judge` told: 1 if it is that sure of the query; and surer than of
    the ref."""

    def chance(word: str) -> float:
        """Of this word, or of it in a colour: a horse may be a white horse."""
        return sum(value for name, value in told.items() if name == word or name.endswith(f" {word}"))

    return {
        "success": float(chance(query) >= sure),
        "query over ref": float(chance(query) > chance(ref)),
    }


@torch.no_grad()
def examine(
    model: Classifier, kinds: dict[str, Callable[..., Scenes]], vae: AutoencoderKL, scenes: int = 300
) -> tuple[dict[str, float], float]:
    """Held-out scenes, after the VAE: the share whose thing is told right, by kind, and how sure it is of the
    thing in all scenes but SURE of them: more than half, in any case.

    kinds: for each, draw_scenes with its world and what is the same for all its scenes.
    """
    found, surety = {}, []
    for kind, draw in kinds.items():
        hits: list[Tensor] = []
        for start in range(0, scenes, 60):
            truth = torch.arange(start, start + 60) % len(model.words)
            names = [model.words[index] for index in truth.tolist()]
            drawn = draw(batch=60, seed=HELD_OUT_SEED + 50_000 + start, things=names)
            told = chances(model, through_vae(vae, drawn.pixels), drawn.mask)
            hits.append((told.argmax(1) == truth).float())
            surety.append(told[torch.arange(60), truth])
        found[kind] = round(float(torch.cat(hits).mean()), 4)
    return found, max(0.5, float(torch.cat(surety).quantile(SURE)))


def kinds_of(data: Path) -> dict[str, Callable[..., Scenes]]:
    """Held-out scenes of the kinds that quality.py edits, all of known things."""
    world = load_world(data)
    unseen = world.before(load_world(data, held_out=True))
    return {
        "known places": partial(draw_scenes, world),
        "unseen photos": partial(draw_scenes, unseen, backgrounds="wallpapers"),
        "two things": partial(draw_scenes, world, beside="dog"),
        "unseen places": partial(draw_scenes, unseen),
    }


def save_judge(model: Judge, accuracy: dict[str, float], path: Path) -> None:
    """In float16, with its words, its held-out accuracy, and how sure it must be."""
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    told = {"words": model.words, "sure": model.sure, "accuracy": accuracy}
    save_file(weights, path, {name: json.dumps(value) for name, value in told.items()})


def load_judge(path: Path = WEIGHTS) -> tuple[Judge, dict[str, float]]:
    """The judge; its held-out accuracy, and how sure it must be."""
    with safe_open(path, "pt") as file:
        told = {name: json.loads(value) for name, value in file.metadata().items()}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = Judge(told["words"], told["sure"])
    model.load_state_dict(weights)
    return model.eval(), {**told["accuracy"], "sure": round(model.sure, 4)}


def main(
    model: Annotated[str, typer.Option("-m", "--model", help="Whose words and VAE.")] = "embedded",
    minutes: float = 30, data: Path = DATA, out: Path = WEIGHTS,
    start: Annotated[Path | None, typer.Option(help="A judge to train on.")] = None,
) -> None:  # fmt: skip
    """Train, measure and save."""
    denoiser = load_model(model)
    known = denoiser.words or {}
    nouns, colours = known["objects"], known.get("colours", [])
    painted = [f"{colour} {noun}" for colour in colours for noun in nouns]
    told_apart = Judge([word for word in WORDS if word in nouns or word in painted])
    if start is not None:
        told_apart.load_state_dict(load_judge(start)[0].state_dict())
    train_classifier(
        told_apart, load_world(data, backdrops=True), denoiser.vae, minutes, seed=int(start is not None)
    )
    told_apart.half().float()  # as it will be saved
    accuracy, told_apart.sure = examine(told_apart, kinds_of(data), denoiser.vae)
    save_judge(told_apart, accuracy, out)
    typer.echo(json.dumps({**accuracy, "sure": round(told_apart.sure, 4)}))


if __name__ == "__main__":
    typer.run(main)
