"""The published full-size layouts of flow-matching models: every tensor by name and shape, and no weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffedit_cli.errors import ModelError
from diffedit_cli.models.bounds import check_values
from diffedit_cli.models.checks import CHECKS, check_text
from diffedit_cli.models.networks import empty_network
from diffedit_cli.models.parts import fill_language_model, fill_t5, for_text_encoder
from diffedit_cli.models.weights import fill

SD3 = {
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
MEDIUM = SD3 | {
    "dual_attention_layers": [*range(13)],
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
}
LARGE = SD3 | {
    "caption_projection_dim": 2432,
    "dual_attention_layers": [],
    "num_attention_heads": 38,
    "num_layers": 38,
    "qk_norm": "rms_norm",
}
SCHNELL = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 128,
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
DEV = SCHNELL | {"guidance_embeds": True}
CHROMA = {
    "_class_name": "ChromaTransformer2DModel",
    "approximator_hidden_dim": 5120,
    "approximator_layers": 5,
    "approximator_num_channels": 64,
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "out_channels": None,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
KLEIN_4B = {
    "_class_name": "Flux2Transformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": [32, 32, 32, 32],
    "eps": 1e-06,
    "guidance_embeds": False,
    "in_channels": 128,
    "joint_attention_dim": 7680,
    "mlp_ratio": 3.0,
    "num_attention_heads": 24,
    "num_layers": 5,
    "num_single_layers": 20,
    "out_channels": None,
    "patch_size": 1,
    "rope_theta": 2000,
    "timestep_guidance_channels": 256,
}
KLEIN_9B = KLEIN_4B | {
    "joint_attention_dim": 12288,
    "num_attention_heads": 32,
    "num_layers": 8,
    "num_single_layers": 24,
}
FLUX2_VAE = {
    "_class_name": "AutoencoderKLFlux2",
    "act_fn": "silu",
    "batch_norm_eps": 0.0001,
    "batch_norm_momentum": 0.1,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 32,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "patch_size": [2, 2],
    "sample_size": 1024,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
QWEN_IMAGE = {
    "_class_name": "QwenImageTransformer2DModel",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 3584,
    "num_attention_heads": 24,
    "num_layers": 60,
    "out_channels": 16,
    "patch_size": 2,
}
QWEN_VAE = {
    "_class_name": "AutoencoderKLQwenImage",
    "attn_scales": [],
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": [
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ],
    "latents_std": [
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
    ],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}
QWEN_VL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vision_start_token_id": 151652,
    "vocab_size": 152064,
}
Z_IMAGE = {
    "_class_name": "ZImageTransformer2DModel",
    "all_f_patch_size": [1],
    "all_patch_size": [2],
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "cap_feat_dim": 2560,
    "dim": 3840,
    "in_channels": 16,
    "n_heads": 30,
    "n_kv_heads": 30,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "norm_eps": 1e-05,
    "qk_norm": True,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
}
QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_8B = QWEN3_4B | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
T5_XXL = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "vocab_size": 32128,
}
CLIP_G = {
    "architectures": ["CLIPTextModelWithProjection"],
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "model_type": "clip_text_model",
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "vocab_size": 49408,
}
# (kind, config, billions of parameters, some tensors of the published file)
PUBLISHED = [
    ("sd3", SD3, 2.0, ["pos_embed.proj.weight", "transformer_blocks.22.ff_context.net.2.bias"]),
    ("sd3", MEDIUM, 2.2, ["transformer_blocks.12.attn2.to_q.weight"]),
    ("sd3", LARGE, 8.1, ["transformer_blocks.37.attn.norm_added_k.weight", "context_embedder.bias"]),
    ("flux", DEV, 11.9, ["time_text_embed.guidance_embedder.linear_1.weight"]),
    ("zimage", Z_IMAGE, 6.2, ["layers.29.adaLN_modulation.0.weight", "cap_pad_token"]),
    ("flux", SCHNELL, 11.9, ["single_transformer_blocks.37.proj_mlp.weight", "x_embedder.weight"]),
    ("chroma", CHROMA, 8.9, ["distilled_guidance_layer.layers.4.linear_2.bias"]),
    ("qwenimage", QWEN_IMAGE, 20.4, ["transformer_blocks.59.img_mod.1.weight", "txt_norm.weight"]),
    ("flux2", KLEIN_4B, 3.9, ["single_stream_modulation.linear.weight", "context_embedder.weight"]),
    ("flux2", KLEIN_9B, 9.1, ["single_transformer_blocks.23.attn.to_qkv_mlp_proj.weight"]),
]  # fmt: skip


def tensors(network: Any) -> dict[str, Tensor]:
    return dict(network.state_dict())


def count(network: Any) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e9


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own, of Chroma
@pytest.mark.parametrize(("kind", "config", "billions", "known"), PUBLISHED)
def test_every_tensor_of_a_published_transformer_has_its_place(
    kind: str, config: dict[str, Any], billions: float, known: list[str]
) -> None:
    import diffusers

    check_values("it", config)
    CHECKS[kind]("it", config)
    with torch.device("meta"):
        published = tensors(getattr(diffusers, config["_class_name"]).from_config(config))
    assert {*known} <= published.keys()
    network = fill("it", empty_network("it", kind, config), published, torch.bfloat16)
    assert round(count(network), 1) == billions
    fewer = {key: values for key, values in published.items() if key != known[0]}
    with pytest.raises(ModelError, match=f"1 tensor is missing or .*: {known[0]}"):
        fill("it", empty_network("it", kind, config), fewer, torch.bfloat16)
    more = published | {"x_embedder.lora.weight": published[known[0]]}
    with pytest.raises(ModelError, match=r"unknown tensors: x_embedder\.lora\.weight"):
        fill("it", empty_network("it", kind, config), more, torch.bfloat16)


@pytest.mark.parametrize("names", [("shared.weight",), ("encoder.embed_tokens.weight",), ()])
def test_t5_is_read_under_one_name_of_its_words_or_both(names: tuple[str, ...]) -> None:
    from transformers import T5Config, T5EncoderModel

    check_values("it", T5_XXL)
    CHECKS["t5"]("it", T5_XXL)
    with torch.device("meta"):
        published = tensors(T5EncoderModel(T5Config(**T5_XXL)))
    words = {"shared.weight", "encoder.embed_tokens.weight"}
    assert words <= published.keys()
    kept = {key: x for key, x in published.items() if not names or key not in words or key in names}
    network = fill_t5("it", empty_network("it", "t5", T5_XXL), kept, torch.float16)
    assert round(count(network), 2) == 4.76
    assert network.shared.weight is network.encoder.embed_tokens.weight
    kinds = {key: p.dtype for key, p in network.named_parameters()}
    assert {key for key, kind in kinds.items() if kind == torch.float32} == {
        f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(24)
    }
    wordless = {key: x for key, x in published.items() if key not in words}
    with pytest.raises(ModelError, match=r"have the wrong shape, such as encoder\.embed_tokens\.weight"):
        fill_t5("it", empty_network("it", "t5", T5_XXL), wordless, torch.float16)


@pytest.mark.parametrize(("config", "billions"), [(QWEN3_4B, 4.02), (QWEN3_8B, 7.57)])
def test_qwen3_is_read_without_its_last_layer(config: dict[str, Any], billions: float) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    check_values("it", config)
    CHECKS["qwen3"]("it", config)
    with torch.device("meta"):
        published = tensors(Qwen3ForCausalLM(Qwen3Config(**config)))
    network = empty_network("it", "qwen3", config)
    fill_language_model("it", "qwen3", network, published, torch.bfloat16)
    assert round(count(network), 2) == billions
    assert network.rotary_emb.inv_freq.device.type == "cpu"
    wanted = 1e6 ** -(torch.arange(0, 128, 2) / 128)
    assert torch.allclose(network.rotary_emb.inv_freq, wanted)


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_qwen2_5_vl_is_read_without_what_sees_and_writes(prefix: str) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    check_values("it", QWEN_VL)
    CHECKS["qwen2_5_vl"]("it", QWEN_VL)
    with torch.device("meta"):
        whole = tensors(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**QWEN_VL)))
    published = {key.replace("model.language_model.", prefix): x for key, x in whole.items()}
    if prefix == "model.":  # of older versions
        published = {key.replace("model.visual.", "visual."): x for key, x in published.items()}
    assert {"lm_head.weight", f"{prefix}layers.27.mlp.up_proj.weight"} <= published.keys()
    assert any("visual." in key for key in published)
    network = empty_network("it", "qwen2_5_vl", QWEN_VL)
    fill_language_model("it", "qwen2_5_vl", network, published, torch.bfloat16)
    assert round(count(network), 2) == 7.07
    assert network.rotary_emb.inv_freq.device.type == "cpu"
    published["model.audio.weight"] = published["lm_head.weight"]
    with pytest.raises(ModelError, match=r"unknown tensors: audio\.weight"):
        fill_language_model("it", "qwen2_5_vl", network, published, torch.bfloat16)


@pytest.mark.parametrize(
    ("kind", "config", "known"),
    [
        ("flux2_vae", FLUX2_VAE, "bn.running_var"),
        ("qwen_vae", QWEN_VAE, "decoder.up_blocks.0.upsamplers.0.time_conv.weight"),
    ],
)
def test_every_tensor_of_a_published_vae_has_its_place(kind: str, config: dict[str, Any], known: str) -> None:
    import diffusers

    check_values("it", config)
    CHECKS[kind]("it", config)
    with torch.device("meta"):
        published = tensors(getattr(diffusers, config["_class_name"]).from_config(config))
    published["bn.num_batches_tracked"] = torch.zeros(())
    if kind == "qwen_vae":
        del published["bn.num_batches_tracked"]
    assert known in published
    fill("it", empty_network("it", kind, config), published, torch.float32)
    del published[known]
    with pytest.raises(ModelError, match=f"1 tensor is missing or has the wrong shape: {known}"):
        fill("it", empty_network("it", kind, config), published, torch.float32)


def test_the_second_clip_has_its_projection() -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    check_text("it", CLIP_G)
    with torch.device("meta"):
        published = tensors(CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G)))
    network = empty_network("it", "text_encoder_2", CLIP_G)
    fill("it", network, for_text_encoder(network, published), torch.bfloat16)
    assert round(count(network), 3) == 0.695
