"""FLUX.2 klein, distilled and base (Black Forest Labs 2026)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..core.types import Latents, PromptEmbeds, Timesteps
from .denoiser import DiffusersDenoiser, once
from .flux import read_packed, sides
from .parts import STACKED, Parts
from .zimage import as_question

WITHOUT_THINKING = "<think>\n\n</think>\n\n"


class Flux2Denoiser(DiffusersDenoiser):
    """A checkpoint of FLUX.2 klein: the transformer reads 2x2 latent cells as one token with a position, and
    states of several layers of Qwen3. Its VAE's latents have a mean and a deviation for each value of 2x2
    cells.
    """

    network_name = "transformer"
    patch = 2

    def __init__(
        self, name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool = False
    ):
        own = parts.vae.bn  # as it comes: super rounds it to dtype
        self._mean = own.running_mean.float()[:, None, None].to(device)
        self._std = (own.running_var.float() + own.eps).sqrt()[:, None, None].to(device)
        super().__init__(name, parts, device, dtype, low_memory)

    @once
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """States of three layers of Qwen3, concatenated; it gets the prompt as a chat message."""
        asked = [as_question(prompt) + WITHOUT_THINKING for prompt in prompts]
        with self._network():
            counts = self._tokens(0, asked).attention_mask.bool().to(self.device)
            states = self._encoded(0, asked, attention_mask=counts, output_hidden_states=True).hidden_states
            return PromptEmbeds(torch.cat([states[layer] for layer in STACKED], -1))

    def is_too_long(self, prompt: str) -> bool:
        return super().is_too_long(as_question(prompt) + WITHOUT_THINKING)

    def _scaled(self, latents: Latents) -> Latents:
        return pixel_shuffle((pixel_unshuffle(latents, 2) - self._mean) / self._std, 2)

    def _unscaled(self, latents: Latents) -> Latents:
        return pixel_shuffle(pixel_unshuffle(latents, 2) * self._std + self._mean, 2)

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The velocity."""
        return read_packed(
            self,
            latents,
            timesteps,
            embeds.tokens,
            txt_ids=places(1, 1, embeds.tokens.shape[1]).to(latents.device),
            img_ids=places(*sides(latents), 1).to(latents.device),
        )


def places(rows: int, columns: int, words: int) -> Float[Tensor, "tokens 4"]:
    """The position of each token: 0, its row, its column, and its number in the text."""
    sides = (torch.arange(side) for side in (1, rows, columns, words))
    return torch.cartesian_prod(*sides).float()
