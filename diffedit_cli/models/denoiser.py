"""A checkpoint as the core sees it: encode, decode, embed, and a prediction."""

import functools
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..core.ddim import require_finite
from ..core.types import Latents, Pixels, PromptEmbeds, Timesteps
from ..errors import SettingError
from .compiled import OpenvinoVAE
from .memory import SMALLEST_TILE, Offload, attempt, set_tiles, shortage, smaller_tile, take_turns
from .parts import Parts

ALL = 2**31  # samples at once: no limit
HOOKS, HOOKED = "transformers.utils.output_capturing", "_output_capturing_hooks_installed"
Embed = TypeVar("Embed", bound=Callable[..., PromptEmbeds])


class Counts(threading.local):
    """What the networks have done in one thread. A copy starts from zero."""

    forwards = 0
    network_seconds = 0.0

    def __reduce__(self) -> tuple[type["Counts"], tuple[()]]:
        return Counts, ()


class DiffusersDenoiser(ABC):
    """A checkpoint as the core's Denoiser (see types.py): what all families have in common.

    unet: the network that predicts, a UNet or a transformer. name: the name that the user gave. size: its
    native side in pixels. factor: pixels to a latent cell. multiple: what the sides of a picture must be
    multiples of. forwards, network_seconds: how many samples `unet` has seen in this thread, and how long all
    networks have run in it. low_memory: only the network that runs is on the device, or in memory where they
    are on demand; `unet` takes one sample at a time, and the VAE works in tiles. micro_batch: samples that
    `unet` takes at once at most; halved where memory runs out. notices: what the user should know about that.
    watch: called after each forward with the latents, the timesteps and the prediction.
    """

    network_name = "UNet"
    can_mix_texts = True  # whether there is something between two texts
    patch: int  # what the sides of latents must be multiples of
    most_cells: int | None  # along a side; None: any number

    def __init__(
        self, name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool = False
    ):
        self.name, self.device, self.dtype, self.low_memory = name, device, dtype, low_memory
        self.unet, self.vae = parts.unet, parts.vae
        self.text_encoders = parts.text_encoders
        self.tokenizers, self.words, self.own_defaults = parts.tokenizers, parts.words, parts.own_defaults
        self.phrases = parts.phrases
        overflows = parts.is_xl and self.vae.config.force_upcast and dtype == torch.float16
        if not parts.is_borrowed:
            self.vae.to(torch.float32 if overflows else dtype)
        self.schedule = parts.schedule
        self.factor, self.latent_channels = self.vae_shape_of(self.vae.config)
        self.multiple = self.factor * self.patch_of(self.unet.config)
        self.most_cells = self.most_cells_of(self.unet.config)
        self.size = parts.cells * self.factor
        self.origin: dict[str, Any] = {}
        self._counts = Counts()
        self._latest: tuple[list[str], PromptEmbeds] | None = None
        self.notices: list[str] = []
        self.watch: Callable[[Latents, Timesteps, Latents], None] | None = None
        self.micro_batch = 1 if low_memory else ALL
        if low_memory:
            self._set_tiles(max(SMALLEST_TILE, parts.cells // 2))
        networks = [self.unet, self.vae, *self.text_encoders]
        self.offload = Offload(networks, device) if low_memory and device.type != "cpu" else None
        if self.offload is None:
            for network in networks:
                if attempt(functools.partial(network.to, device), device) is None:
                    raise shortage("the model's weights", device, low_memory)

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        """`patch` for a network of this config."""
        return cls.patch

    @classmethod
    def most_cells_of(cls, config: Mapping[str, Any]) -> int | None:
        """`most_cells` for a network of this config."""
        return None

    @classmethod
    def vae_shape_of(cls, config: Mapping[str, Any]) -> tuple[int, int]:
        """Pixels to a latent cell, and the channels of the latents, with a VAE of this config."""
        return 2 ** (len(config.get("block_out_channels", [0])) - 1), int(config.get("latent_channels", 4))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles."""
        for encoder in self.text_encoders:
            forget_hooks(encoder)
        return self.__dict__.copy()

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """What the text encoders make of each prompt."""

    @abstractmethod
    def _forward(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """One forward of the network: its prediction, float32."""

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

        Half precision that overflows is tried once more in float32. SettingError: see `check_size`.
        """
        cells = max(pixels.shape[2:]) // self.factor
        self.check_size(cells)
        with self._network():
            latents = self._vae(self._to_latents, 2 * pixels - 1, cells)
            return self._scaled(latents)

    def decode(self, latents: Latents) -> Pixels:
        """Latents as pixels in [0, 1]. Half precision that overflows is tried once more in float32.

        NumericError: it overflows there too.
        """
        with self._network():
            latents = self._unscaled(latents)
            pixels = self._vae(self._to_pixels, latents, max(latents.shape[2:]))
            require_finite(pixels, "the decoded picture")
            return (pixels / 2 + 0.5).clamp(0, 1)

    def check_size(self, cells: int) -> None:
        """SettingError: a side has more latent cells than the network supports."""
        require_cells(self.name, cells, self.most_cells, self.factor)

    def _to_latents(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent_dist.mode()

    def _to_pixels(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample

    def _scaled(self, latents: Latents) -> Latents:
        """The VAE's latents as the network takes them."""
        return (latents - self._shift) * self.vae.config.scaling_factor

    def _unscaled(self, latents: Latents) -> Latents:
        """The inverse of `_scaled`."""
        return latents / self.vae.config.scaling_factor + self._shift

    @property
    def _shift(self) -> float:
        """What the latents of a VAE are off zero; nothing in Stable Diffusion up to XL."""
        return getattr(self.vae.config, "shift_factor", None) or 0.0

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
            tile = smaller_tile(self.vae, cells)
            if tile is None:
                raise shortage("the VAE", self.device, self.low_memory)
            self._set_tiles(tile)
            side = tile * self.factor
            self._note(f"Memory ran out, so the VAE works in tiles of {side} pixels; seams may show.")
        return out

    def _set_tiles(self, cells: int) -> None:
        """Make the VAE work in tiles of this many cells a side; OpenVINO's has none of its own."""
        if isinstance(self.vae, OpenvinoVAE):
            self.vae = self.vae.as_diffusers()
        set_tiles(self.vae, cells, self.factor)

    def _tokens(self, which: int, prompts: Sequence[str], padding: str = "max_length") -> Any:
        """The tokens of each prompt, truncated to the tokenizer's window or padded, and which of them count.

        padding: to the window (max_length) or to the longest.
        """
        tokenizer = self.tokenizers[which]
        return tokenizer(
            [self._with_phrases(prompt) for prompt in prompts],
            padding=padding,
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )

    def _encoded(
        self, which: int, prompts: Sequence[str], *, padding: str = "max_length", **options: Any
    ) -> Any:
        tokens, encoder = self._tokens(which, prompts, padding).input_ids, self.text_encoders[which]
        self._claim(encoder)
        out = attempt(lambda: encoder(tokens.to(self.device), **options), self.device)
        if out is None:
            raise shortage("the text encoder", self.device, self.low_memory)
        return out

    def predict(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The prediction of a run's target (see types.Denoiser), float32. SettingError: see `check_size`."""
        self.check_size(max(latents.shape[2:]))
        with self._network():
            out = self._in_parts(latents, timesteps, embeds)
        self._counts.forwards += len(latents)
        if self.watch is not None:
            self.watch(latents, timesteps, out)
        return out

    def _in_parts(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """What the network says, `micro_batch` samples at a time; half as many where memory runs out."""
        self._claim(self.unet)
        parts: list[Tensor] = []
        start = 0
        while start < len(latents):
            end = min(start + self.micro_batch, len(latents))
            some = latents[start:end], timesteps[start:end], embeds.rows(start, end)
            part = attempt(functools.partial(self._forward, *some), self.device)
            if part is not None:
                parts.append(part)
                start = end
            elif end - start == 1:
                raise shortage(f"one sample of the {self.network_name}", self.device, self.low_memory)
            else:
                self.micro_batch = (end - start) // 2
                told = f"the {self.network_name} takes {self.micro_batch} at a time, which is slower."
                self._note(f"Memory ran out, so {told}")
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _claim(self, network: Any) -> None:
        """Free memory on the device for the network that runs next, if memory is short."""
        if self.offload is not None:
            self.offload.claim(network)
        if network is not self.vae:  # which is small
            take_turns([self.unet, *self.text_encoders], network)

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """The words of these prompts that the model does not know, if it lists the words that it knows."""
        return [] if self.words is None else words_not_in(self.words, prompts, self.phrases)

    def is_too_long(self, prompt: str) -> bool:
        """Whether the end of a prompt lies beyond the text encoder's window and is ignored."""
        tokenizer = self.tokenizers[-1]  # T5 reads further than CLIP
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


def forget_hooks(encoder: Any) -> None:
    """Take out what transformers adds to a text encoder when its hidden states are first asked for: it cannot
    be pickled, and is added again."""
    for module in encoder.modules():
        if getattr(module, HOOKED, False):
            setattr(module, HOOKED, False)
        own = [key for key, hook in module._forward_hooks.items() if hook.__module__ == HOOKS]
        for key in own:
            del module._forward_hooks[key]


def require_cells(name: str, cells: int, most: int | None, factor: int) -> None:
    """SettingError for more latent cells along a side than a network supports; most: None for any number."""
    if most is not None and cells > most:
        raise SettingError(f"{name} draws at most {most * factor} pixels a side.", "Give a smaller --size.")


def once(embed: Embed) -> Embed:
    """An `embed` that remembers its last result: the parts of a run embed the same texts, and large text
    encoders take seconds, or have to be read again."""

    @functools.wraps(embed)
    def known(model: Any, prompts: Sequence[str]) -> PromptEmbeds:
        latest = model._latest
        if latest is None or latest[0] != [*prompts]:
            model._latest = latest = [*prompts], embed(model, prompts)
        return latest[1]

    return cast(Embed, known)


def words_not_in(
    words: Mapping[str, Sequence[str]], prompts: Sequence[str], taught: Iterable[str] = ()
) -> list[str]:
    """The words of prompts that a vocabulary {group: words} does not hold, and that were not `taught`."""
    named = [*(name for group in words.values() for name in group), *taught]
    known = {word for name in named for word in re.findall(r"[^\W\d_]+", name.lower())}
    spoken = dict.fromkeys(word for prompt in prompts for word in re.findall(r"[^\W\d_]+", prompt.lower()))
    return [word for word in spoken if word not in known]


def sibling_of(words: Mapping[str, Sequence[str]], prompt: str) -> str:
    """An object similar to the one that a prompt names; empty if it names none.

    words: a vocabulary {group: words} that lists similar objects next to each other.
    """
    objects = words.get("objects", [])
    named = [one for one in objects if re.search(rf"\b{re.escape(one)}\b", prompt.lower())]
    if not named or len(objects) < 2:
        return ""
    place = objects.index(max(named, key=len))
    return objects[place + 1] if place + 1 < len(objects) else objects[place - 1]
