"""Qwen-Image (Qwen 2025, arXiv 2508.02324)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core.types import Latents, PromptEmbeds, Timesteps
from .denoiser import DiffusersDenoiser, once
from .flux import by_length, read_packed, sides

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
SYSTEM = 34  # tokens of the template before the prompt


class QwenImageDenoiser(DiffusersDenoiser):
    """A checkpoint of Qwen-Image: its transformer reads 2x2 cells of latents as one token, and the states of
    a language model. Its VAE is one of films: a picture has one frame.
    """

    network_name = "transformer"
    can_mix_texts = False  # each has as many tokens as it has
    patch = 2

    @classmethod
    def vae_shape_of(cls, config: Mapping[str, Any]) -> tuple[int, int]:
        return 2 ** len(config.get("temperal_downsample", [False, True, True])), int(config.get("z_dim", 16))

    @once
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The last states of Qwen2.5-VL, which is asked to describe the prompt; those of the instruction are
        left out."""
        asked = [TEMPLATE.format(prompt) for prompt in prompts]
        window = self.tokenizers[0].model_max_length - SYSTEM
        with self._network():
            counts = self._tokens(0, asked, padding="longest").attention_mask.bool().to(self.device)
            states = self._encoded(0, asked, padding="longest", attention_mask=counts).last_hidden_state
            states, counts = states[:, SYSTEM:], counts[:, SYSTEM:]
            room = window - counts.shape[1]
            tokens = pad(states * counts[..., None], (0, 0, 0, room))
            return PromptEmbeds(tokens, counts=pad(counts, (0, room)))

    def is_too_long(self, prompt: str) -> bool:
        return super().is_too_long(TEMPLATE.format(prompt))

    def _to_latents(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]

    def _to_pixels(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents[:, :, None]).sample[:, :, 0]

    def _scaled(self, latents: Latents) -> Latents:
        return (latents - self._of_channels("latents_mean")) / self._of_channels("latents_std")

    def _unscaled(self, latents: Latents) -> Latents:
        return latents * self._of_channels("latents_std") + self._of_channels("latents_mean")

    def _of_channels(self, key: str) -> Tensor:
        """A number for each channel of the VAE's latents."""
        return torch.tensor(self.vae.config[key], device=self.device)[:, None, None]

    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The velocity."""
        return by_length(self._read, latents, timesteps, embeds)

    def _read(self, latents: Latents, timesteps: Timesteps, tokens: Tensor) -> Latents:
        shapes = [[(1, *sides(latents))]] * len(latents)
        return read_packed(self, latents, timesteps, tokens, img_shapes=shapes)
