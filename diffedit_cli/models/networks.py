"""Networks without weights, made from configs that are checked first.

A config is an untrusted file. Only the keys that a network's constructor takes reach it, and nothing that
names code, a kernel or another file does.
"""

import inspect
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import MemoryShort, ModelError, is_shortage
from .bounds import check_values
from .checks import CHECKS, CLASSES, check_text, mrope_section

FETCH_AGAIN = "A file may be missing, truncated or of another kind; fetch it again."
TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
    "num_attention_heads", "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout",
    "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
T5_KEYS = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "dropout_rate", "layer_norm_epsilon", "feed_forward_proj",
    "pad_token_id", "eos_token_id",
)  # fmt: skip
LANGUAGE_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "attention_bias", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


WITH_PICTURES = ("clip", "qwen2_5_vl")  # models whose text encoder is a part of them


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelError if it is missing or spoilt."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}.", "Fetch it again.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is invalid: {first_sentence(error)}", "Fetch it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is invalid: it holds no settings.", "Fetch it again.")
    return cast(dict[str, Any], content)


def read_if_there(path: Path) -> dict[str, Any]:
    """As `read_json`; nothing where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_config(name: str, folder: Path, kind: str = "") -> dict[str, Any]:
    """The config of one part, checked. name: of the checkpoint. Raises ModelError with the reason.

    kind: of the network: a key of CLASSES or CHECKS, text_encoder (CLIP) or text_encoder_2 (CLIP with a
    projection); if empty, what the folder is called.
    """
    part, config = folder.name, read_json(folder / "config.json")
    what = f"{name}/{part}"
    for key in ("auto_map", "quantization_config"):
        if config.get(key) is not None:
            why = "code of its own to be run" if key == "auto_map" else "a kind of quantisation"
            raise ModelError(
                f"{name} asks for {why} ({part}/config.json, {key}).",
                "That is never done; use a checkpoint without it.",
            )
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{what} is an adapter (adapter_config.json).", "Use a whole checkpoint.")
    if part.startswith("text_encoder") and config.get("model_type") in WITH_PICTURES:
        whole, config = config, config.get("text_config", config)
        if not isinstance(config, dict) or (config is whole and whole["model_type"] == "clip"):
            raise ModelError(f"{what}/config.json is invalid: it has no text_config.", "Fetch it again.")
    check_values(f"{what}/config.json", config)
    CHECKS.get(kind or part, check_text)(name, config)
    return config


def empty_network(what: str, kind: str, config: Mapping[str, Any]) -> Any:
    """The network of a checked config, on the meta device, in evaluation mode.

    what: names it in an error. kind: as for `read_config`.
    """
    make = make_diffusers if kind in CLASSES else make_text_encoder
    with reading(what), torch.device("meta"):  # of this thread alone
        return make(kind, config).eval()


def with_computed(kind: str, network: Any) -> Any:
    """A filled network, with what it computes itself and no file holds, which is on the meta device till now.

    It stays in float32, whatever the network's dtype is.
    """
    if kind == "chroma":
        own = network.time_text_embed
        network.time_text_embed = type(own)(own.time_proj.num_channels, len(own.mod_proj))
    elif kind == "qwenimage":
        own = network.pos_embed
        network.pos_embed = type(own)(own.theta, own.axes_dim, own.scale_rope)
    elif kind in ("qwen3", "qwen2_5_vl"):
        network.rotary_emb = type(network.rotary_emb)(network.config)
    return network


def make_diffusers(kind: str, config: Mapping[str, Any]) -> Any:
    import diffusers

    make: Callable[..., Any] = getattr(diffusers, CLASSES[kind])
    taken = inspect.signature(make).parameters
    return make(**{key: value for key, value in config.items() if key in taken})


def make_text_encoder(kind: str, config: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if kind == "t5":
        from transformers import T5Config, T5EncoderModel

        return T5EncoderModel(T5Config(**{key: config[key] for key in T5_KEYS if key in config}))
    if kind in ("qwen3", "qwen2_5_vl"):
        return make_language_model(kind, config)
    own = {key: config[key] for key in TEXT_KEYS if key in config}
    own["attn_implementation"] = "sdpa"  # a config could name a kernel to be fetched and run
    checked: Any = CLIPTextConfig(**own)
    return (CLIPTextModelWithProjection if kind == "text_encoder_2" else CLIPTextModel)(checked)


def make_language_model(kind: str, config: Mapping[str, Any]) -> Any:
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel, Qwen3Config, Qwen3Model

    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": float(rope["rope_theta"])}
    plain = {key: config[key] for key in LANGUAGE_KEYS if key in config}
    if kind == "qwen3":
        return Qwen3Model(Qwen3Config(**plain, rope_parameters=parameters))
    plain.pop("head_dim", None)
    parameters["mrope_section"] = mrope_section(config)
    return Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**plain, rope_parameters=parameters))


def native_cells(config: Mapping[str, Any], is_large: bool) -> int:
    """The native side of a network in latent cells. A list has height and width; the shorter one counts.

    is_large: where the config does not tell, it is 128, as in XL and FLUX.
    """
    cells = config.get("sample_size")
    if isinstance(cells, (list, tuple)):
        return min(int(side) for side in cast(list[Any], cells))
    return int(cells) if cells else 128 if is_large else 64


@contextmanager
def reading(what: str) -> Generator[None, None, None]:
    """Turn whatever another library raises over a spoilt file into one sentence that names the file."""
    try:
        yield
    except (MemoryShort, ModelError):
        raise
    except Exception as error:
        if is_shortage(error):
            raise MemoryShort(
                f"There is too little memory to load {what}.", "Close other programs, or use a smaller model."
            ) from error
        raise ModelError(f"{what} cannot be loaded: {first_sentence(error)}", FETCH_AGAIN) from error


def first_sentence(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.split(". ")[0].rstrip(".") + "."
