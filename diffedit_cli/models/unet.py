"""Stable Diffusion 1.x, 2.x and XL: a UNet that predicts eps or v, under the texts of CLIP."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core.schedules import append_dims, v_to_eps, vp_level
from ..core.types import Latents, PromptEmbeds, Schedule, Timesteps
from .denoiser import DiffusersDenoiser
from .parts import Parts
from .prepack import prepack

LEVELS = range(4)  # of a UNet whose config does not tell
LCM_SCALE = 8.5  # guidance that a full latent consistency model is told: the default of its pipeline


class UNetDenoiser(DiffusersDenoiser):
    """A checkpoint of Stable Diffusion 1.x, 2.x or XL."""

    schedule: Schedule

    def __init__(
        self, name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool = False
    ):
        super().__init__(name, parts, device, dtype, low_memory)
        self.is_xl, self.is_v_prediction = parts.is_xl, parts.predicts_v
        self.has_zero_empty_prompt = parts.has_zero_empty_prompt
        if device.type == "cpu" and not parts.is_borrowed:
            prepack(self.unet)

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        return 2 ** (len(config.get("block_out_channels", LEVELS)) - 1)

    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """What the text encoders make of each prompt.

        1.x and 2.x: the last hidden states, normalised. XL: the last but one of both encoders side by side,
        and the pooled output of the second; the empty prompt is all zeros if the checkpoint says so, as
        its unconditional side was in training.
        """
        with self._network():
            if not self.is_xl:
                return PromptEmbeds(self._encoded(0, prompts).last_hidden_state)
            first, second = (self._encoded(i, prompts, output_hidden_states=True) for i in range(2))
            tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
            pooled = second.text_embeds
            if self.has_zero_empty_prompt:
                spoken = tokens.new_tensor([prompt != "" for prompt in prompts])
                tokens, pooled = tokens * spoken[:, None, None], pooled * spoken[:, None]
            return PromptEmbeds(tokens, pooled)

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The UNet's prediction of the noise, whatever it was trained to predict.

        v is converted to eps at the level of the timestep that the UNet gets.
        """
        added = self._added(latents, embeds)
        out = self.unet(
            latents.to(self.dtype),
            timesteps,
            embeds.tokens,
            timestep_cond=self._told_scale(len(latents)),
            added_cond_kwargs=added,
        ).sample.float()
        if not self.is_v_prediction:
            return out
        abar = append_dims(self.schedule.alphas_cumprod.to(latents)[timesteps], latents)
        return v_to_eps(latents, out, vp_level(abar))

    def _told_scale(self, batch: int) -> torch.Tensor | None:
        """The guidance scale that the UNet of a full latent consistency model takes as an input, embedded."""
        width = self.unet.config.time_cond_proj_dim
        if not width:
            return None
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.full((batch,), 1000 * (LCM_SCALE - 1), device=self.device)
        return get_timestep_embedding(scale, width, downscale_freq_shift=1).to(self.dtype)

    def _added(self, latents: Latents, embeds: PromptEmbeds) -> dict[str, torch.Tensor] | None:
        """What XL gets besides the text: the pooled text, and height and width of the picture, the corner
        that it was cropped from, and height and width again (Podell et al. 2023, arXiv 2307.01952)."""
        if embeds.pooled is None:
            return None
        height, width = (self.factor * side for side in latents.shape[2:])
        time_ids = latents.new_tensor([[height, width, 0, 0, height, width]], dtype=self.dtype)
        return {"text_embeds": embeds.pooled, "time_ids": time_ids.expand(len(latents), -1)}
