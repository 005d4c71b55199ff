"""A checkpoint as the core sees it: encode, decode, embed, and a prediction of eps."""

import functools
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.ddim import require_finite
from ..core.schedules import append_dims, v_to_eps, vp_level
from ..core.types import Latents, Pixels, PromptEmbeds, Timesteps
from .memory import SMALLEST_TILE, Offload, attempt, set_tiles, shortage, shrink_tiles
from .parts import Parts
from .prepack import prepack

ALL = 2**31  # samples at once: no limit
LCM_SCALE = 8.5  # guidance that a full latent consistency model is told: the default of its pipeline


class Counts(threading.local):
    """What the networks have done in one thread. A copy counts from nothing."""

    forwards = 0
    network_seconds = 0.0

    def __reduce__(self) -> tuple[type["Counts"], tuple[()]]:
        return Counts, ()


class DiffusersDenoiser:
    """A Stable Diffusion checkpoint (1.x, 2.x or XL) as the core's Denoiser (see types.py).

    name: what the user called it. size: its native side in pixels. factor: pixels to a latent cell.
    multiple: what the sides of a picture must be multiples of. forwards, network_seconds: how many samples
    the UNet has seen in this thread, and how long all networks have run in it. low_memory: only the network
    that runs is on the device, the UNet takes one sample at a time, and the VAE works in tiles. micro_batch:
    samples that the UNet takes at once at most; halved where memory runs out. notices: what the user should
    know about that.
    """

    def __init__(
        self, name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool = False
    ):
        self.name, self.device, self.dtype, self.low_memory = name, device, dtype, low_memory
        self.unet, self.vae, self.is_xl = parts.unet, parts.vae, parts.is_xl
        self.text_encoders = parts.text_encoders
        self.tokenizers, self.words, self.own_defaults = parts.tokenizers, parts.words, parts.own_defaults
        self.has_zero_empty_prompt, self.phrases = parts.has_zero_empty_prompt, parts.phrases
        overflows = self.is_xl and self.vae.config.force_upcast and dtype == torch.float16
        if not parts.is_borrowed:
            self.vae.to(torch.float32 if overflows else dtype)
        self.schedule, self.is_v_prediction = parts.schedule, parts.predicts_v
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.multiple = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.size = parts.cells * self.factor
        self.latent_channels = int(self.unet.config.in_channels)
        self.origin: dict[str, Any] = {}
        self._counts = Counts()
        self.notices: list[str] = []
        self.micro_batch = 1 if low_memory else ALL
        if low_memory:
            set_tiles(self.vae, max(SMALLEST_TILE, parts.cells // 2), self.factor)
        networks = [self.unet, self.vae, *self.text_encoders]
        self.offload = Offload(networks, device) if low_memory and device.type != "cpu" else None
        if self.offload is None:
            for network in networks:
                if attempt(functools.partial(network.to, device), device) is None:
                    raise shortage("the model's weights", device, low_memory)
        if device.type == "cpu" and not parts.is_borrowed:
            prepack(self.unet)

    @property
    def forwards(self) -> int:
        return self._counts.forwards

    @property
    def network_seconds(self) -> float:
        return self._counts.network_seconds

    def reset_counts(self) -> None:
        """Begin to count anew, in this thread."""
        self._counts.forwards, self._counts.network_seconds = 0, 0.0

    @contextmanager
    def _network(self) -> Generator[None, None, None]:
        start = time.perf_counter()
        with torch.inference_mode():
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._counts.network_seconds += time.perf_counter() - start

    def encode(self, pixels: Pixels) -> Latents:
        """Pixels (b 3 H W) in [0, 1] as latents (b c H/factor W/factor): the mean of the VAE's posterior.

        Half precision that overflows is tried once more in float32.
        """
        with self._network():
            cells = max(pixels.shape[2:]) // self.factor
            latents = self._vae(lambda x: self.vae.encode(x).latent_dist.mode(), 2 * pixels - 1, cells)
            return latents * self.vae.config.scaling_factor

    def decode(self, latents: Latents) -> Pixels:
        """Latents as pixels in [0, 1]. Half precision that overflows is tried once more in float32.

        NumericError: it overflows there too.
        """
        with self._network():
            latents = latents / self.vae.config.scaling_factor
            pixels = self._vae(lambda x: self.vae.decode(x).sample, latents, max(latents.shape[2:]))
            require_finite(pixels, "the decoded picture")
            return (pixels / 2 + 0.5).clamp(0, 1)

    def _vae(self, run: Callable[[Tensor], Tensor], x: Tensor, cells: int) -> Tensor:
        """One half of the VAE, float32 out; once more in float32 where half precision overflowed."""
        dtype = self.vae.dtype
        out = self._in_tiles(run, x.to(self.device, dtype), cells).float()
        if dtype != torch.float32 and not bool(torch.isfinite(out).all()):
            self.vae.float()
            out = self._in_tiles(run, x.to(self.device, torch.float32), cells)
            self.vae.to(dtype)
        return out

    def _in_tiles(self, run: Callable[[Tensor], Tensor], x: Tensor, cells: int) -> Tensor:
        """One half of the VAE on pictures of `cells` at most a side; in tiles where memory runs out."""
        self._claim(self.vae)
        while (out := attempt(lambda: run(x), self.device)) is None:
            if not shrink_tiles(self.vae, cells, self.factor):
                raise shortage("the VAE", self.device, self.low_memory)
            side = self.vae.tile_sample_min_size
            self._note(f"Memory ran out, so the VAE works in tiles of {side} pixels; seams may show.")
        return out

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

    def _encoded(self, which: int, prompts: Sequence[str], **options: bool) -> Any:
        tokenizer, encoder = self.tokenizers[which], self.text_encoders[which]
        tokens = tokenizer(
            [self._with_phrases(prompt) for prompt in prompts],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        self._claim(encoder)
        out = attempt(lambda: encoder(tokens.to(self.device), **options), self.device)
        if out is None:
            raise shortage("the text encoder", self.device, self.low_memory)
        return out

    def predict(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The UNet's prediction of the noise, float32, whatever it was trained to predict.

        v becomes eps at the level of the timestep that the UNet gets.
        """
        with self._network():
            out = self._in_parts(latents, timesteps, embeds)
        self._counts.forwards += len(latents)
        if not self.is_v_prediction:
            return out
        abar = append_dims(self.schedule.alphas_cumprod.to(latents)[timesteps], latents)
        return v_to_eps(latents, out, vp_level(abar))

    def _in_parts(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """What the UNet says, `micro_batch` samples at a time; half as many where memory runs out."""
        self._claim(self.unet)
        parts: list[Tensor] = []
        start = 0
        while start < len(latents):
            end = min(start + self.micro_batch, len(latents))
            some = latents[start:end], timesteps[start:end], embeds.rows(start, end)
            part = attempt(functools.partial(self._unet, *some), self.device)
            if part is not None:
                parts.append(part)
                start = end
            elif end - start == 1:
                raise shortage("one sample of the UNet", self.device, self.low_memory)
            else:
                self.micro_batch = (end - start) // 2
                self._note(f"Memory ran out, so the UNet takes {self.micro_batch} at a time: slower.")
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _unet(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        added = self._added(latents, embeds)
        return self.unet(
            latents.to(self.dtype),
            timesteps,
            embeds.tokens,
            timestep_cond=self._told_scale(len(latents)),
            added_cond_kwargs=added,
        ).sample.float()

    def _told_scale(self, batch: int) -> torch.Tensor | None:
        """The guidance scale that the UNet of a full latent consistency model takes as an input, embedded."""
        width = self.unet.config.time_cond_proj_dim
        if not width:
            return None
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.full((batch,), 1000 * (LCM_SCALE - 1), device=self.device)
        return get_timestep_embedding(scale, width, downscale_freq_shift=1).to(self.dtype)

    def _claim(self, network: Any) -> None:
        """Make room on the device for the network that runs next, if memory is short."""
        if self.offload is not None:
            self.offload.claim(network)

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _added(self, latents: Latents, embeds: PromptEmbeds) -> dict[str, torch.Tensor] | None:
        """What XL gets besides the text: the pooled text, and height and width of the picture, the corner
        that it was cropped from, and height and width again (Podell et al. 2023, arXiv 2307.01952)."""
        if embeds.pooled is None:
            return None
        height, width = (self.factor * side for side in latents.shape[2:])
        time_ids = latents.new_tensor([[height, width, 0, 0, height, width]], dtype=self.dtype)
        return {"text_embeds": embeds.pooled, "time_ids": time_ids.expand(len(latents), -1)}

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """The words of these prompts that the model was never shown, if it says what it was shown."""
        return [] if self.words is None else words_not_in(self.words, prompts, self.phrases)

    def is_too_long(self, prompt: str) -> bool:
        """Whether the end of a prompt lies beyond the text encoder's window and is ignored."""
        tokenizer = self.tokenizers[0]
        tokens = tokenizer(self._with_phrases(prompt), verbose=False).input_ids  # no remark on the length
        return len(tokens) > tokenizer.model_max_length

    def _with_phrases(self, prompt: str) -> str:
        """The prompt with the tokens of each textual inversion in place of its word, whatever its case.

        Of words that contain each other the longest counts. A word may stand in angle brackets.
        """
        phrases = {word.lower(): phrase for word, phrase in self.phrases.items()}
        if not phrases:
            return prompt
        words = "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))
        pattern = rf"<({words})>|(?<!\w)({words})(?!\w)"
        return re.sub(
            pattern, lambda match: phrases[(match[1] or match[2]).lower()], prompt, flags=re.IGNORECASE
        )


def words_not_in(
    words: Mapping[str, Sequence[str]], prompts: Sequence[str], taught: Iterable[str] = ()
) -> list[str]:
    """The words of prompts that a vocabulary {group: words} does not hold, and that were not `taught`."""
    named = [*(name for group in words.values() for name in group), *taught]
    known = {word for name in named for word in re.findall(r"[^\W\d_]+", name.lower())}
    spoken = dict.fromkeys(word for prompt in prompts for word in re.findall(r"[^\W\d_]+", prompt.lower()))
    return [word for word in spoken if word not in known]


def sibling_of(words: Mapping[str, Sequence[str]], prompt: str) -> str:
    """Something like the object that a prompt names; empty if it names none.

    words: a vocabulary {group: words} that lists objects that are alike next to each other.
    """
    objects = words.get("objects", [])
    named = [one for one in objects if re.search(rf"\b{re.escape(one)}\b", prompt.lower())]
    if not named or len(objects) < 2:
        return ""
    place = objects.index(max(named, key=len))
    return objects[place + 1] if place + 1 < len(objects) else objects[place - 1]
