"""Measure a model folder on held-out scenes with exact masks: mask IoU, VAE PSNR, the training loss, and a
sheet of edits.

The edits are the package's own, run on the folder as a user would run it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffedit_cli.core.diffedit import DiffEdit, Texts, find_heat
from diffedit_cli.core.mask import binarise
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig, MaskConfig, filled_in
from training.scenes import Scenes, draw_scenes, latent_mask, load_world, save_sheet
from training.train import HELD_OUT_SEED, debiased_weights, load_text_to_image, read_unet, unet_loss
from training.words import THINGS, caption

PAIRS = (  # ref, query; horse to zebra is the paper's own example and counts most
    ("horse", "zebra"), ("zebra", "horse"), ("horse", "zebra"), ("dog", "fox"), ("horse", "zebra"),
    ("apple", "pear"), ("horse", "zebra"), ("fox", "dog"), ("horse", "zebra"), ("cow", "zebra"),
    ("horse", "zebra"), ("pear", "apple"), ("horse", "zebra"), ("sheep", "cow"), ("horse", "donkey"),
    ("lion", "tiger"),
)  # fmt: skip


@dataclass
class Case:
    """One held-out scene and the pair of words to edit it with."""

    scene: Scenes  # batch of 1
    ref: str
    query: str
    kind: str  # "known place" or "unseen photo" (a wallpaper)
    seed: int


def held_out_cases(data: Path, count: int, device: str = "cpu") -> list[Case]:
    """`count` cases over PAIRS: half in known places (fresh views), then half on unseen wallpapers."""
    training = load_world(data).to(device)
    unseen = training.before(load_world(data, held_out=True).to(device))
    cases = []
    for index in range(count):
        ref, query = PAIRS[index % len(PAIRS)]
        known = index < count // 2
        seed = HELD_OUT_SEED + 1000 + index
        backgrounds = "panoramas" if known else "wallpapers"
        scene = draw_scenes(training if known else unseen, 1, seed, things=[ref], backgrounds=backgrounds)
        cases.append(Case(scene, ref, query, "known place" if known else "unseen photo", seed))
    return cases


def iou(found: Tensor, true: Tensor) -> float:
    """Intersection over union of two boolean masks."""
    return float((found & true).sum() / (found | true).sum().clamp(min=1))


def psnr(picture: Tensor, reference: Tensor, weight: Tensor | None = None) -> float:
    """dB for pictures in [0, 1]; `weight` (b 1 h w) restricts it to a region."""
    error = ((picture - reference) ** 2).mean(1, keepdim=True)
    mse = error.mean() if weight is None else (error * weight).sum() / weight.sum()
    return float(-10 * torch.log10(mse))


def grouped(rows: Sequence[tuple[Sequence[str], float]]) -> dict[str, float]:
    """Means of (names, value) rows by name."""
    groups: dict[str, list[float]] = {}
    for names, value in rows:
        for name in names:
            groups.setdefault(name, []).append(value)
    return {name: round(sum(values) / len(values), 4) for name, values in groups.items()}


def mask_figures(
    model: DiffusersDenoiser, cases: list[Case], config: MaskConfig | None = None
) -> dict[str, float]:
    """Mean IoU of the found mask, before it is grown, over all cases, by kind of background, and by pair."""
    config = config or MaskConfig(grow=0)
    rows = []
    for case in cases:
        settings = EditConfig(ref=case.ref, query=case.query, mask=config)
        x0 = model.encode(case.scene.pixels)
        heat = find_heat(model, case.scene.pixels, x0, Texts.embed(model, settings), settings, [case.seed])
        value = iou(binarise(heat, config) > 0.5, latent_mask(case.scene.mask) > 0.5)
        rows.append((("all", case.kind, f"{case.ref} to {case.query}"), value))
    return grouped(rows)


def vae_figures(model: DiffusersDenoiser, cases: list[Case]) -> dict[str, float]:
    """Mean PSNR in dB of encode + decode, over whole pictures and on the object, by kind of background."""
    rows = []
    for case in cases:
        pixels = case.scene.pixels
        decoded = model.decode(model.encode(pixels))
        rows.append(((case.kind,), psnr(decoded, pixels)))
        rows.append(((f"{case.kind}, object",), psnr(decoded, pixels, case.scene.mask)))
    return grouped(rows)


@torch.no_grad()
def held_out_loss(folder: Path, data: Path, rounds: int) -> float:
    """The UNet's training loss (train.unet_loss) on `rounds` scenes of each thing: the same scenes, captions
    and noise for all weights. It tells apart weights whose masks are alike.
    """
    model = load_text_to_image(read_unet(folder), folder)
    model.unet.to(memory_format=torch.channels_last)
    world, weights = load_world(data), debiased_weights(model.alphas_cumprod)
    names, rng, losses = [thing.word for thing in THINGS], np.random.default_rng(0), []
    for index in range(rounds):
        scenes = draw_scenes(world, len(names), HELD_OUT_SEED + 300_000 + index, things=names)
        latents = model.vae.encode(scenes.pixels * 2 - 1).latent_dist.mean * model.vae.config.scaling_factor
        words = torch.stack([scenes.thing, scenes.second, scenes.place, scenes.colour], 1).tolist()
        captions = [caption(rng, *row, drop=0.0) for row in words]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            loss, _ = unet_loss(model, latents, latent_mask(scenes.mask), captions, weights)
        losses.append(float(loss))
    return round(sum(losses) / rounds, 5)


def edit_sheet(models: list[DiffusersDenoiser], cases: list[Case], path: Path) -> None:
    """Two cases a row: the scene, then mask and edit by each model, taken as they come, not chosen."""
    tiles = []
    for case in cases:
        pixels = case.scene.pixels
        tiles.append(pixels[0])
        for model in models:
            config = filled_in(EditConfig(ref=case.ref, query=case.query), model.own_defaults)
            result = DiffEdit(model, pixels).edit(config, [case.seed])
            mask = F.interpolate(result.plan.area, pixels.shape[-2:], mode="nearest")
            tiles += [mask[0].expand(3, -1, -1), torch.lerp(pixels, result.pixels, mask)[0]]
    save_sheet(torch.stack(tiles), path, columns=2 * (1 + 2 * len(models)))


def evaluate(
    folder: Path, data: Path, count: int = 64, log: Path | None = None, samples: int = 0
) -> dict[str, Any]:
    """All figures of a model folder; appended as one JSON line to `log`, the curve over samples."""
    model = load_model(folder)
    cases = held_out_cases(data, count)
    figures: dict[str, Any] = {"folder": folder.name, "scenes": count, "samples": samples}
    figures["iou"] = mask_figures(model, cases)
    figures["vae_psnr"] = vae_figures(model, cases)
    figures["loss"] = held_out_loss(folder, data, max(1, count // 16))
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(json.dumps(figures) + "\n")
    return figures
