"""Classifier-free guidance and its variants: small pure functions of two predictions.

u: the unconditional (or negative) prediction, t: the conditional one, d = t - u, g: guidance scale,
p = u + g d (Ho and Salimans 2022, arXiv 2207.12598). All are (b c h w). Every norm and deviation is taken
per picture over c, h, w in float32, so pictures in a batch do not touch each other. No function returns
NaN for finite input. docs/math.md has the formulas side by side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from ..settings import GuidanceConfig
from .schedules import from_x0, guidance_scales, inside_interval, to_x0
from .types import Denoiser, Heat, Latents, Level, PerSample, PromptEmbeds, Steps

AXES = (1, 2, 3)
TINY = 1e-6


def norm(x: Latents) -> PerSample:
    """Euclidean length of each picture's latents. No overflow in fp16."""
    x = x.float()
    peak = x.abs().amax(AXES, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return peak * torch.linalg.vector_norm(x / peak, dim=AXES, keepdim=True)


def ratio(top: Heat, bottom: Heat) -> Heat:
    """top / bottom, but 1 where top is 0 or bottom nearly 0: nothing to rescale to, or nothing to rescale."""
    usable = (top > 0) & (bottom > TINY * top)
    return torch.where(usable, top / torch.where(usable, bottom, 1), 1)


def cfg(u: Latents, t: Latents, g: float) -> Latents:
    """p = u + g (t - u), equation 6 of arXiv 2207.12598 with g = 1 + w."""
    return u + g * (t - u)


def cfg_pred(u: Latents, t: Latents, g: float) -> Latents:
    """p |u| / |p|: the whole prediction keeps the unconditional length (fast.ai lesson 11)."""
    p = cfg(u, t, g)
    return p * ratio(norm(u), norm(p))


def cfg_diff(u: Latents, t: Latents, g: float) -> Latents:
    """u + g d |u| / |d|: the update is g times as long as u (fast.ai lesson 11). u where |d| <= 1e-6 |u|."""
    d = t - u
    length_u, length_d = norm(u), norm(d)
    usable = length_d > TINY * length_u
    return u + g * d * torch.where(usable, length_u / torch.where(usable, length_d, 1), 0)


def cfg_both(u: Latents, t: Latents, g: float) -> Latents:
    """`cfg_diff`, then scaled to the length of u (fast.ai lesson 11)."""
    p = cfg_diff(u, t, g)
    return p * ratio(norm(u), norm(p))


def cfg_cond(u: Latents, t: Latents, g: float) -> Latents:
    """p |t| / |p|: the conditional length is kept (EP-CFG, arXiv 2412.09966)."""
    p = cfg(u, t, g)
    return p * ratio(norm(t), norm(p))


def cfg_token(u: Latents, t: Latents, g: float) -> Latents:
    """p |t| / |p| in each block of 2x2 cells, one token of a transformer: Qwen-Image's own."""
    p = cfg(u, t, g)
    return p * ratio(token_norm(t), token_norm(p))


def token_norm(x: Latents) -> Heat:
    """Length of the values of each block of 2x2 cells, up to a factor, at each of them; an odd border has
    smaller blocks."""
    x = x.float()
    peak = x.abs().amax(AXES, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    squares = F.avg_pool2d((x / peak).square().sum(1, keepdim=True), 2, ceil_mode=True)
    lengths = peak * squares.sqrt().repeat_interleave(2, 2).repeat_interleave(2, 3)
    return lengths[:, :, : x.shape[2], : x.shape[3]]


NORMS: dict[str, Callable[[Latents, Latents, float], Latents]] = {
    "auto": cfg,
    "none": cfg,
    "pred": cfg_pred,
    "diff": cfg_diff,
    "both": cfg_both,
    "cond": cfg_cond,
    "token": cfg_token,
}


def rescale(p: Latents, t: Latents, phi: float) -> Latents:
    """phi p std(t) / std(p) + (1 - phi) p (Lin et al. 2023, arXiv 2305.08891, equations 15 and 16)."""
    std_t, std_p = (
        norm(x.float() - x.float().mean(AXES, keepdim=True)) for x in (t, p)
    )  # both times sqrt(n)
    return p * (phi * ratio(std_t, std_p) + (1 - phi))


def apg(
    u: Latents,
    t: Latents,
    g: float,
    momentum: Latents | None = None,
    *,
    beta: float = -0.5,
    r: float = 15.0,
    eta: float = 0.0,
) -> tuple[Latents, Latents]:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416): (guided prediction, new momentum).

    The update, with `beta` times the earlier ones added, is cut to length r (0: not cut) and split into a
    part parallel to t, which oversaturates and is weighed by eta, and an orthogonal one. u and t are
    predictions of x0 here; r has no meaning in another space, nor at another size: see `apg_length`.
    """
    d = (t - u).float() if momentum is None else (t - u).float() + beta * momentum
    length_d = norm(d)
    cut = d * (r / length_d.clamp_min(r)) if r > 0 else d
    unit = t.float() / norm(t).clamp_min(torch.finfo(torch.float32).tiny)
    parallel = (cut * unit).sum(AXES, keepdim=True) * unit
    return t + (g - 1) * (cut - parallel + eta * parallel), d


def apg_length(latents: Latents) -> float:
    """r of `apg` for latents of this size: 15 for (4 64 64), as in Stable Diffusion at 512 pixels.

    A length grows with the root of the number of values, so r does too: sqrt(c h w / 16384) times 15.
    """
    return 15.0 * (latents[0].numel() / (4 * 64 * 64)) ** 0.5


def cfg_plus_plus_scale(strength: float, here: Level, after: Level) -> float:
    """CFG++ (Chung et al. 2024, arXiv 2406.08070) as the scale that makes plain CFG the same DDIM step.

    x0 is taken from u + strength * d and noised again with u. That equals CFG at strength * s / (s - s_next),
    where s = sigma / alpha, here without that division: alpha can be 0. A step between equal levels changes
    nothing at any scale: 1.
    """
    span = here.sigma * after.alpha - after.sigma * here.alpha
    return float(strength * here.sigma * after.alpha / span) if span else 1.0


def cosine(u: Latents, t: Latents) -> PerSample:
    """Cosine of the angle between two predictions; 1 where both are zero, 0 where one is."""
    length_u, length_t = norm(u), norm(t)
    usable = (length_u > 0) & (length_t > 0)
    unit_u, unit_t = (
        u.float() / torch.where(usable, length_u, 1),
        t.float() / torch.where(usable, length_t, 1),
    )
    dot = (unit_u * unit_t).sum(AXES, keepdim=True)
    return torch.where(usable, dot, ((length_u == 0) & (length_t == 0)).float())


@dataclass(frozen=True)
class GuidanceState:
    """What a run carries from step to step: the momentum of apg, the pictures that adaptive no longer guides,
    the difference t - u that was computed last, and how many steps were guided."""

    momentum: Latents | None = None
    settled: Bool[Tensor, "b 1 1 1"] | None = None
    difference: Latents | None = None
    guided: int = 0


def forwards_per_run(config: GuidanceConfig, count: int, reuse: int = 1) -> int:
    """The most forward passes per picture that a guided run of `count` steps can take: one per step, and
    another in every `reuse`-th of those whose scale is neither 1 nor an input of the network."""
    if config.method == "embedded":
        return count
    scales = guidance_scales(config.schedule, config.base_scale, config.end, count)
    inside = inside_interval(config.bounds(), count)
    has_own_scales = config.method == "cfg++"
    guided = sum(
        is_inside and (has_own_scales or scale != 1) for scale, is_inside in zip(scales, inside, strict=True)
    )
    return count + math.ceil(guided / reuse)


class Guidance:
    """The guidance of one run: its scale at each step, and how two predictions become one.

    A step at scale 1 returns the raw conditional prediction and costs one forward pass per picture, any other
    step two. With `reuse` n only every n-th of those does: the steps in between use the last difference t -
    u, which changes slowly (Lv et al. 2024, arXiv 2410.19355). `adaptive` (Castillo et al. 2023, arXiv
    2312.12487) continues with one forward pass once all pictures of the batch have cos(t, u) >= gamma; a
    picture that gets there earlier uses t alone from then on. `embedded` passes the scale of each step to the
    network, in one forward pass.
    """

    gamma = 0.99

    def __init__(self, config: GuidanceConfig, steps: Steps, reuse: int = 1) -> None:
        self.config = config
        self.steps = steps
        self.reuse = reuse
        if config.method == "cfg++":
            scales = [cfg_plus_plus_scale(config.base_scale, *pair) for pair in pairwise(steps.levels)]
        else:
            scales = guidance_scales(config.schedule, config.base_scale, config.end, len(steps))
        inside = inside_interval(config.bounds(), len(steps))
        self.scales = [scale if is_inside else 1.0 for scale, is_inside in zip(scales, inside, strict=True)]

    def predict(
        self,
        denoiser: Denoiser,
        latents: Latents,
        step: int,
        cond: PromptEmbeds,
        uncond: PromptEmbeds,
        state: GuidanceState = GuidanceState(),
        share: PerSample | None = None,
    ) -> tuple[Latents, GuidanceState]:
        """The guided prediction (b c h w) of one step, and the state for the next.

        share: how much of the guidance each picture gets, 0 (u) to 1.
        """
        batch = len(latents)
        timestep = self.steps.timesteps[step : step + 1].to(latents.device)
        settled = state.settled is not None and bool(state.settled.all())
        if self.config.method == "embedded":
            told = torch.full((batch,), self.scales[step], device=latents.device)
            if share is not None:
                told = torch.lerp(torch.ones_like(told), told, share.flatten().to(told))
            texts = replace(cond.expand(batch), guidance=told)
            return denoiser.predict(latents, timestep.expand(batch), texts), state
        if self.scales[step] == 1 or settled:
            return denoiser.predict(latents, timestep.expand(batch), cond.expand(batch)), state
        if state.difference is not None and state.guided % self.reuse:
            t = denoiser.predict(latents, timestep.expand(batch), cond.expand(batch))
            u, difference = t - state.difference, state.difference
        else:
            embeds = PromptEmbeds.cat([uncond.expand(batch), cond.expand(batch)])
            both = denoiser.predict(torch.cat([latents, latents]), timestep.expand(2 * batch), embeds)
            u, t = both.chunk(2)
            difference = t - u if self.reuse > 1 else None
        p, after = self.combine(u, t, latents, step, state)
        after = replace(after, difference=difference, guided=state.guided + 1)
        return (p if share is None else torch.lerp(u, p, share)), after

    def combine(
        self,
        u: Latents,
        t: Latents,
        latents: Latents,
        step: int,
        state: GuidanceState,
    ) -> tuple[Latents, GuidanceState]:
        """Combine two predictions (b c h w) by the configured method."""
        g, config = self.scales[step], self.config
        if config.method == "apg":
            where = self.steps.level(step), self.steps.target
            x0_u, x0_t = (to_x0(latents, predicted, *where) for predicted in (u, t))
            x0, momentum = apg(x0_u, x0_t, g, state.momentum, r=apg_length(latents))
            return from_x0(latents, x0, *where), GuidanceState(momentum=momentum)
        p = NORMS[config.norm](u, t, g)
        if config.rescale:
            p = rescale(p, t, config.rescale)
        if config.method == "adaptive":
            before = state.settled if state.settled is not None else torch.zeros_like(u[:, :1, :1, :1]).bool()
            return torch.where(before, t, p), GuidanceState(settled=before | (cosine(u, t) >= self.gamma))
        return p, state
