"""A model over the networks of a loaded diffusers pipeline, which stays usable."""

from dataclasses import fields, replace
from typing import Any

import torch

from ..errors import ModelError, SettingError
from ..settings import ModelConfig, option_name
from .checks import check_text, check_unet, check_vae
from .denoiser import DiffusersDenoiser
from .few_steps import recognise
from .hardware import pick_device, pick_dtype
from .parts import Parts, check_fit
from .schedulers import plain_config, read_schedule
from .unet import UNetDenoiser

TAKEN = ("device", "dtype")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def model_of_pipeline(pipeline: Any, config: ModelConfig) -> DiffusersDenoiser:
    """The model of a StableDiffusionPipeline or StableDiffusionXLPipeline.

    config: only device and dtype are used. auto leaves the networks as they are; another value also moves
    those of the pipeline. Raises SettingError for other settings, ModelError for other pipelines.
    """
    name = f"the {type(pipeline).__name__}"
    check_settings(config)
    parts = parts_of(name, pipeline)
    device = parts.unet.device if config.device == "auto" else pick_device(config.device)
    dtype = parts.unet.dtype if config.dtype == "auto" else pick_dtype(config.dtype, device)
    for network in (parts.unet, *parts.text_encoders):
        network.to(device, dtype)
    known_as = str(getattr(pipeline, "name_or_path", "") or "pipeline")
    is_lcm = bool(parts.unet.config.time_cond_proj_dim)
    if few := recognise(known_as, scheduler=plain_config(pipeline.scheduler), is_lcm=is_lcm):
        parts = replace(parts, own_defaults={**few.defaults})
    model = UNetDenoiser(known_as, parts, torch.device(device), dtype)
    model.origin = {
        "model": known_as.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1],
        "model_is_local": True,
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "backend": "torch",
    }
    return model


def check_settings(config: ModelConfig) -> None:
    usual = ModelConfig()
    for item in fields(config):
        if item.name not in TAKEN and getattr(config, item.name) != getattr(usual, item.name):
            raise SettingError(
                f"{option_name(item.name)} cannot be used with a loaded pipeline.",
                "Prepare the pipeline with diffusers, or give load_model the checkpoint's name.",
            )


def parts_of(name: str, pipeline: Any) -> Parts:
    """The parts of a pipeline, checked as those of a folder are."""
    if not all(getattr(pipeline, part, None) is not None for part in PARTS):
        raise ModelError(
            f"{name[0].upper()}{name[1:]} is neither a checkpoint's name nor a pipeline of Stable Diffusion.",
            "Give a name, a path, a StableDiffusionPipeline or a StableDiffusionXLPipeline.",
        )
    is_xl = getattr(pipeline, "text_encoder_2", None) is not None
    encoders = [pipeline.text_encoder, *([pipeline.text_encoder_2] if is_xl else [])]
    check_unet(name, {**pipeline.unet.config, "_class_name": type(pipeline.unet).__name__})
    check_vae(name, {**pipeline.vae.config, "_class_name": type(pipeline.vae).__name__})
    for encoder in encoders:
        check_text(name, encoder.config.to_dict())
    if any(hasattr(network, "_hf_hook") for network in (pipeline.unet, pipeline.vae, *encoders)):
        raise ModelError(
            f"{name[0].upper()}{name[1:]} keeps its networks off the device.",
            "Load it without enable_model_cpu_offload; --low-memory does the same for a checkpoint by name.",
        )
    schedule, predicts_v = read_schedule(name, plain_config(pipeline.scheduler))
    parts = Parts(
        unet=pipeline.unet,
        vae=pipeline.vae,
        text_encoders=encoders,
        tokenizers=[pipeline.tokenizer, *([pipeline.tokenizer_2] if is_xl else [])],
        schedule=schedule,
        predicts_v=predicts_v,
        has_zero_empty_prompt=bool(pipeline.config.get("force_zeros_for_empty_prompt", is_xl)),
        is_borrowed=True,
    )
    check_fit(name, parts)
    return parts
