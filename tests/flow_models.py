"""Tiny checkpoints of random weights that predict the velocity of a flow, in diffusers' layout."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from conftest import save_parts, tiny_text_encoder, tiny_tokenizer

SD3_SCHEDULER = {"shift": 3.0}  # of stabilityai/stable-diffusion-3-medium and of 3.5
DEV_SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}  # of black-forest-labs/FLUX.1-dev
SCHNELL_SCHEDULER = {"shift": 1.0}
CHROMA_SCHEDULER = {"shift": 3.0}  # of lodestones/Chroma1-HD
QWEN_SCHEDULER = {  # of Qwen/Qwen-Image
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "use_dynamic_shifting": True,
}
T5_WINDOW = 40


def t5_tokenizer() -> Any:
    """Letters, each a token."""
    from transformers import T5Tokenizer

    words = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *"abcdefghijklmnopqrstuvwxyz ,."]
    return T5Tokenizer(
        vocab=[(word, -float(i > 2)) for i, word in enumerate(words)], extra_ids=0, model_max_length=T5_WINDOW
    )


def t5_encoder(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=40,
            d_model=width,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def flow_vae(**config: Any) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    usual = dict(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return AutoencoderKL(**{**usual, **config})


def sd3_transformer(**config: Any) -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    usual = dict(
        sample_size=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=24 + 40,
        pos_embed_max_size=24,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    return lively(SD3Transformer2DModel(**{**usual, **config}))


def flux_transformer(**config: Any) -> Any:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    usual = dict(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return lively(FluxTransformer2DModel(**{**usual, **config}))


def lively(transformer: Any) -> Any:
    """With a last layer that lets what comes in be seen: as it is made, it predicts next to nothing."""
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
    return transformer


def sd3_parts(*, has_t5: bool = True, **config: Any) -> dict[str, Any]:
    from transformers import CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    parts = {
        "transformer": sd3_transformer(**config),
        "vae": flow_vae(),
        "text_encoder": tiny_text_encoder(CLIPTextModelWithProjection, tokenizer, projection_dim=24),
        "text_encoder_2": tiny_text_encoder(
            CLIPTextModelWithProjection, tokenizer, projection_dim=40, hidden_act="gelu"
        ),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
    }
    return parts | ({"text_encoder_3": t5_encoder(64), "tokenizer_3": t5_tokenizer()} if has_t5 else {})


def flux_parts(**config: Any) -> dict[str, Any]:
    from transformers import CLIPTextModel

    tokenizer = tiny_tokenizer()
    return {
        "transformer": flux_transformer(**config),
        "vae": flow_vae(scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": tiny_text_encoder(CLIPTextModel, tokenizer),
        "text_encoder_2": t5_encoder(64),
        "tokenizer": tokenizer,
        "tokenizer_2": t5_tokenizer(),
    }


def chroma_parts(**config: Any) -> dict[str, Any]:
    from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel

    usual = dict(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed`", FutureWarning)  # diffusers' own
        transformer = ChromaTransformer2DModel(**{**usual, **config})
    return {
        "transformer": lively(transformer),
        "vae": flow_vae(scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": t5_encoder(64),
        "tokenizer": t5_tokenizer(),
    }


def klein_parts(**config: Any) -> dict[str, Any]:
    from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

    usual = dict(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 24,
        axes_dims_rope=(4, 4, 4, 4),
        timestep_guidance_channels=16,
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    torch.nn.init.normal_(vae.bn.running_mean, std=0.1)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2)
    return {
        "transformer": lively(Flux2Transformer2DModel(**{**usual, **config})),
        "vae": vae,
        "text_encoder": qwen3(num_hidden_layers=28),
        "tokenizer": qwen_tokenizer(),
    }


def qwen_tokenizer() -> Any:
    """Bytes, each a token, and the marks of a chat."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (  # that of Qwen3, as far as one question goes
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content "
        "+ '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    )
    return tokenizer


def qwen3(**config: Any) -> Any:
    from transformers import Qwen3Config, Qwen3Model

    usual = dict(
        vocab_size=300,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=256,
        eos_token_id=256,
    )
    return Qwen3Model(Qwen3Config(**{**usual, **config}))


def zimage_parts(**config: Any) -> dict[str, Any]:
    from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

    usual = dict(
        dim=64,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[8, 12, 12],
        axes_lens=[600, 64, 64],
    )
    transformer = ZImageTransformer2DModel(**{**usual, **config})
    for name, weight in transformer.named_parameters():  # some are made as zeros
        if name.endswith("pad_token") or not bool(weight.any()):
            torch.nn.init.normal_(weight, std=0.1)
    vae = flow_vae(scaling_factor=0.3611, shift_factor=0.1159)
    return {"transformer": transformer, "vae": vae, "text_encoder": qwen3(), "tokenizer": qwen_tokenizer()}


def qwen_vl() -> Any:
    """All of Qwen2.5-VL, also what reads pictures and what writes."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = dict(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        bos_token_id=256,
        eos_token_id=256,
    )
    vision = dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def qwen_image_parts(**config: Any) -> dict[str, Any]:
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

    usual = dict(
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return {
        "transformer": lively(QwenImageTransformer2DModel(**{**usual, **config})),
        "vae": AutoencoderKLQwenImage(
            base_dim=8, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False]
        ),
        "text_encoder": qwen_vl(),
        "tokenizer": qwen_tokenizer(),
    }


def save_flow(folder: Path, parts: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    save_parts(folder, parts, {})
    (folder / "scheduler/scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler})
    )
    return folder
