"""Checkpoints in one file, made from diffusers' networks by the names of the original code.

The way back, from one file to diffusers' networks, is diffusers' own.
"""

import re
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ROUND_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
IN_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
IN_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    ".fc1.": ".c_fc.",
    ".fc2.": ".c_proj.",
    "self_attn.out_proj": "attn.out_proj",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def swap(text: str, names: dict[str, str]) -> str:
    for name, other in names.items():
        text = text.replace(name, other)
    return text


def unet_key(key: str, layers: int, up_attentions: list[bool]) -> str:
    """The original name of one of the UNet's tensors. layers: of resnets in a block that goes down."""
    for name, other in ROUND_UNET.items():
        if key.startswith(f"{name}."):
            return swap(other + key[len(name) :], IN_RESNET if "resnets" in name else {})
    side, block, part, layer, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key
    ).groups()  # type: ignore[union-attr]
    block, layer = int(block), int(layer)
    number = block * (layers + 1) + (layer if part != "upsamplers" else layers)
    if part == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        return f"output_blocks.{number}.{1 + up_attentions[block]}.{rest}"
    where = f"input_blocks.{1 + number}" if side == "down" else f"output_blocks.{number}"
    return f"{where}.0.{swap(rest, IN_RESNET)}" if part == "resnets" else f"{where}.1.{rest}"


def vae_key(key: str, blocks: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        return swap(key.replace("mid_block.attentions.0", "mid.attn_1"), IN_VAE_ATTENTION)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", key)


def open_clip(state: State) -> State:
    """OpenCLIP's names: queries, keys and values in one tensor, the projection the other way round."""
    out: State = {}
    for key, values in state.items():
        key = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            out["text_projection"] = values.T
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", key):
            parts = [
                values,
                *(
                    state[k]
                    for name in "kv"
                    for k in state
                    if k.endswith(key.replace("q_proj", f"{name}_proj"))
                ),
            ]
            out[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", key):
            out[swap(key, IN_OPEN_CLIP)] = values
    return out


def clip(state: State) -> State:
    return {f"text_model.{key.removeprefix('text_model.')}": values for key, values in state.items()}


def with_prefix(prefix: str, state: State) -> State:
    return {prefix + key: values for key, values in state.items()}


def to_single_file(kind: str, unet: Any, vae: Any, text_encoders: list[Any]) -> State:
    """The tensors of a checkpoint of kind sd1, sd2 or sdxl under their original names."""
    up_attentions = ["Attn" in block for block in unet.config.up_block_types]
    layers, blocks = unet.config.layers_per_block, len(vae.config.block_out_channels)
    state = {
        "model.diffusion_model." + unet_key(key, layers, up_attentions): values
        for key, values in unet.state_dict().items()
    }
    for key, values in vae.state_dict().items():
        is_convolution = "attentions" in key and key.endswith("weight") and values.dim() == 2
        values = values[:, :, None, None] if is_convolution else values
        state["first_stage_model." + vae_key(key, blocks)] = values
    texts = [encoder.state_dict() for encoder in text_encoders]
    if kind == "sd1":
        return state | with_prefix("cond_stage_model.transformer.", clip(texts[0]))
    if kind == "sd2":
        return state | with_prefix("cond_stage_model.model.", open_clip(texts[0]))
    return (
        state
        | with_prefix("conditioner.embedders.0.transformer.", clip(texts[0]))
        | with_prefix("conditioner.embedders.1.model.", open_clip(texts[1]))
    )
