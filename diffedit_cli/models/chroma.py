"""Chroma (Lodestone Rock 2025), which FLUX.1 schnell was retrained to be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.types import Latents, PromptEmbeds, Timesteps
from .denoiser import DiffusersDenoiser, once
from .flux import by_length, places, read_packed, sides


class ChromaDenoiser(DiffusersDenoiser):
    """A checkpoint of Chroma: its transformer takes what FLUX's does, but only those tokens of a text that
    count.

    diffusers' pipeline adds 1 to the attention for the tokens that count where the network was trained
    without the others (diffusers issue 13619); here they are left out.
    """

    network_name = "transformer"
    can_mix_texts = False  # each has as many tokens as it has
    patch = 2

    @once
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """T5's last states of the text, and of the first padding token after it."""
        with self._network():
            own = self._tokens(0, prompts).attention_mask.to(self.device)
            states = self._encoded(0, prompts, attention_mask=own).last_hidden_state
            counts = torch.arange(own.shape[1], device=self.device) <= own.sum(1, keepdim=True)
            return PromptEmbeds(states * counts[..., None], counts=counts)

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The velocity."""
        return by_length(self._read, latents, timesteps, embeds)

    def _read(self, latents: Latents, timesteps: Timesteps, tokens: Tensor) -> Latents:
        txt_ids = torch.zeros(tokens.shape[1], 3, device=latents.device)
        img_ids = places(*sides(latents)).to(latents.device)
        return read_packed(self, latents, timesteps, tokens, txt_ids=txt_ids, img_ids=img_ids)
