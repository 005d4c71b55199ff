"""T5 in a file: GGUF's names for its tensors, its config from their shapes, and its tokenizer, which is
elsewhere.

Only a GGUF file holds one. Otherwise it comes from another --text-encoder, or from the Hub's cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from . import spiece
from .families import family_of
from .gguf_file import GGUF, facts_of
from .layout import check_tokenizer, tokenizer_of
from .networks import read_json, reading
from .parts import fitted, load_tokenizer
from .presets import PRESETS
from .sources import find_hub_id, find_in_cache

T5_MARK = "encoder.block.0.layer.0.SelfAttention.q.weight"
IN_GGUF = {  # llama.cpp's names
    "token_embd.": "shared.",
    "enc.output_norm.": "encoder.final_layer_norm.",
    "enc.blk.": "encoder.block.",
    ".attn_q.": ".layer.0.SelfAttention.q.",
    ".attn_k.": ".layer.0.SelfAttention.k.",
    ".attn_v.": ".layer.0.SelfAttention.v.",
    ".attn_o.": ".layer.0.SelfAttention.o.",
    ".attn_rel_b.": ".layer.0.SelfAttention.relative_attention_bias.",
    ".attn_norm.": ".layer.0.layer_norm.",
    ".ffn_gate.": ".layer.1.DenseReluDense.wi_0.",
    ".ffn_up.": ".layer.1.DenseReluDense.wi_1.",
    ".ffn_down.": ".layer.1.DenseReluDense.wo.",
    ".ffn_norm.": ".layer.1.layer_norm.",
}
SORT, TOKENS, SCORES, NORMALISER = (
    f"tokenizer.ggml.{name}" for name in ("model", "tokens", "scores", "precompiled_charsmap")
)


def t5_name(key: str) -> str:
    """The name that transformers gives to a tensor of T5, which may have that of GGUF."""
    if key.startswith(("enc.", "token_embd.")):
        for theirs, own in IN_GGUF.items():
            key = key.replace(theirs, own)
    return key


def t5_config(shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """The config of T5 1.1 by the shapes of its tensors. KeyError: one is missing."""
    inside = "encoder.block.0.layer.0.SelfAttention"
    words = shapes.get("shared.weight") or shapes["encoder.embed_tokens.weight"]
    buckets, heads = shapes[f"{inside}.relative_attention_bias.weight"]
    return {
        "model_type": "t5",
        "vocab_size": words[0],
        "d_model": words[1],
        "d_kv": shapes[f"{inside}.q.weight"][0] // heads,
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        "num_layers": len({key.split(".")[2] for key in shapes if key.startswith("encoder.block.")}),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }


def find_t5_words(name: str, file: Path, given: Sequence[tuple[str, Path]]) -> Path:
    """The folder of the tokenizer for T5 in a file called `name`, or that file if it holds one.

    given: names of checkpoints or folders, which go before, and where they are.
    """
    for one, folder in given:
        return words_in(one, folder)
    if file.suffix == GGUF and facts_of(file).get(SORT) == "t5":
        return file
    for preset in (name for name in PRESETS if PRESETS[name].suited):
        for known_as in (preset, PRESETS[preset].repository):
            found = find_in_cache(replace(find_hub_id(known_as, None, None), needs="words"))
            if found is not None and (place := t5_folder(found.path)):
                return place
    raise ModelError(
        f"{name} holds T5 without its tokenizer.",
        "Name a checkpoint that has it with another --text-encoder, such as flux-schnell, of which only the "
        "tokenizer is fetched, or the folder comfy/text_encoders/t5_tokenizer of ComfyUI.",
    )


def words_in(name: str, folder: Path) -> Path:
    """The folder of T5's tokenizer in a checkpoint, or the folder itself. ModelError: it is in neither."""
    place = t5_folder(folder)
    if place is None:
        raise ModelError(
            f"{name} has no tokenizer of T5.",
            "Name one of FLUX.1, Chroma or SD3 with T5, or its tokenizer.",
        )
    check_tokenizer(name, place)
    return place


def t5_folder(folder: Path) -> Path | None:
    family = family_of(folder.name, folder)
    parts = family.encoders.items() if family else ()
    inside = [folder / tokenizer_of(part) for part, kind in parts if kind == "t5"]
    for place in (*inside, folder):
        file = place / "tokenizer.json"
        model = read_json(file).get("model") if file.is_file() else None
        is_unigram = isinstance(model, dict) and model.get("type") == "Unigram"
        if is_unigram or (not file.is_file() and (place / spiece.FILE).is_file()):
            return place
    return None


def load_t5_words(words: Path, encoder: Any, longest: int) -> Any:
    """The tokenizer that `find_t5_words` found. longest: the tokens that T5 gets."""
    if words.suffix != GGUF:
        return load_tokenizer(words.parent.name, words, encoder, longest)
    from transformers import T5Tokenizer

    facts = facts_of(words)
    with reading(words.name):
        pieces = list(zip(facts[TOKENS], facts[SCORES], strict=True))
        normaliser = bytes(facts.get(NORMALISER, ()))
        tokenizer = T5Tokenizer(
            vocab=pieces, extra_ids=0, _spm_precompiled_charsmap=normaliser or None, model_max_length=longest
        )
    return fitted(words.name, tokenizer, encoder, longest)
