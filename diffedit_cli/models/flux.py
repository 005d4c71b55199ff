"""FLUX.1 dev and schnell (Black Forest Labs 2024)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.types import Latents, PromptEmbeds, Timesteps
from .denoiser import DiffusersDenoiser, once

Packed = Float[Tensor, "b tokens d"]  # d is 4 c


class FluxDenoiser(DiffusersDenoiser):
    """A checkpoint of FLUX.1: the transformer reads 2x2 latent cells as one token with a position.

    That of dev takes the guidance scale as an input (see PromptEmbeds.guidance).
    """

    network_name = "transformer"
    patch = 2

    @once
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """T5's last states, and CLIP's pooled output."""
        with self._network():
            pooled = self._encoded(0, prompts).pooler_output
            tokens = self._encoded(1, prompts).last_hidden_state
            is_told = self.unet.config.guidance_embeds
            return PromptEmbeds(
                tokens, pooled, torch.ones(len(prompts), device=self.device) if is_told else None
            )

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The velocity."""
        return read_packed(
            self,
            latents,
            timesteps,
            embeds.tokens,
            guidance=embeds.guidance,
            pooled_projections=embeds.pooled,
            txt_ids=torch.zeros(embeds.tokens.shape[1], 3, device=latents.device),
            img_ids=places(*sides(latents)).to(latents.device),
        )


def read_packed(
    model: DiffusersDenoiser, latents: Latents, timesteps: Timesteps, tokens: Tensor, **more: Any
) -> Latents:
    """The velocity by a transformer that reads 2x2 cells as one token."""
    packed = pack(latents).to(model.dtype)
    out = model.unet(
        hidden_states=packed, timestep=timesteps / 1000, encoder_hidden_states=tokens, **more
    ).sample.float()
    return unpack(out, *sides(latents))


def sides(latents: Latents) -> tuple[int, int]:
    """Rows and columns of tokens."""
    return latents.shape[2] // 2, latents.shape[3] // 2


def by_length(
    read: Callable[[Latents, Timesteps, Tensor], Latents],
    latents: Latents,
    timesteps: Timesteps,
    embeds: PromptEmbeds,
) -> Latents:
    """The predictions of a network that reads only the tokens that count: rows whose texts have the same
    length run together."""
    assert embeds.counts is not None
    lengths = embeds.counts.sum(1)
    out = torch.empty_like(latents, dtype=torch.float32)
    for length in lengths.unique().tolist():
        rows = lengths == length
        out[rows] = read(latents[rows], timesteps[rows], embeds.tokens[rows, :length])
    return out


def pack(latents: Latents) -> Packed:
    """Each 2x2 cells as one token, row by row; its values are ordered by channel, row and column."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Packed, rows: int, columns: int) -> Latents:
    """The inverse of `pack`, for this many rows and columns of tokens."""
    return torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def places(rows: int, columns: int) -> Float[Tensor, "hw 3"]:
    """The position of each token: 0, its row and its column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).flatten(0, 1).float()
