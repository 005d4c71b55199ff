"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from ..core.types import Latents, PromptEmbeds, Timesteps
from .denoiser import DiffusersDenoiser, once
from .parts import Parts

T5_TOKENS = 256  # that stand for T5 where a checkpoint comes without it, all zeros, as in its pipeline


class SD3Denoiser(DiffusersDenoiser):
    """A checkpoint of Stable Diffusion 3 or 3.5, whose transformer reads 2x2 cells of latents together."""

    network_name = "transformer"
    patch = 2

    def __init__(
        self, name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool = False
    ):
        super().__init__(name, parts, device, dtype, low_memory)
        if len(self.text_encoders) == 2:
            self._note(f"{name} comes without T5 (text_encoder_3), so it understands long texts less well.")

    @classmethod
    def most_cells_of(cls, config: Mapping[str, Any]) -> int:
        return cls.patch * config.get("pos_embed_max_size", 96)

    @once
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The last states but one of both CLIPs side by side, filled up with zeros to the width of T5, and
        behind them T5's; the pooled outputs of both CLIPs."""
        with self._network():
            clips = [self._encoded(i, prompts, output_hidden_states=True) for i in range(2)]
            short = torch.cat([one.hidden_states[-2] for one in clips], -1)
            pooled = torch.cat([one.text_embeds for one in clips], -1)
            width = self.unet.config.joint_attention_dim
            if len(self.text_encoders) == 3:
                long = self._encoded(2, prompts).last_hidden_state
            else:
                long = short.new_zeros(len(prompts), T5_TOKENS, width)
            return PromptEmbeds(torch.cat([pad(short, (0, width - short.shape[-1])), long], 1), pooled)

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The velocity."""
        return self.unet(
            hidden_states=latents.to(self.dtype),
            timestep=timesteps,
            encoder_hidden_states=embeds.tokens,
            pooled_projections=embeds.pooled,
        ).sample.float()
