"""The networks of a checkpoint, read from a folder in diffusers' layout. Nothing of the folder is run."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..settings import EditConfig, build
from .layout import Layout

CARD = "diffedit.json"
OWN = ("strength", "guidance_scale")  # what a model can declare defaults for


@dataclass(frozen=True)
class Parts:
    """What a checkpoint consists of; the networks are frozen, on the CPU, and in evaluation mode.

    vae: in float32. text_encoders, tokenizers: one each, or XL's two. scheduler: a DDIMScheduler with the
    checkpoint's config.
    has_zero_empty_prompt: the empty prompt stands for zeros. words: see `known_words`. own_defaults: see
    `read_defaults`. phrases: the tokens that a learned word stands for.
    """

    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    scheduler: Any
    has_zero_empty_prompt: bool = False
    words: dict[str, list[str]] | None = None
    own_defaults: dict[str, float] = field(default_factory=dict)
    phrases: dict[str, str] = field(default_factory=dict)

    @property
    def is_xl(self) -> bool:
        return len(self.text_encoders) == 2


def load_folder(layout: Layout, dtype: torch.dtype, variant: str | None) -> Parts:
    """Load every part of a checked folder, the weights as `dtype`. ModelError names the part that fails."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    silence()
    name, folder = layout.name, layout.folder
    encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}

    def load(kind: Any, part: str, dtype: torch.dtype = dtype) -> Any:
        options = dict(use_safetensors=True, local_files_only=True, torch_dtype=dtype, variant=variant)
        with reading(f"{name}/{part}"):
            network, info = kind.from_pretrained(folder / part, output_loading_info=True, **options)
        refuse_gaps(f"{name}/{part}", info["missing_keys"])  # they would be random numbers
        return network.eval().requires_grad_(False)

    def tokenizer(part: str) -> Any:
        with reading(f"{name}/{part}"):
            return CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)

    return Parts(
        unet=load(UNet2DConditionModel, "unet"),
        vae=load(AutoencoderKL, "vae", torch.float32),
        text_encoders=[load(encoders[part], part) for part in layout.text_encoders],
        tokenizers=[tokenizer(part) for part in layout.tokenizers],
        scheduler=load_scheduler(name, folder),
        has_zero_empty_prompt=layout.has_zero_empty_prompt,
        words=known_words(folder),
        own_defaults=read_defaults(folder),
    )


def load_scheduler(name: str, folder: Path) -> Any:
    """The folder's scheduler, whatever its kind, as a DDIMScheduler: the same betas, spacing and target."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    with reading(f"{name}/scheduler"):
        scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{name} predicts {scheduler.config.prediction_type}, not the noise.",
            "Use a checkpoint with epsilon or v_prediction.",
        )
    return scheduler


def known_words(folder: Path) -> dict[str, list[str]] | None:
    """The vocabulary that a small model declares in diffedit.json: {group: words}. None: not declared."""
    return read_card(folder).get("words")


def read_defaults(folder: Path) -> dict[str, float]:
    """The defaults that a model declares in diffedit.json for itself, {key of OWN: value}; checked."""
    declared = read_card(folder).get("defaults", {})
    with reading(str(folder / CARD)):
        if unknown := {*declared} - {*OWN}:
            raise ValueError(f"it has a default for {min(unknown)}, and can have one for {' and '.join(OWN)}")
        build(EditConfig, declared)
    return declared


def read_card(folder: Path) -> dict[str, Any]:
    """What a model says of itself in diffedit.json, its words and perhaps defaults; nothing without one."""
    card = folder / CARD
    if not card.is_file():
        return {}
    with reading(str(card)):
        declared = json.loads(card.read_text("utf-8"))
        return {"words": declared["words"], "defaults": declared.get("defaults", {})}


@contextmanager
def reading(what: str) -> Generator[None, None, None]:
    """Whatever another library raises over a spoilt file, as one sentence that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(
            f"{what} cannot be loaded: {first_sentence(error)}",
            "A file may be missing, cut short or of another kind; fetch it again.",
        ) from error


def refuse_gaps(what: str, missing: Any) -> None:
    if missing:
        raise ModelError(
            f"{what} cannot be loaded: {len(missing)} tensors are missing or misshapen, as {min(missing)}.",
            "The file is incomplete or of another architecture; fetch it again, or use another checkpoint.",
        )


def first_sentence(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.split(". ")[0].rstrip(".") + "."


def silence() -> None:
    """No progress bars and no remarks of other libraries: they would write over the command line's own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)  # an error is raised, too, and told by ours
