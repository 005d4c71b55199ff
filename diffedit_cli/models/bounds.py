"""The allowed values of numbers in an untrusted config: a single one can keep a machine busy for hours."""

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError

MOST = {  # what one number can ask for: depth costs time, width costs memory
    "layers_per_block": 16,
    "transformer_layers_per_block": 32,
    "reverse_transformer_layers_per_block": 32,
    "num_hidden_layers": 100,
    "block_out_channels": 8192,
    "cross_attention_dim": 16384,
    "sample_size": 4096,
    "vocab_size": 10**6,
    "max_position_embeddings": 10**6,
    "attention_head_dim": 4096,
    "num_attention_heads": 4096,
    "norm_num_groups": 4096,
    "hidden_size": 16384,
    "intermediate_size": 65536,
    "projection_dim": 16384,
    "addition_time_embed_dim": 16384,
    "projection_class_embeddings_input_dim": 65536,
    "num_layers": 100,
    "num_single_layers": 100,
    "joint_attention_dim": 16384,
    "caption_projection_dim": 16384,
    "pooled_projection_dim": 16384,
    "pos_embed_max_size": 1024,
    "patch_size": 16,
    "in_channels": 4096,
    "axes_dims_rope": 1024,
    "d_model": 16384,
    "d_kv": 4096,
    "d_ff": 65536,
    "num_heads": 4096,
    "relative_attention_num_buckets": 1024,
    "relative_attention_max_distance": 10**4,
    "num_key_value_heads": 4096,
    "head_dim": 4096,
    "all_patch_size": 16,
    "all_f_patch_size": 16,
    "dim": 16384,
    "n_layers": 100,
    "n_refiner_layers": 100,
    "n_heads": 4096,
    "n_kv_heads": 4096,
    "cap_feat_dim": 16384,
    "axes_dims": 1024,
    "axes_lens": 10**4,
    "approximator_num_channels": 16384,
    "approximator_hidden_dim": 65536,
    "approximator_layers": 100,
    "decoder_block_out_channels": 8192,
    "base_dim": 4096,
    "z_dim": 4096,
    "dim_mult": 64,
    "num_res_blocks": 16,
    "timestep_guidance_channels": 16384,
}
MOST_OF_OTHERS = 10**5
LARGER = {"rope_theta": 10**8}
MOST_TOKENS = 10**6  # for the number of one
MOST_ENTRIES = 16  # of a list in a config
NUMBERS = (  # these are one number, where they stand
    "norm_eps", "layer_norm_eps", "dropout", "attention_dropout", "freq_shift", "mid_block_scale_factor",
    "resnet_out_scale_factor", "eos_token_id", "dropout_rate", "layer_norm_epsilon",
    "rms_norm_eps", "rope_theta", "t_scale",
)  # fmt: skip


def check_values(what: str, config: Mapping[str, Any]) -> None:
    """Refuse unbounded numbers and long lists: a single one can keep a machine busy for hours."""
    for key, value in config.items():
        parts = value if isinstance(value, list) else [value]
        usual = MOST_TOKENS if key.endswith("_token_id") else MOST_OF_OTHERS
        most = MOST.get(key, LARGER.get(key, usual))
        numbers = [part for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
        is_long = len(parts) > MOST_ENTRIES and bool(numbers)
        if is_long or not all(math.isfinite(n) and abs(n) <= most for n in numbers):
            raise ModelError(f"{what} is invalid: {key} is out of bounds.", "Fetch it again.")
        if key in NUMBERS and len(numbers) != 1:
            raise ModelError(f"{what} is invalid: {key} is not a number.", "Fetch it again.")
        if key in MOST and not all(is_whole(part) for part in flat(parts) if part is not None):
            raise ModelError(f"{what} is invalid: {key} is not a whole number.", "Fetch it again.")


def flat(values: list[Any]) -> list[Any]:
    """The values, with those of inner lists among them."""
    return [x for value in values for x in (value if isinstance(value, (list, tuple)) else [value])]


def is_whole(value: Any) -> bool:
    return type(value) is int and value > 0
