"""What is added to a checkpoint: LoRAs, which change its weights, and textual inversions, which are new
words."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, SettingError, is_shortage
from .memory import IS_WEIGHTLESS
from .parts import Parts
from .weights import FLOATS, FP8, check_weights, plain, read_weights, weightless

RELATIVES = {  # by what only their tensors are called
    r"\.hada_": "LoHa", r"\.lokr_": "LoKr", r"\.dora_scale": "DoRA", r"\.lora_mid": "LoCon with a core",
    r"\.oft_": "OFT", r"\.on_input": "(IA)3", r"\.[wb]_norm$": "LyCORIS file that changes norm layers",
    r"\.diff(_b)?$": "file of whole differences", r"^bundle_emb\.": "LoRA bundled with textual inversions",
}  # fmt: skip
LORA_MIXINS = {
    "sd": "StableDiffusionLoraLoaderMixin",
    "sdxl": "StableDiffusionXLLoraLoaderMixin",
    "sd3": "SD3LoraLoaderMixin",
    "flux": "FluxLoraLoaderMixin",
    "chroma": "FluxLoraLoaderMixin",  # as in its pipeline
    "flux2": "Flux2LoraLoaderMixin",
    "qwenimage": "QwenImageLoraLoaderMixin",
    "zimage": "ZImageLoraLoaderMixin",
}
OTHER_KIND = "It is made for another kind of checkpoint."


def add_all(parts: Parts, loras: Sequence[str], embeddings: Sequence[str]) -> Parts:
    """The checkpoint with every `file[:scale]` and every `file[:word]` added to it, in order."""
    for given in loras:
        add_lora(parts, path_of(given), lora_scale(given, split(given)[1]))
    for given in embeddings:
        parts = add_embedding(parts, path_of(given), split(given)[1])
    return parts


def check_files(loras: Sequence[str], embeddings: Sequence[str]) -> None:
    """ModelError or SettingError for a file or a scale that cannot be used."""
    for given in loras:
        lora_scale(given, split(given)[1])
    for given in (*loras, *embeddings):
        check_weights(path_of(given))


def split(given: str) -> tuple[str, str]:
    """A file's name and what follows it after a colon: ("a.safetensors", "0.8")."""
    match = re.fullmatch(r"(.+\.safetensors)(?::(.*))?", given)
    return (match[1], match[2] or "") if match else (given, "")


def path_of(given: str) -> Path:
    return Path(os.path.expanduser(split(given)[0]))


def lora_scale(given: str, scale: str) -> float:
    try:
        value = float(scale or 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SettingError(f"--lora {given} has no number after its colon.", "Give file.safetensors:0.8.")
    return value


def add_lora(parts: Parts, path: Path, scale: float) -> None:
    """Add scale * (alpha / rank) * up @ down to the weights in place (Hu et al. 2021, arXiv 2106.09685).

    Files of diffusers, peft, kohya and A1111 are read. The weights are changed once, so a run costs no more.
    ModelError if a layer of the file has no place in the checkpoint: the file is for another kind.
    """
    mixin, from_peft = lora_tools(parts)
    state = read_lora(path)
    try:
        state, alphas = as_diffusers(mixin, parts, state)  # which may look at values
        if IS_WEIGHTLESS.get():
            state = plain(weightless(state), torch.float32)
        parts.unet.load_lora_adapter(
            state, network_alphas=alphas, prefix="transformer" if parts.family else "unet"
        )
        clips = [one for one in parts.text_encoders if one.config.model_type.startswith("clip")]
        for prefix, encoder in zip(("text_encoder", "text_encoder_2"), clips, strict=False):
            mixin.load_lora_into_text_encoder(
                state, network_alphas=alphas, text_encoder=encoder, prefix=prefix
            )
    except Exception as error:
        if is_shortage(error):
            raise
        raise ModelError(f"{path} does not fit this checkpoint.", OTHER_KIND) from error
    layers = sum(key.endswith((".lora_A.weight", ".lora.down.weight", ".down.weight")) for key in state)
    fused = sum(fuse(network, scale, from_peft) for network in (parts.unet, *parts.text_encoders))
    if not layers:
        raise ModelError(f"{path} changes no layer that this checkpoint has.", OTHER_KIND)
    if fused < layers:
        raise ModelError(f"{path} fits {fused} of {layers} layers of this checkpoint.", OTHER_KIND)


def as_diffusers(
    mixin: Any, parts: Parts, state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a LoRA under diffusers' names, and the alphas that they do not contain yet."""
    if parts.family is None:
        return mixin.lora_state_dict(with_alphas(state), unet_config=parts.unet.config)
    if parts.family.key in ("flux", "chroma"):
        return mixin.lora_state_dict(state, return_alphas=True)
    return mixin.lora_state_dict(with_alphas(state, "lora_B", "lora_A")), None


def read_lora(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file. ModelError for its relatives, which diffusers would read in part."""
    state = read_weights(path)
    for mark, kind in RELATIVES.items():
        if any(re.search(mark, name) for name in state):
            raise ModelError(
                f"{path} is a {kind}, which is not supported.",
                "Give a plain LoRA: a file of lora_down and lora_up, or lora_A and lora_B.",
            )
    for name, values in state.items():
        if values.numel() == 0 or (values.dim() == 0 and not name.endswith(".alpha")):
            raise ModelError(f"{path} is invalid: {name} is not a matrix.", "Fetch it again.")
        if values.dim() and values.dtype not in FLOATS - FP8:
            raise ModelError(
                f"{path} is in {str(values.dtype).removeprefix('torch.')}, in which LoRAs are not supported.",
                "Fetch it in float32, float16 or bfloat16.",
            )
        check_finite(path, name, values)
    return state


def check_finite(path: Path, name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values.float()).all()):
        raise ModelError(f"{path} is invalid: {name} holds NaN or infinity.", "Fetch it again.")


def with_alphas(
    state: dict[str, Tensor], second: str = "lora_up", first: str = "lora_down"
) -> dict[str, Tensor]:
    """A file without its alphas: each `up` becomes alpha / rank times as large. second, first: the matrices.

    diffusers hands the alphas to peft under names that peft does not find where they differ between layers,
    and those of some families' files not at all.
    """
    scaled = {name: values for name, values in state.items() if not name.endswith(".alpha")}
    for name in state.keys() - scaled.keys():
        stem = name.removesuffix(".alpha")
        up, down = f"{stem}.{second}.weight", f"{stem}.{first}.weight"
        if up not in state or down not in state:
            return state
        scaled[up] = state[up] * (state[name].float() / len(state[down])).to(state[up])
    return scaled


def lora_tools(parts: Parts) -> tuple[Any, Any]:
    """diffusers' reader of LoRA files for this kind of checkpoint, and peft's class of adapted layers."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ModuleNotFoundError as error:
        raise ModelError(
            "A LoRA needs the package peft, which is not installed.", "Run: pip install 'diffedit-cli[lora]'."
        ) from error
    from diffusers.loaders import lora_pipeline

    kind = parts.family.key if parts.family else "sdxl" if parts.is_xl else "sd"
    return getattr(lora_pipeline, LORA_MIXINS[kind]), BaseTunerLayer


def fuse(network: Any, scale: float, adapted: Any) -> int:
    """Add the adapters to the weights and take them off; how many layers had one."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    layers = [module for module in network.modules() if isinstance(module, adapted)]
    for layer in layers:
        layer.scale_layer(scale)
        layer.merge()
    recurse_remove_peft_layers(network)
    network.requires_grad_(False)
    if hasattr(network, "peft_config"):
        del network.peft_config
    return len(layers)


def add_embedding(parts: Parts, path: Path, word: str) -> Parts:
    """Teach the text encoders a word (Gal et al. 2022, arXiv 2208.01618): `word`, or the one of the file.

    Files of diffusers and A1111, and those of XL with a vector for each encoder, are read. In a prompt the
    word stands for all vectors of the file.
    """
    state = read_weights(path)
    vectors = vectors_of(path, state, len(parts.text_encoders))
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in parts.text_encoders]
    if [v.shape[1] for v in vectors] != widths:
        raise ModelError(
            f"{path} has vectors of {' and '.join(str(v.shape[1]) for v in vectors)} numbers, and this "
            f"checkpoint takes {' and '.join(map(str, widths))}.",
            OTHER_KIND,
        )
    own = next(iter(state)) if len(state) == 1 and "emb_params" not in state else path.stem
    word = word.strip("<> ") or own.strip("<> ")
    names = [f"<learned-{len(parts.phrases)}-{i}>" for i in range(len(vectors[0]))]
    for tokenizer, encoder, values in zip(parts.tokenizers, parts.text_encoders, vectors, strict=True):
        teach(tokenizer, encoder, names, values)
    return replace(parts, phrases={**parts.phrases, word: " ".join(names)})


def vectors_of(path: Path, state: dict[str, Tensor], encoders: int) -> list[Tensor]:
    """The vectors (n d) for each text encoder."""
    if encoders == 2 and {"clip_l", "clip_g"} <= {*state}:
        found = [state["clip_l"], state["clip_g"]]
    elif encoders == 1 and ("emb_params" in state or len(state) == 1):
        found = [state.get("emb_params", next(iter(state.values())))]
    else:
        raise ModelError(
            f"{path} is not a textual inversion for this checkpoint.",
            "Give one that was made for its kind (1.x, 2.x or XL).",
        )
    found = [values[None] if values.dim() == 1 else values for values in found]
    shapes = {len(values) if values.dim() == 2 else 0 for values in found}
    if len(shapes) > 1 or 0 in shapes:
        raise ModelError(f"{path} is not a textual inversion.", "Give a file with one or several vectors.")
    for values in found:
        check_finite(path, "a vector", values)
    return found


def teach(tokenizer: Any, encoder: Any, names: list[str], values: Tensor) -> None:
    """Add tokens with these vectors to a tokenizer and its encoder."""
    tokenizer.add_tokens(names)
    with torch.random.fork_rng([]):  # it fills the new rows with random numbers
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        for name, vector in zip(names, values, strict=False):
            table[tokenizer.convert_tokens_to_ids(name)] = vector.to(table)
    encoder.requires_grad_(False)
    text_model = getattr(encoder, "text_model", encoder)
    text_model.eos_token_id = tokenizer.eos_token_id  # 2, of old configs, means the highest id: not any more
