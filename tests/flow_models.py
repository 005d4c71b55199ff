"""Tiny checkpoints of random weights that predict the velocity of a flow, in diffusers' layout."""

import json
from pathlib import Path
from typing import Any

import torch
from conftest import save_parts, tiny_text_encoder, tiny_tokenizer

SD3_SCHEDULER = {"shift": 3.0}  # of stabilityai/stable-diffusion-3-medium and of 3.5
DEV_SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}  # of black-forest-labs/FLUX.1-dev
SCHNELL_SCHEDULER = {"shift": 1.0}
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


def save_flow(folder: Path, parts: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    save_parts(folder, parts, {})
    (folder / "scheduler/scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler})
    )
    return folder
