"""What fills a hole in a picture: a smooth surface to start from, and the text that fits the rest best."""

import torch
from jaxtyping import Float
from torch import Tensor

from .detail import membrane
from .schedules import add_noise, draw_noise, levels_at, to_eps
from .types import Denoiser, Heat, Latents, Pixels, PromptEmbeds, Report

Hole = Float[Tensor, "b 1 H W"]
LEVELS = (0.5, 0.7)  # noise levels, as shares of the time, at which texts are compared


def bridge(pixels: Pixels, hole: Hole) -> Pixels:
    """The pictures, with the hole (where it is not 0) filled by a membrane from its edge."""
    return membrane(pixels, (hole == 0).to(pixels))


def seamless(drawn: Pixels, around: Pixels, hole: Hole) -> Pixels:
    """Drawn pictures placed into others: their difference at the edge of the hole is continued smoothly into
    it.

    Perez et al. 2003, "Poisson image editing", equation 2 with the drawn picture as the guide.
    """
    return (drawn + membrane(around - drawn, (hole == 0).to(drawn))).clamp(0, 1)


def likeliest(
    denoiser: Denoiser, x0: Latents, texts: PromptEmbeds, where: Heat, seeds: list[int], report: Report
) -> int:
    """Which row of `texts` best predicts, in `where` (0 or 1), the noise that was added to one picture x0.

    That is the text that most likely describes the picture there (Li et al. 2023, arXiv 2303.16203). Each of
    LEVELS costs as many forward passes as there are texts.
    """
    count = len(texts.tokens)
    errors = torch.zeros(count)
    for done, share in enumerate(LEVELS):
        report("place", done, len(LEVELS))
        noise = draw_noise((x0.shape[1], x0.shape[2], x0.shape[3]), seeds, 1 + done).to(x0)
        timesteps, level = levels_at(denoiser.schedule, [share], noise)
        noised = add_noise(x0, noise, level).repeat(count, 1, 1, 1)
        predicted = denoiser.predict(noised, timesteps.repeat(count), texts)
        eps = to_eps(noised, predicted, level, denoiser.schedule.target)
        errors += (((eps - noise) ** 2).mean(1, keepdim=True) * where).sum((1, 2, 3)).cpu()
    report("place", len(LEVELS), len(LEVELS))
    return int(errors.argmin())
