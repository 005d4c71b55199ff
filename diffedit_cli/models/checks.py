"""What a network's config may contain: anything else is refused with the reason, before the network is
created."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from ..errors import ModelError
from .bounds import check_values, flat, is_whole

HELP_PLAIN = "Use the plain text-to-image checkpoint."
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "flow_vae": "AutoencoderKL",
    "sd3": "SD3Transformer2DModel",
    "flux": "FluxTransformer2DModel",
    "chroma": "ChromaTransformer2DModel",
    "flux2": "Flux2Transformer2DModel",
    "flux2_vae": "AutoencoderKLFlux2",
    "qwenimage": "QwenImageTransformer2DModel",
    "qwen_vae": "AutoencoderKLQwenImage",
    "zimage": "ZImageTransformer2DModel",
}
TEXT_MODELS = ("clip_text_model", "clip", None)


def check_unet(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a UNet that takes more than latents, a timestep and a text."""
    check_class(name, "unet", config)
    channels = config.get("in_channels", 4)
    if channels != 4:
        task = {9: "inpainting", 8: "instructions (InstructPix2Pix)", 7: "upscaling"}.get(
            channels if isinstance(channels, int) else 0
        )
        raise ModelError(
            f"{name} takes {channels} channels: it is made for {task or 'another task'}.", HELP_PLAIN
        )
    extras = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "encoder_hid_dim")
    extra = next((key for key in extras if config.get(key) is not None), None)
    if config.get("attention_type") not in (None, "default"):
        extra = "attention_type"
    if extra or config.get("addition_embed_type") not in (None, "text_time"):
        raise ModelError(f"{name} takes more than a text ({extra or 'addition_embed_type'}).", HELP_PLAIN)


def check_vae(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a VAE whose latents are not scaled by a single factor."""
    check_class(name, "vae", config)
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if config.get(key):
            raise ModelError(
                f"{name} has a VAE with {key}: its latents are not those of Stable Diffusion.",
                "Use a checkpoint of Stable Diffusion 1.x, 2.x or XL.",
            )
    check_factor(name, config)


def check_flow_vae(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a VAE whose latents are not scaled by one shift and one factor."""
    check_class(name, "flow_vae", config)
    for key in ("latents_mean", "latents_std"):
        if config.get(key):
            raise ModelError(f"{name} has a VAE with {key}, which is not supported.", HELP_PLAIN)
    shift = config.get("shift_factor") or 0.0
    if isinstance(shift, bool) or not isinstance(shift, (int, float)):
        raise ModelError(
            f"{name}/vae/config.json is invalid: shift_factor is not a number.", "Fetch it again."
        )
    check_factor(name, config)


def check_factor(name: str, config: Mapping[str, Any]) -> None:
    factor = config.get("scaling_factor", 0.18215)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
        raise ModelError(
            f"{name}/vae/config.json is invalid: scaling_factor is not a number.", "Fetch it again."
        )


def check_text(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a text encoder that is not CLIP's."""
    kind = config.get("model_type")
    if kind not in TEXT_MODELS:
        raise ModelError(f"{name} has a text encoder of another kind ({kind}), not CLIP's.", HELP_PLAIN)


def check_t5(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a text encoder that is not T5's."""
    kind = config.get("model_type")
    if kind != "t5":
        raise ModelError(f"{name} has a text encoder of another kind ({kind}), not T5.", HELP_PLAIN)


def check_qwen3(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a language model that is not plain Qwen3."""
    kind, rope = config.get("model_type"), config.get("rope_parameters") or {}
    if kind != "qwen3":
        raise ModelError(f"{name} has a text encoder of another kind ({kind}), not Qwen3.", HELP_PLAIN)
    is_plain = isinstance(rope, dict) and rope.get("rope_type", "default") == "default"
    if config.get("rope_scaling") or config.get("use_sliding_window") or not is_plain:
        raise ModelError(f"{name} has a text encoder that is not plain Qwen3.", HELP_PLAIN)
    check_values(f"{name}/text_encoder/config.json", rope)


def check_qwen2_5_vl(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a language model that is not that of Qwen2.5-VL."""
    kind = config.get("model_type")
    if kind not in ("qwen2_5_vl", "qwen2_5_vl_text"):
        raise ModelError(f"{name} has a text encoder of another kind ({kind}), not Qwen2.5-VL.", HELP_PLAIN)
    width, heads = config.get("hidden_size"), config.get("num_attention_heads") or 0
    fits = is_whole(width) and is_whole(heads) and 2 * sum(mrope_section(config)) * heads == width
    if config.get("use_sliding_window") or not fits:
        raise ModelError(f"{name} has a text encoder that is not plain Qwen2.5-VL.", HELP_PLAIN)


def mrope_section(config: Mapping[str, Any]) -> list[int]:
    """How Qwen2.5-VL shares the numbers of a place among time, row and column; nothing: it does not say."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    found = rope.get("mrope_section") if isinstance(rope, dict) else None
    is_plain = isinstance(found, list) and len(found) == 3 and all(map(is_whole, found))
    return cast(list[int], found) if is_plain else []


def check_zimage(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a Z-Image transformer that takes more than latents and a text, or whose widths do not match."""
    check_class(name, "zimage", config)
    check_channels(name, config, 16)
    axes, lens = config.get("axes_dims", [32, 48, 48]), config.get("axes_lens", [1024, 512, 512])
    are_three = all(isinstance(one, list) and len(one) == 3 for one in (axes, lens))
    width, heads = config.get("dim", 3840), config.get("n_heads", 30)
    fits = are_three and not any(axis % 2 for axis in axes) and is_whole(width) and is_whole(heads)
    patches = config.get("all_patch_size", [2]), config.get("all_f_patch_size", [1])
    if not fits or width != heads * sum(axes) or [list(flat([x])) for x in patches] != [[2], [1]]:
        raise ModelError(
            f"{name}/transformer/config.json is invalid: its widths do not match.", "Fetch it again."
        )
    if config.get("siglip_feat_dim") is not None:
        raise ModelError(f"{name} takes pictures besides a text.", HELP_PLAIN)


def check_sd3(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a transformer of SD3 that takes more than latents, or whose widths do not match."""
    check_class(name, "sd3", config)
    check_channels(name, config, 16)
    heads, head = config.get("num_attention_heads", 18), config.get("attention_head_dim", 64)
    fits = is_whole(heads) and is_whole(head) and config.get("caption_projection_dim", 1152) == heads * head
    if not fits or config.get("patch_size", 2) != 2 or not is_whole(config.get("sample_size", 128)):
        raise ModelError(
            f"{name}/transformer/config.json is invalid: its widths do not match.", "Fetch it again."
        )


def check_flux(name: str, config: Mapping[str, Any], kind: str = "flux") -> None:
    """Refuse a transformer of FLUX or Chroma that takes more than latents, or whose widths do not match."""
    check_class(name, kind, config)
    check_channels(name, config, 64)
    axes = config.get("axes_dims_rope", (16, 56, 56))
    is_even = isinstance(axes, (list, tuple)) and len(axes) == 3 and not any(axis % 2 for axis in axes)
    if not is_even or sum(axes) != config.get("attention_head_dim", 128) or config.get("patch_size", 1) != 1:
        raise ModelError(
            f"{name}/transformer/config.json is invalid: its widths do not match.", "Fetch it again."
        )


def check_flux2(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a transformer of FLUX.2 other than klein's, or whose widths do not match."""
    check_class(name, "flux2", config)
    if config.get("guidance_embeds", True):
        raise ModelError(f"{name} is FLUX.2 dev, which is not supported.", "Use FLUX.2 klein.")
    check_channels(name, config, 128)
    axes = config.get("axes_dims_rope", (32, 32, 32, 32))
    is_even = isinstance(axes, (list, tuple)) and len(axes) == 4 and not any(axis % 2 for axis in axes)
    if not is_even or sum(axes) != config.get("attention_head_dim", 128) or config.get("patch_size", 1) != 1:
        raise ModelError(
            f"{name}/transformer/config.json is invalid: its widths do not match.", "Fetch it again."
        )
    for key in ("eps", "rope_theta"):
        if not is_above(config.get(key, 1), 0):
            raise ModelError(
                f"{name}/transformer/config.json is invalid: {key} is not above 0.", "Fetch it again."
            )


def check_flux2_vae(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a VAE whose latents are not scaled by a mean and a deviation for each value of 2x2 cells."""
    check_class(name, "flux2_vae", config)
    eps = config.get("batch_norm_eps", 1e-4)
    if not is_above(eps, 0) or [*flat([config.get("patch_size", [2, 2])])] != [2, 2]:
        raise ModelError(
            f"{name}/vae/config.json is invalid: its batch_norm_eps or patch_size does not fit.",
            "Fetch it again.",
        )


def check_qwenimage(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a transformer of Qwen-Image that takes more than latents and a text, or whose widths do not
    fit."""
    check_class(name, "qwenimage", config)
    extras = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
    if extra := next((key for key in extras if config.get(key)), ""):
        raise ModelError(f"{name} takes more than a text ({extra}).", HELP_PLAIN)
    axes = config.get("axes_dims_rope", (16, 56, 56))
    is_even = isinstance(axes, (list, tuple)) and len(axes) == 3 and not any(axis % 2 for axis in axes)
    sizes = config.get("in_channels", 64), config.get("out_channels", 16), config.get("patch_size", 2)
    if not is_even or sum(axes) != config.get("attention_head_dim", 128) or sizes != (64, 16, 2):
        raise ModelError(
            f"{name}/transformer/config.json is invalid: its widths do not match.", "Fetch it again."
        )


def check_qwen_vae(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a VAE whose latents are not scaled by a mean and a deviation for each of 16 channels, or that
    takes more than a picture."""
    check_class(name, "qwen_vae", config)
    for key, low in (("latents_mean", -math.inf), ("latents_std", 0)):
        values = config.get(key, [1.0] * 16)
        if not isinstance(values, list) or len(values) != 16 or not all(is_above(x, low) for x in values):
            raise ModelError(
                f"{name}/vae/config.json is invalid: {key} is not a list of 16 numbers.", "Fetch it again."
            )
    levels, halved = config.get("dim_mult", [1, 2, 4, 4]), config.get("temperal_downsample", [True] * 3)
    are_lists = isinstance(levels, list) and isinstance(halved, list)
    sizes = config.get("z_dim", 16), config.get("input_channels", 3)
    if not are_lists or len(levels) != len(halved) + 1 or sizes != (16, 3):
        raise ModelError(f"{name}/vae/config.json is invalid: its widths do not match.", "Fetch it again.")


def is_above(value: Any, low: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > low


def check_channels(name: str, config: Mapping[str, Any], wanted: int) -> None:
    """Refuse a transformer that takes more channels than those of plain latents, such as a mask."""
    if [config.get("in_channels", wanted), config.get("out_channels") or wanted] != [wanted, wanted]:
        raise ModelError(
            f"{name} takes {config.get('in_channels')} channels: it is made for another task.", HELP_PLAIN
        )


CHECKS: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
    "unet": check_unet,
    "vae": check_vae,
    "flow_vae": check_flow_vae,
    "sd3": check_sd3,
    "flux": check_flux,
    "chroma": partial(check_flux, kind="chroma"),
    "flux2": check_flux2,
    "flux2_vae": check_flux2_vae,
    "qwenimage": check_qwenimage,
    "qwen_vae": check_qwen_vae,
    "qwen2_5_vl": check_qwen2_5_vl,
    "t5": check_t5,
    "zimage": check_zimage,
    "qwen3": check_qwen3,
}


def check_class(name: str, part: str, config: Mapping[str, Any]) -> None:
    kind = config.get("_class_name", CLASSES[part])
    if kind != CLASSES[part]:
        raise ModelError(
            f"{name} has a {'VAE' if part.endswith('vae') else part} of another class ({kind}).",
            f"A checkpoint with a plain {CLASSES[part]} runs.",
        )
