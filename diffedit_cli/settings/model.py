"""Which checkpoint to use, and what runs it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import SettingError
from .fields import setting, validate

Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
Backend = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True)
class ModelConfig:
    """Which checkpoint, and what it runs on (see models.load_model)."""

    model: str = setting(
        "embedded",
        "embedded, a preset such as sd15 (see diffedit models list), a folder, a .safetensors or .gguf "
        "file, or a Hugging Face Hub id.",
        panel="Model",
        flags=("-m",),
    )
    revision: str | None = setting(None, "Branch, tag or commit of a Hub id.", panel="Model", expert=True)
    variant: str | None = setting(None, "Variant of the weight files, e.g. fp16.", panel="Model", expert=True)
    lora: tuple[str, ...] = setting(
        (), "LoRA file to apply to the model, as FILE[:SCALE]; repeat the flag for several.", panel="Model"
    )
    embedding: tuple[str, ...] = setting(
        (),
        "Textual inversion that teaches the model a word, as FILE[:WORD]; repeat the flag for several.",
        panel="Model",
        expert=True,
    )
    vae: str | None = setting(
        None,
        "VAE to use in place of the checkpoint's: a folder, a .safetensors file, or a Hub id.",
        panel="Model",
        expert=True,
    )
    text_encoder: tuple[str, ...] = setting(
        (),
        "Checkpoint (a name, folder or file) whose text encoders to use, and with a UNet or transformer "
        "alone its VAE and schedule too; or text encoders as files, with the flag repeated.",
        panel="Model",
        expert=True,
    )
    offline: bool = setting(False, "Never contact the Hub.", panel="Model")
    device: str = setting(
        "auto", "cpu, cuda, cuda:1, mps, or auto for the fastest device found.", panel="Model"
    )
    dtype: Dtype = setting(
        "auto",
        "Type of the weights. auto: float16 on cuda, bfloat16 for a large model on a CPU with instructions "
        "for it, float32 otherwise. int8: the UNet's weights and activations in 8 bits, with OpenVINO only.",
        panel="Model",
        expert=True,
    )
    backend: Backend = setting(
        "auto",
        "What runs the UNet and the VAE: torch, or openvino on a CPU. auto: openvino if diffedit models "
        "optimize has converted this model.",
        panel="Model",
    )
    low_memory: bool = setting(
        False,
        "Work in small pieces, which takes less memory but more time. Turned on automatically when memory "
        "is short.",
        panel="Model",
        expert=True,
    )
    compile: bool = setting(
        False,
        "Compile the network's blocks first, for many edits in one call. Needs a C++ compiler.",
        panel="Model",
        expert=True,
    )

    def __post_init__(self) -> None:
        for key in ("lora", "embedding", "text_encoder"):
            value = getattr(self, key)  # one file may be given as a plain string, and an empty one is none
            given = (value,) if isinstance(value, str) else value
            if isinstance(given, tuple):
                object.__setattr__(self, key, tuple(one for one in given if one != ""))
        validate(self)
        if (self.dtype, self.backend) == ("int8", "torch"):
            raise SettingError(
                "--dtype int8 cannot be used with --backend torch.",
                "Only OpenVINO computes in 8 bits; leave one of the two out.",
            )
        if self.compile and self.engine == "openvino":
            given = "--dtype int8" if self.dtype == "int8" else "--backend openvino"
            raise SettingError(
                f"--compile cannot be used with {given}.",
                "It compiles torch's networks; leave one of the two out.",
            )

    @property
    def engine(self) -> Backend:
        """What runs the networks; auto: openvino if the checkpoint is converted, otherwise torch."""
        return "openvino" if self.dtype == "int8" else self.backend


def public_name(model: str) -> str:
    """A model's name as it may be stored in a picture: only the last part of a path on this machine."""
    path = os.path.expanduser(model)
    return Path(path).resolve().name if os.path.exists(path) else model
