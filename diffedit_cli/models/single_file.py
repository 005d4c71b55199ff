"""A whole checkpoint in one .safetensors file, in the layout that A1111, ComfyUI and Civitai use.

Such a file says nothing of its configuration. It is recognised by the names of its tensors, and the
configs and CLIP's vocabulary come from the package: no network is needed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .clip_tokenizer import clip_tokenizer
from .parts import Parts, reading, refuse_gaps, silence
from .weights import read_weights

CONFIGS = Path(__file__).parent / "configs"
UNET = "model.diffusion_model."
ENCODERS = {  # the prefix of a text encoder's tensors tells what the file is
    "cond_stage_model.transformer.": "sd1",
    "cond_stage_model.model.": "sd2",
    "conditioner.embedders.1.model.": "sdxl",
}
CLIP_PREFIXES = {kind: prefix for prefix, kind in ENCODERS.items()} | {
    "sdxl": "conditioner.embedders.0.transformer."
}
OTHERS = {  # a piece of a tensor's name, and what a file with it is
    "double_blocks.": ("a Flux checkpoint", "Use one of Stable Diffusion 1.x, 2.x or XL."),
    "joint_blocks.": ("a Stable Diffusion 3 checkpoint", "Use one of Stable Diffusion 1.x, 2.x or XL."),
    "control_model.": ("a ControlNet", "Use a whole checkpoint."),
    "edm_mean": ("a Playground v2.5 checkpoint, with a noise schedule of its own", "Use another one."),
    "conditioner.embedders.0.model.": ("the SDXL refiner, which only polishes pictures", "Use SDXL base."),
    "lora": ("a LoRA", "It changes a checkpoint and is none itself."),
    "hada_w1": ("a LoHa adapter", "It changes a checkpoint and is none itself."),
    "emb_params": ("a textual inversion", "It adds a word to a checkpoint and is none itself."),
    "clip_l": ("a textual inversion", "It adds a word to a checkpoint and is none itself."),
}


def load_single_file(name: str, path: Path, dtype: torch.dtype) -> Parts:
    """Load every part of a checkpoint in one file. ModelError where it is none, or lacks a part."""
    state = read_weights(path)
    return convert(name, state, recognise(name, state), dtype)


def recognise(name: str, state: Mapping[str, Tensor]) -> str:
    """sd1, sd2 or sdxl, from the names of the tensors; ModelError says what else the file is."""
    for piece, (what, hint) in OTHERS.items():
        if any(piece in key for key in state):
            raise ModelError(f"{name} is {what}.", hint)
    if any(key.startswith(("down_blocks.", "encoder.down_blocks.")) for key in state):
        raise ModelError(f"{name} is one network of several.", "Give the folder that holds all of them.")
    kind = next(
        (kind for prefix, kind in ENCODERS.items() if any(key.startswith(prefix) for key in state)), ""
    )
    lacks = [
        part
        for part, is_there in {
            "a UNet": f"{UNET}input_blocks.0.0.weight" in state,
            "a text encoder": kind,
            "a VAE": any(key.startswith("first_stage_model.") for key in state),
        }.items()
        if not is_there
    ]
    if lacks:
        raise ModelError(
            f"{name} lacks {' and '.join(lacks)}: it is not all of a Stable Diffusion 1.x, 2.x or XL.",
            "Get the full file, with text encoder and VAE baked in.",
        )
    channels = state[f"{UNET}input_blocks.0.0.weight"].shape[1]
    if channels != 4:
        task = {9: "inpainting", 8: "instructions (InstructPix2Pix)"}.get(channels, "another task")
        raise ModelError(
            f"{name} takes {channels} channels: it is made for {task}.",
            "Use the plain text-to-image checkpoint.",
        )
    return kind


def convert(name: str, state: dict[str, Tensor], kind: str, dtype: torch.dtype) -> Parts:
    """The parts of a checkpoint of a known kind, by diffusers' own conversion and the package's configs."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    silence()
    unet = empty(UNet2DConditionModel, kind, "unet")
    vae = empty(AutoencoderKL, kind, "vae")
    is_v = predicts_v(state, kind)
    if kind == "sd2" and is_v:
        unet.register_to_config(sample_size=96)  # 2.x was trained on v at 768 pixels, on eps at 512
    with reading(name):
        unet_state = convert_ldm_unet_checkpoint(dict(state), unet.config)
        vae_state = convert_ldm_vae_checkpoint(dict(state), vae.config)
    return Parts(
        unet=fill(f"{name}, its UNet,", unet, unet_state, dtype),
        vae=fill(f"{name}, its VAE,", vae, vae_state, torch.float32),
        text_encoders=text_encoders(name, state, kind, dtype),
        tokenizers=tokenizers(kind),
        scheduler=scheduler(is_v=is_v, has_zero_snr="ztsnr" in state),
        has_zero_empty_prompt=kind == "sdxl",
    )


def empty(cls: Any, kind: str, part: str) -> Any:
    """A network of the package's config, without weights."""
    from accelerate import init_empty_weights

    config = CONFIGS / kind / part
    with init_empty_weights():
        if hasattr(cls, "load_config"):
            return cls.from_config(cls.load_config(config, local_files_only=True))
        return cls(cls.config_class.from_pretrained(config, local_files_only=True))


def fill(what: str, network: Any, state: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """The network with these weights, frozen; ModelError if one of them is missing or of another shape."""
    wanted = network.state_dict()
    refuse_gaps(what, [key for key, to in wanted.items() if key not in state or state[key].shape != to.shape])
    network.load_state_dict(state, strict=False, assign=True)
    return network.to(dtype).eval().requires_grad_(False)


def text_encoders(name: str, state: dict[str, Tensor], kind: str, dtype: torch.dtype) -> list[Any]:
    """The encoder of 1.x (CLIP) or 2.x (OpenCLIP), or both of XL."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    found: list[Any] = []
    for part, (cls, prefix) in {
        "text_encoder": (CLIPTextModel, CLIP_PREFIXES[kind]),
        "text_encoder_2": (CLIPTextModelWithProjection, "conditioner.embedders.1.model."),
    }.items():
        if not (CONFIGS / kind / part).is_dir():
            continue
        network = empty(cls, kind, part)
        with reading(name):
            if prefix.endswith("model."):
                own = convert_open_clip_checkpoint(network, state, prefix=prefix)
            else:
                own = {key.removeprefix(prefix): values for key, values in state.items()}
        if not hasattr(network, "text_model"):  # transformers before 5.6 wrap it
            own = {key.removeprefix("text_model."): values for key, values in own.items()}
        found.append(fill(f"{name}, its {part},", network, own, dtype))
    return found


def tokenizers(kind: str) -> list[Any]:
    """OpenCLIP's encoders, those of 2.x and the second of XL, see token 0 after the text's end."""
    if kind == "sd1":
        return [clip_tokenizer()]
    return [clip_tokenizer("!")] if kind == "sd2" else [clip_tokenizer(), clip_tokenizer("!")]


def scheduler(*, is_v: bool = False, has_zero_snr: bool = False) -> Any:
    """The schedule of all Stable Diffusion, rescaled to end in pure noise where the file says so."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if is_v else "epsilon",
        rescale_betas_zero_snr=has_zero_snr,
        timestep_spacing="trailing" if has_zero_snr else "leading",
    )


def predicts_v(state: Mapping[str, Tensor], kind: str) -> bool:
    """Whether the network predicts v: fine-tunes carry a tensor `v_pred` that says so.

    2.x does not say; its v networks are told apart by the spread of one bias, above .09 in them, as
    ComfyUI does.
    """
    if "v_pred" in state or kind != "sd2":
        return "v_pred" in state
    bias = state.get(f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    return bias is not None and float(bias.float().std(correction=0)) > 0.09
