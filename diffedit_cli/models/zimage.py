"""Z-Image and Z-Image-Turbo (Tongyi-MAI 2025, arXiv 2511.22699)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core.types import Latents, PromptEmbeds, Timesteps
from .denoiser import DiffusersDenoiser, once


class ZImageDenoiser(DiffusersDenoiser):
    """A checkpoint of Z-Image: its transformer reads latents and the states of a language model together."""

    network_name = "transformer"
    can_mix_texts = False  # each has as many tokens as it has
    patch = 2

    @classmethod
    def most_cells_of(cls, config: Mapping[str, Any]) -> int:
        return cls.patch * min(config.get("axes_lens", [1024, 512, 512])[1:])

    @once
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The last but one states of Qwen3, which gets the prompt as a chat message."""
        asked = [as_question(prompt) for prompt in prompts]
        with self._network():
            counts = self._tokens(0, asked).attention_mask.bool().to(self.device)
            states = self._encoded(0, asked, attention_mask=counts, output_hidden_states=True).hidden_states
            return PromptEmbeds(states[-2] * counts[..., None], counts=counts)

    def is_too_long(self, prompt: str) -> bool:
        return super().is_too_long(as_question(prompt))

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The velocity; the network counts time from noise to picture, and predicts x0 - eps."""
        assert embeds.counts is not None
        pictures = list(latents.to(self.dtype)[:, :, None])  # of one frame
        texts = [tokens[counts] for tokens, counts in zip(embeds.tokens, embeds.counts, strict=True)]
        out = self.unet(pictures, 1 - timesteps / 1000, texts).sample
        return -torch.stack(out)[:, :, 0].float()


def as_question(prompt: str) -> str:
    """The prompt in the form of Qwen3's chats."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
