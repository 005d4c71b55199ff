"""The original code's names of the tensors of flow-matching models, made from those of diffusers.

The way back is diffusers' own.
"""

import re
from collections.abc import Mapping

import torch
from single_files import swap
from torch import Tensor

IN_SD3 = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
ROUND_SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
ATTENTION = {  # of a double block
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
IN_FLUX = {
    **ATTENTION,
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
IN_FLUX_SINGLE = {
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
}
IN_FLUX2 = {
    **ATTENTION,
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
IN_FLUX2_SINGLE = {
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
ROUND_FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
ROUND_CHROMA = {
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    **{key: key for key in ("distilled_guidance_layer.in_proj", "distilled_guidance_layer.out_proj")},
}
for i in range(5):
    ROUND_CHROMA |= {
        f"distilled_guidance_layer.layers.{i}.linear_1": f"distilled_guidance_layer.layers.{i}.in_layer",
        f"distilled_guidance_layer.layers.{i}.linear_2": f"distilled_guidance_layer.layers.{i}.out_layer",
        f"distilled_guidance_layer.norms.{i}.weight": f"distilled_guidance_layer.norms.{i}.scale",
    }
ROUND_FLUX2 = {
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
ROUND = {"sd3": ROUND_SD3, "flux": ROUND_FLUX, "chroma": ROUND_CHROMA, "flux2": ROUND_FLUX2}
IN_ZIMAGE = {
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
}
IN_WAN = {
    "coder.conv_in.": "coder.conv1.",
    "coder.norm_out.": "coder.head.0.",
    "coder.conv_out.": "coder.head.2.",
    "mid_block.resnets.0.": "middle.0.",
    "mid_block.attentions.0.": "middle.1.",
    "mid_block.resnets.1.": "middle.2.",
    "down_blocks.": "downsamples.",
}
IN_WAN_RESNET = {
    ".norm1.": ".residual.0.",
    ".conv1.": ".residual.2.",
    ".norm2.": ".residual.3.",
    ".conv2.": ".residual.6.",
    ".conv_shortcut.": ".shortcut.",
}
OF_FLUX = {
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
}
JOINED = {  # layers that the original code has as one, by its name
    "sd3": {
        "x_block.attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
        "x_block.attn2.qkv": ["attn2.to_q", "attn2.to_k", "attn2.to_v"],
        "context_block.attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    },
    "flux": OF_FLUX,
    "flux2": OF_FLUX,
    "flux2 single": {},
    "single": {"linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]},
}
BLOCKS = {
    "sd3": ("transformer_blocks", "joint_blocks", IN_SD3),
    "flux": ("transformer_blocks", "double_blocks", IN_FLUX),
    "single": ("single_transformer_blocks", "single_blocks", IN_FLUX_SINGLE),
    "flux2": ("transformer_blocks", "double_blocks", IN_FLUX2),
    "flux2 single": ("single_transformer_blocks", "single_blocks", IN_FLUX2_SINGLE),
}
SORTS = {
    "sd3": ["sd3"],
    "flux": ["flux", "single"],
    "chroma": ["flux", "single"],
    "flux2": ["flux2", "flux2 single"],
}


def swapped(values: Tensor) -> Tensor:
    return torch.cat([*values.chunk(2)][::-1])


def original(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """A transformer's tensors under the names of the original code."""
    if kind == "qwenimage":  # the same
        return dict(state)
    if kind == "zimage":
        return original_zimage(state)
    left, found = dict(state), dict[str, Tensor]()
    for key, values in state.items():
        stem, _, end = key.rpartition(".")
        names = ROUND[kind]
        if name := names.get(key, names.get(stem)):
            name = name if key in names else f"{name}.{end}"
            found[name] = swapped(values) if "final_layer.ada" in name else left[key]
            del left[key]
    for sort in SORTS[kind]:
        theirs, own, inside = BLOCKS[sort]
        numbers = sorted({int(key.split(".")[1]) for key in left if key.startswith(f"{theirs}.")})
        for i in numbers:
            for name, layers in JOINED[sort].items():
                for end in ("weight", "bias"):
                    keys = [f"{theirs}.{i}.{layer}.{end}" for layer in layers]
                    if keys[0] in left:
                        found[f"{own}.{i}.{name}.{end}"] = torch.cat([left.pop(key) for key in keys])
            for layer, name in inside.items():
                for end in ("weight", "bias"):
                    key = f"{theirs}.{i}.{layer}.{end}"
                    if key in left:
                        is_last = sort == "sd3" and layer == "norm1_context.linear" and i == numbers[-1]
                        values = left.pop(key)
                        ending = "scale" if name.endswith(("query_norm", "key_norm")) else end
                        found[f"{own}.{i}.{name}.{ending}"] = swapped(values) if is_last else values
    assert not left
    return {key: values.contiguous() for key, values in found.items()}


def original_zimage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {"norm_final.weight": torch.ones(8)}  # which no code uses
    for key, values in state.items():
        if ".to_q." in key:
            joined = [state[key.replace(".to_q.", f".to_{one}.")] for one in "qkv"]
            found[key.replace(".to_q.", ".qkv.")] = torch.cat(joined)
        elif ".to_k." not in key and ".to_v." not in key:
            found[swap(key, IN_ZIMAGE)] = values.contiguous()
    return found


def original_qwen_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE of Qwen-Image as Wan 2.1 names it, which numbers the parts of all blocks that go up through."""
    found: dict[str, Tensor] = {}
    for key, values in state.items():
        name = re.sub(
            r"up_blocks\.(\d+)\.(resnets\.(\d)|upsamplers\.0)",
            lambda match: f"upsamples.{4 * int(match[1]) + int(match[3] or 3)}",
            swap(key, {"post_quant_conv.": "conv2.", "quant_conv.": "conv1."} | IN_WAN),
        )
        is_resnet = re.search(r"(samples\.\d+|middle\.[02])\.", name)
        found[swap(name, IN_WAN_RESNET) if is_resnet else name] = values
    return found
