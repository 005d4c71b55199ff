"""Denoisers of plain formulas, whose exact results are known."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffedit_cli.core.types import PromptEmbeds, Schedule

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]  # latents, abar (b 1 1 1), text (b 1 1 1) -> eps


def sd_alphas() -> Tensor:
    """abar of Stable Diffusion 1.x, from its definition."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def sd_schedule(spacing: str = "leading", steps_offset: int = 1, to_one: bool = False) -> Schedule:
    alphas = sd_alphas()
    return Schedule(alphas, 1.0 if to_one else float(alphas[0]), spacing, steps_offset)


class Oracle:
    """A Denoiser with an exact VAE (latents = 2 pixels - 1); its texts are numbers, the empty one is 0.

    asked: the timesteps of each forward.
    """

    def __init__(self, formula: Formula, schedule: Schedule | None = None) -> None:
        self.formula = formula
        self.schedule = schedule or sd_schedule()
        self.asked: list[list[int]] = []

    def encode(self, pixels: Tensor) -> Tensor:
        return 2 * pixels - 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2 + 0.5

    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        return text(*(float(prompt or 0) for prompt in prompts))

    def predict(self, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds) -> Tensor:
        self.asked.append(timesteps.tolist())
        alphas = self.schedule.alphas_cumprod[timesteps][:, None, None, None]
        return self.formula(latents, alphas, embeds.tokens[:, :1, :1, None].double()).to(latents)


def text(*values: float) -> PromptEmbeds:
    return PromptEmbeds(torch.tensor(values, dtype=torch.float32)[:, None, None])


def towards(x0: Tensor) -> Formula:
    """The exact eps where every picture is x0: a run from any noise must end there."""
    return lambda latents, alphas, _: (latents - alphas**0.5 * x0) / (1 - alphas) ** 0.5


def row(*values: float) -> Tensor:
    """One picture's latents (1 1 1 w), float64."""
    return torch.tensor(values, dtype=torch.float64)[None, None, None]
