"""Checkpoints: the only place that imports diffusers and transformers.

A checkpoint in diffusers' Stable Diffusion layout, from the package, a folder or the hub, becomes a
`DiffusersDenoiser`. Only safetensors are read, and no code of a checkpoint is ever run.
"""

import gc
import json
import os
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .errors import ModelError
from .schedules import append_dims
from .types import Latents, Pixels, PromptEmbeds, Schedule, Timesteps

EMBEDDED = Path(__file__).parent / "embedded"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


class DiffusersDenoiser:
    """A Stable Diffusion checkpoint as the core's Denoiser (see types.py).

    name: what the user called it. size: its native side in pixels. factor: pixels to a latent cell.
    multiple: what the sides of a picture must be multiples of. forwards, network_seconds: how many samples
    the UNet has seen, and how long all networks have run.
    """

    def __init__(
        self, name: str, folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None
    ):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.utils.logging import disable_progress_bar
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar as disable_transformers_bar

        disable_progress_bar()
        disable_transformers_bar()

        def load(kind: Any, part: str) -> Any:
            options = dict(use_safetensors=True, local_files_only=True, torch_dtype=dtype, variant=variant)
            network, info = kind.from_pretrained(folder / part, output_loading_info=True, **options)
            if info["missing_keys"]:  # transformers would fill them with random numbers
                raise ValueError(f"{part} lacks {len(info['missing_keys'])} of its tensors")
            return network.to(device).eval().requires_grad_(False)

        self.unet = load(UNet2DConditionModel, "unet")
        self.vae = load(AutoencoderKL, "vae")
        self.text_encoder = load(CLIPTextModel, "text_encoder")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        self.name, self.device, self.dtype = name, device, dtype
        self.schedule = Schedule(
            # zero terminal SNR ends at 0, where eps tells nothing of x0; 1e-6 is as good as pure noise
            alphas_cumprod=scheduler.alphas_cumprod.double().clamp_min(1e-6),
            final_alpha=float(scheduler.final_alpha_cumprod),
            spacing=scheduler.config.timestep_spacing,
            steps_offset=scheduler.config.steps_offset,
        )
        if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"{name} predicts {scheduler.config.prediction_type}, not the noise.",
                "Use a checkpoint with epsilon or v_prediction.",
            )
        self.is_v_prediction = scheduler.config.prediction_type == "v_prediction"
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.multiple = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.size = int(self.unet.config.sample_size) * self.factor
        self.latent_channels = int(self.unet.config.in_channels)
        self.words = known_words(folder)
        self.forwards = 0
        self.network_seconds = 0.0

    @contextmanager
    def _network(self) -> Generator[None, None, None]:
        start = time.perf_counter()
        with torch.inference_mode():
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.network_seconds += time.perf_counter() - start

    def encode(self, pixels: Pixels) -> Latents:
        """Pixels (b 3 H W) in [0, 1] as latents (b c H/factor W/factor): the mean of the VAE's posterior."""
        with self._network():
            posterior = self.vae.encode((2 * pixels - 1).to(self.device, self.dtype)).latent_dist
            return posterior.mode().float() * self.vae.config.scaling_factor

    def decode(self, latents: Latents) -> Pixels:
        """Latents as pixels in [0, 1]. Half precision that overflows is tried once more in float32."""
        latents = latents / self.vae.config.scaling_factor
        with self._network():
            pixels = self.vae.decode(latents.to(self.dtype)).sample.float()
            if self.dtype != torch.float32 and not bool(torch.isfinite(pixels).all()):
                pixels = self.vae.float().decode(latents.float()).sample
                self.vae.to(self.dtype)
            return (pixels / 2 + 0.5).clamp(0, 1)

    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The text encoder's last hidden states, (prompts, tokens, width)."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with self._network():
            return PromptEmbeds(self.text_encoder(tokens.to(self.device)).last_hidden_state)

    def predict_eps(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        """The UNet's prediction of the noise, float32, whatever it was trained to predict."""
        with self._network():
            out = self.unet(latents.to(self.dtype), timesteps, embeds.tokens).sample.float()
        self.forwards += len(latents)
        if not self.is_v_prediction:
            return out
        alpha = append_dims(self.schedule.alphas_cumprod.to(latents)[timesteps], latents)
        return alpha**0.5 * out + (1 - alpha) ** 0.5 * latents

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """The words of these prompts that the model was never shown, if it says what it was shown."""
        if self.words is None:
            return []
        known = {word for group in self.words.values() for word in group}
        spoken = dict.fromkeys(
            word for prompt in prompts for word in re.findall(r"[^\W\d_]+", prompt.lower())
        )
        return [word for word in spoken if word not in known]

    def is_too_long(self, prompt: str) -> bool:
        """Whether the end of a prompt lies beyond the text encoder's window and is not heard."""
        return len(self.tokenizer(prompt).input_ids) > self.tokenizer.model_max_length


def known_words(folder: Path) -> dict[str, list[str]] | None:
    """The vocabulary that a small model declares in diffedit.json: {group: words}. None: not declared."""
    card = folder / "diffedit.json"
    return json.loads(card.read_text("utf-8"))["words"] if card.is_file() else None


def load_model(
    name: str | os.PathLike[str] = "embedded",
    *,
    revision: str | None = None,
    variant: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
) -> DiffusersDenoiser:
    """Load a Stable Diffusion 1.x checkpoint in diffusers' layout.

    name: `embedded`, a folder, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.
    revision, variant: of a hub id, and of its weight files (fp16). device: auto, cpu, cuda or mps.
    dtype: auto (float16 on cuda, else float32), float32, float16 or bfloat16.
    offline: never ask the hub; a checkpoint that is in its cache is loaded without asking in any case.
    Raises ModelError with what to do.
    """
    folder = find_checkpoint(str(name), revision=revision, variant=variant, offline=offline)
    where = pick_device(device)
    try:
        check_layout(str(name), folder, variant)
        with without_garbage_collection():
            return DiffusersDenoiser(str(name), folder, where, pick_dtype(dtype, where), variant)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise ModelError(
            f"The checkpoint {name} cannot be loaded: {first_line(error)}",
            "A file may be missing, cut short or of another kind; fetch it again.",
        ) from error


@contextmanager
def without_garbage_collection() -> Generator[None, None, None]:
    """Imports and loading make a million objects that stay; each search for garbage walks all of them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(name.split(":")[0], False):
        raise ModelError(f"There is no device {name} here.", "Use --device cpu, or auto.")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in kinds:
        raise ModelError(f"There is no dtype {name}.", f"Use auto, {', '.join(kinds)}.")
    return kinds[name]


def find_checkpoint(name: str, *, revision: str | None, variant: str | None, offline: bool) -> Path:
    """The folder of a checkpoint; a hub id is looked for in the cache first, then fetched."""
    if name == "embedded":
        return EMBEDDED
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or name.endswith((".safetensors", ".ckpt", ".bin")):
        raise ModelError(
            f"{name} is not a folder in diffusers' layout.",
            "Give a folder with unet/, vae/, text_encoder/, tokenizer/ and scheduler/, or a hub id.",
        )
    if not re.fullmatch(r"\w+([.-]\w+)*/\w+([.-]\w+)*", name, re.ASCII) or len(name) > 96:
        raise ModelError(
            f"There is no model {name}.",
            "Give `embedded`, a folder that exists, or a hub id such as "
            "stable-diffusion-v1-5/stable-diffusion-v1-5.",
        )
    return _from_hub(name, revision, variant, offline)


def _from_hub(name: str, revision: str | None, variant: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    suffix = f".{variant}.safetensors" if variant else ".safetensors"
    weights = [f"{part}/{stem}{suffix}" for part, stem in WEIGHTS.items()]
    wanted = ["model_index.json", *(f"{part}/*.json" for part in PARTS), "tokenizer/*.txt", *weights]

    def fetch(local: bool) -> Path:
        path = snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=local)
        return Path(path)

    try:
        folder = fetch(local=True)
        if all((folder / file).exists() for file in weights):
            return folder
    except LocalEntryNotFoundError:
        pass
    if offline or os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "ON", "YES"):
        raise ModelError(f"{name} is not in the hub's cache.", "Run once without --offline to fetch it.")
    try:
        return fetch(local=False)
    except GatedRepoError as error:
        raise ModelError(
            f"{name} asks you to accept its licence first.",
            "Do so on its page, then log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{name} has no revision {revision}.", "Leave --revision out for the newest."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no {name}, or not for you.", "Check its spelling; some have been withdrawn."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name} could not be fetched: {first_line(error)}",
            "Check the network, or use `--model embedded` or a folder.",
        ) from error


def check_layout(name: str, folder: Path, variant: str | None = None) -> None:
    """Refuse, before anything is loaded, a folder that is not a Stable Diffusion 1.x of safetensors."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(
            f"{name} lacks {', '.join(missing)}.",
            "Give a folder in diffusers' Stable Diffusion layout.",
        )
    if (folder / "text_encoder_2").is_dir():
        raise ModelError(f"{name} is an SDXL checkpoint.", "Only Stable Diffusion 1.x is run so far.")
    for part, stem in WEIGHTS.items():
        stem = f"{stem}.{variant}" if variant else stem
        if not any((folder / part).glob(f"{stem}*.safetensors")):
            raise ModelError(
                f"{name} has no {part}/{stem}.safetensors.",
                "Weights in other formats can run code when they are opened and are not read: "
                "get the safetensors files.",
            )
    words = folder / "tokenizer"
    if not (words / "tokenizer.json").is_file() and not (words / "vocab.json").is_file():
        raise ModelError(f"{name} has no tokenizer/vocab.json.", "Fetch it again.")
    channels = json.loads((folder / "unet/config.json").read_text("utf-8")).get("in_channels", 4)
    if channels != 4:
        raise ModelError(
            f"{name} takes {channels} channels: it is made for inpainting or another task.",
            "Use the plain text-to-image checkpoint.",
        )


def cached_models() -> list[tuple[str, int]]:
    """Hub checkpoints in the local cache that have a UNet in safetensors: (id, bytes on disk)."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        (repo.repo_id, repo.size_on_disk)
        for repo in repos
        if any([*revision.snapshot_path.glob("unet/*.safetensors")] for revision in repo.revisions)
    )
