"""Shapes, and what passes between the layers.

Axis names: b pictures, c latent channels, h w latent rows and columns, H W pixel rows and columns,
n noise maps, s steps, l tokens, d width of the text embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from ..settings import Solver

Pixels = Float[Tensor, "b 3 H W"]  # sRGB in [0, 1]
Latents = Float[Tensor, "b c h w"]  # scaled as the network takes them: about unit variance
Heat = Float[Tensor, "b 1 h w"]  # always four axes: (b h w) against (b c h w) broadcasts silently when b == c
PerSample = Float[Tensor, "b 1 1 1"]
Timesteps = Num[Tensor, " b"]  # those of a flow lie between whole numbers
Cells = tuple[int, int]  # latent rows and columns

Target = Literal["eps", "flow"]  # what a network predicts: the noise, or the velocity eps - x0 of a flow

Report = Callable[[str, int, int], None]  # (stage, steps done, steps in all): called after every step


def silent(stage: str, done: int, total: int) -> None:
    """A Report that reports nothing."""


@dataclass(frozen=True)
class PromptEmbeds:
    """Texts as the network takes them; one row per prompt.

    pooled: the whole text as one vector, for a network that takes that too. guidance: the guidance scale, for
    a network that takes it as an input; 1, which means none, unless a Guidance says otherwise. counts: which
    tokens belong to the text, if the others, all zeros, are only padding; None: all of them.
    """

    tokens: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None
    guidance: Float[Tensor, " b"] | None = None
    counts: Bool[Tensor, "b l"] | None = None

    def expand(self, batch: int) -> "PromptEmbeds":
        """One prompt for `batch` pictures; the embeddings of `batch` prompts come back as they are."""
        return self._each(lambda x: x.expand(batch, *x.shape[1:]))

    def repeat(self, times: int) -> "PromptEmbeds":
        """All rows, then all rows again, `times` times."""
        return self._each(lambda x: torch.cat([x] * times))

    def row(self, row: int) -> "PromptEmbeds":
        """One prompt, as a batch of one."""
        return self.rows(row, row + 1)

    def rows(self, start: int, end: int) -> "PromptEmbeds":
        return self._each(lambda x: x[start:end])

    @staticmethod
    def cat(parts: "Sequence[PromptEmbeds]") -> "PromptEmbeds":
        tokens = torch.cat([part.tokens for part in parts])
        columns = zip(*((part.pooled, part.guidance, part.counts) for part in parts), strict=True)
        found = [[x for x in column if x is not None] for column in columns]
        return PromptEmbeds(tokens, *(torch.cat(column) if column else None for column in found))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PromptEmbeds":
        more = [None if x is None else change(x) for x in (self.pooled, self.guidance, self.counts)]
        return PromptEmbeds(change(self.tokens), *more)


@dataclass(frozen=True)
class Schedule:
    """The noise schedule that a checkpoint was trained with.

    alphas_cumprod: (T,) float64, falling, in (0, 1]; `abar` in formulas.
    final_alpha: abar of a finished picture, 1 or alphas_cumprod[0].
    spacing: how a run picks its few timesteps, as in diffusers: leading, trailing, linspace, or lcm.
    distilled_steps: with spacing lcm, the steps that the model was distilled on; a run takes some of them.
    """

    alphas_cumprod: Float[Tensor, " T"]
    final_alpha: float
    spacing: str = "leading"
    steps_offset: int = 0
    distilled_steps: int = 50

    @property
    def most_steps(self) -> int:
        """The most steps that a run can take."""
        return self.distilled_steps if self.spacing == "lcm" else len(self.alphas_cumprod)

    @property
    def target(self) -> Target:
        return "eps"


class FlowSchedule(ABC):
    """The noise levels of a flow, x = (1 - sigma) x0 + sigma eps, from pure noise to a picture.

    How the time t in [0, 1] is distributed depends on the model, and in some on the number of latent cells:
    their schedulers shift it. The network is evaluated at the timestep 1000 sigma.
    """

    most_steps = 1000
    target: Target = "flow"

    @abstractmethod
    def sigmas(self, count: int, cells: Cells) -> Float[Tensor, " s_plus_1"]:
        """The levels of a run of `count` steps, float64: falling, and 0 at the end."""

    @abstractmethod
    def sigma_at(self, time: float, cells: Cells) -> float:
        """The level at a time in (0, 1] before the shift."""


class Level(NamedTuple):
    """A noise level: latents there are alpha x0 + sigma eps. alpha, sigma: one number, or (b 1 1 1).

    alpha^2 + sigma^2 = 1 in Stable Diffusion (see schedules.vp_level), and alpha + sigma = 1 on a flow.
    """

    alpha: float | PerSample
    sigma: float | PerSample


@dataclass(frozen=True)
class Steps:
    """The steps of one run, noisiest first.

    timesteps: (s,), the timestep that the network gets at each step.
    alphas, sigmas: (s + 1,) float64, the noise levels. Step i leads from level i to level i + 1.
    solver: how a step down is taken (settings.Solver). target: what the network predicts.
    """

    timesteps: Num[Tensor, " s"]
    alphas: Float[Tensor, " s_plus_1"]
    sigmas: Float[Tensor, " s_plus_1"]
    solver: Solver = "ddim"
    target: Target = "eps"

    def __len__(self) -> int:
        return len(self.timesteps)

    def level(self, i: int) -> Level:
        return Level(float(self.alphas[i]), float(self.sigmas[i]))

    @property
    def levels(self) -> list[Level]:
        return [self.level(i) for i in range(len(self.alphas))]


@dataclass(frozen=True)
class Trajectory:
    """The source picture at each noise level of a run.

    latents: (s + 1, b, c, h, w); [0] is the noisiest and [-1] the clean x0, so that after step i the
    background comes from [i + 1]: the same noise level, and an exact end.
    """

    latents: Float[Tensor, "s_plus_1 b c h w"]


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model as the core sees it.

    predict: a prediction of the target of a run's steps (see Steps). A checkpoint that was trained on v is
    converted to eps.
    """

    @property
    def schedule(self) -> Schedule | FlowSchedule: ...

    def encode(self, pixels: Pixels) -> Latents: ...

    def decode(self, latents: Latents) -> Pixels: ...

    def embed(self, prompts: Sequence[str]) -> PromptEmbeds: ...

    def predict(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents: ...
