"""The parts of a checkpoint, read from a folder in diffusers layout. No code in the folder is run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..core.types import FlowSchedule, Schedule
from ..errors import ModelError, SettingError
from ..settings import EditConfig, build
from .bounds import flat
from .families import Family, suited
from .flow_schedule import read_flow
from .layout import Layout
from .memory import exceeds, loaded
from .networks import FETCH_AGAIN, empty_network, native_cells, read_if_there, reading, with_computed
from .quantised import Quantised, QuantisedLayer
from .schedulers import read_schedule
from .spiece import t5_tokenizer
from .transformer_file import with_own_names
from .vae import fill_vae
from .weights import State, fill, plain, read_network, shapes_in

CARD = "diffedit.json"
# What a model can declare defaults for.
OWN = ("strength", "guidance_scale", "steps", "solver", "timestep_spacing", "inversion")
WORDS_OF_CARD = dict[str, list[str]]
QWENS = ("qwen3", "qwen2_5_vl_text")  # language models, by model_type
LEAST = 64  # tokens of a language model, whose request takes some
STACKED = (9, 18, 27)  # the layers of Qwen3 whose states FLUX.2 klein takes


@dataclass(frozen=True)
class Parts:
    """What a checkpoint consists of; the networks are frozen, on the CPU, and in evaluation mode.

    family: of a transformer, which then is in the place of the UNet. vae: in float32. text_encoders,
    tokenizers: one each, or XL's two, or those of the family. predicts_v: the UNet predicts v; else eps.
    has_zero_empty_prompt: the empty prompt stands for zeros. words: see `known_words`. own_defaults: see
    `read_defaults`, few_steps.py and families.py. phrases: the tokens that a learned word stands for.
    is_borrowed: the networks belong to a caller's pipeline, and must stay as they are.
    """

    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    schedule: Schedule | FlowSchedule
    predicts_v: bool = False
    has_zero_empty_prompt: bool = False
    words: WORDS_OF_CARD | None = None
    own_defaults: dict[str, Any] = field(default_factory=dict)
    phrases: dict[str, str] = field(default_factory=dict)
    is_borrowed: bool = False
    family: Family | None = None

    @property
    def is_xl(self) -> bool:
        return self.family is None and len(self.text_encoders) == 2

    @property
    def cells(self) -> int:
        """The native side in latent cells."""
        return native_cells(self.unet.config, self.is_xl or self.family is not None)


@dataclass(frozen=True)
class Rest:
    """The parts to combine with a UNet alone. name: of their source. vae, schedule: None if it has none."""

    name: str
    text_encoders: list[Any]
    tokenizers: list[Any]
    has_zero_empty_prompt: bool
    vae: Any = None
    schedule: Schedule | None = None
    predicts_v: bool = False

    def given_to(self, name: str, parts: Parts) -> Parts:
        """The checkpoint with these text encoders. ModelError where they do not fit."""
        parts = replace(
            parts,
            text_encoders=self.text_encoders,
            tokenizers=self.tokenizers,
            has_zero_empty_prompt=self.has_zero_empty_prompt,
        )
        check_fit(f"{name} with {self.name}", parts)
        return parts


def load_folder(
    layout: Layout, dtype: torch.dtype, *, room: int | None = None, by_turns: bool = False
) -> Parts:
    """Load every part of a checked folder, the weights as `dtype`. ModelError names the part that fails.

    room: see weights.fill. by_turns: networks that together need more than that are loaded on demand.
    """
    name, family, longest = layout.name, layout.family, 0
    if family is None:
        schedule, predicts_v = read_schedule(name, layout.configs["scheduler"])
    else:
        schedule, predicts_v = read_flow(name, layout.configs["scheduler"], family), False
        longest = suited(name, family, layout.configs["transformer"]).longest
    sizes = (shapes_in(path).values() for paths in layout.files.values() for path in paths)
    is_tight = by_turns and exceeds(sum(x.numel() for shapes in sizes for x in shapes), dtype, room)

    def load(part: str) -> Any:
        return loaded(partial(load_network, layout, part, dtype, room=room), is_on_demand=is_tight)

    encoders = [load(part) for part in layout.text_encoders]
    parts = Parts(
        unet=load(layout.networks[0]),
        vae=load_network(layout, "vae", torch.float32),
        text_encoders=encoders,
        tokenizers=[
            load_tokenizer(name, layout.folder / part, encoder, longest)
            for part, encoder in zip(layout.tokenizers, encoders, strict=True)
        ],
        schedule=schedule,
        predicts_v=predicts_v,
        has_zero_empty_prompt=layout.has_zero_empty_prompt,
        words=known_words(layout.folder),
        own_defaults=read_defaults(layout.folder),
        family=family,
    )
    check_fit(name, parts)
    return parts


def load_network(layout: Layout, part: str, dtype: torch.dtype, *, room: int | None = None) -> Any:
    """A network of a checked folder."""
    kind, first = layout.kinds[part], layout.files[part][0]
    what = f"{layout.name}/{part}" if first.is_relative_to(layout.folder) else first.name
    weights = read_network(what, *layout.files[part])
    if part == "vae":
        return fill_vae(what, kind, layout.configs[part], weights)
    network = empty_network(what, kind, layout.configs[part])
    if part == "transformer":
        weights = with_own_names(what, kind, weights)
    if part in ("unet", "transformer"):
        return with_computed(kind, fill(what, network, weights, dtype, room=room))
    return fill_encoder(what, kind, network, weights, dtype, room=room)


def fill_encoder(
    what: str, kind: str, network: Any, weights: State, dtype: torch.dtype, *, room: int | None = None
) -> Any:
    """A text encoder with these weights. kind: see networks.read_config. room: see `fill`; not for CLIP."""
    if kind == "t5":
        return fill_t5(what, network, weights, dtype, room=room)
    if kind in ("qwen3", "qwen2_5_vl"):
        return fill_language_model(what, kind, network, weights, dtype, room=room)
    return fill(what, network, for_text_encoder(network, plain(weights, dtype)), dtype)


def for_text_encoder(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's weights under the names of this transformers: since 5.6 CLIPTextModel is unwrapped."""
    plain = {key.removeprefix("text_model."): values for key, values in state.items()}
    if not hasattr(network, "text_model"):
        return plain
    return {key if key.startswith("text_projection") else f"text_model.{key}": x for key, x in plain.items()}


def fill_t5(
    what: str,
    network: Any,
    state: Mapping[str, Tensor | Quantised],
    dtype: torch.dtype,
    *,
    room: int | None = None,
) -> Any:
    """T5's encoder with these weights. A file holds its table of words under one name, or under both.

    In float16 the last products of the feed-forward layers overflow, so these weights stay in float32, as
    transformers has them.
    """
    names = "shared.weight", "encoder.embed_tokens.weight"
    if found := {name: state[name] for name in names if name in state}:
        words = next(iter(plain(found, dtype).values()))
        state = {**state, **dict.fromkeys(names, words)}
    network = fill(what, network, state, dtype, room=room)
    network.encoder.embed_tokens = network.shared
    if dtype == torch.float16:
        for block in network.encoder.block:
            last = block.layer[-1].DenseReluDense.wo.float()
            if isinstance(last, QuantisedLayer):
                last.dtype = torch.float32
    return network


def fill_language_model(
    what: str,
    kind: str,
    network: Any,
    state: Mapping[str, Tensor | Quantised],
    dtype: torch.dtype,
    *,
    room: int | None = None,
) -> Any:
    """Qwen3, or the language model of Qwen2.5-VL, with these weights; what reads pictures and what writes is
    left out (see weights.HARMLESS)."""
    own = {re.sub(r"^model\.(language_model\.)?", "", key): values for key, values in state.items()}
    return with_computed(kind, fill(what, network, own, dtype, room=room))


def load_tokenizer(name: str, folder: Path, encoder: Any, longest: int = 0) -> Any:
    """The tokenizer of CLIP, with the encoder's window where the folder names none, or of T5 or Qwen3.

    longest: see families.Suited.
    """
    from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

    kinds: dict[str, Any] = {"t5": T5Tokenizer, **dict.fromkeys(QWENS, Qwen2Tokenizer)}
    kind = kinds.get(encoder.config.model_type)
    what = f"{name}/{folder.name}"
    with reading(what):
        is_spiece = kind is T5Tokenizer and not (folder / "tokenizer.json").is_file()
        tokenizer: Any = (
            t5_tokenizer(folder)
            if is_spiece
            else (kind or CLIPTokenizer).from_pretrained(folder, local_files_only=True)
        )
    return fitted(what, tokenizer, encoder, longest if kind else encoder.config.max_position_embeddings)


def fitted(what: str, tokenizer: Any, encoder: Any, window: int) -> Any:
    """A tokenizer with this window at most. ModelError where it is invalid, or does not fit its encoder."""
    with reading(what):
        tokenizer.model_max_length = min(int(tokenizer.model_max_length), window)
        tokenizer.padding_side = "right"  # as embed takes it; the tokens that fill up do not count
        least = LEAST if encoder.config.model_type in QWENS else 2
        if tokenizer.model_max_length < least:
            raise ModelError(f"{what} is invalid: model_max_length is too small.", FETCH_AGAIN)
        highest = max(tokenizer.get_vocab().values())
        tokenizer(["a", ""], padding="max_length", max_length=window)  # raises what a run would
    if highest >= encoder.config.vocab_size:
        raise ModelError(
            f"{what} has more tokens than its text encoder.", "The two belong to different checkpoints."
        )
    return tokenizer


def check_fit(name: str, parts: Parts) -> None:
    """ModelError where the networks of a checkpoint do not fit each other."""
    unet, vae = parts.unet.config, parts.vae.config
    texts = [encoder.config for encoder in parts.text_encoders]
    if parts.family is not None:
        return check_widths(name, parts, parts.family)
    width = sum(text.hidden_size for text in texts)
    if {*flat([unet.cross_attention_dim])} != {width}:
        raise ModelError(
            f"{name} does not fit together: the text is {width} wide, and its UNet takes "
            f"{unet.cross_attention_dim}.",
            "Its parts come from different checkpoints.",
        )
    channels = {unet.in_channels, unet.out_channels, vae.latent_channels}
    if len(channels) > 1:
        raise ModelError(
            f"{name} does not fit together: its UNet and its VAE have different numbers of channels.",
            "Its parts come from different checkpoints.",
        )
    if parts.is_xl:
        wanted = texts[1].projection_dim + 6 * (unet.addition_time_embed_dim or 0)
        if unet.projection_class_embeddings_input_dim != wanted:
            raise ModelError(
                f"{name} does not fit together: its second text encoder is made for another UNet.",
                "Its parts come from different checkpoints.",
            )


def check_widths(name: str, parts: Parts, family: Family) -> None:
    """`check_fit` for a transformer: the widths of its texts, and the channels of its latents."""
    config, own = parts.unet.config, "Its parts come from different checkpoints."
    texts = [encoder.config for encoder in parts.text_encoders]
    if not takes_texts(family.key, config, texts):
        raise ModelError(
            f"{name} does not fit together: its text encoders are made for another network.", own
        )
    channels = parts.vae.config.get("latent_channels") or parts.vae.config["z_dim"]
    if config.in_channels != channels * family.packed:
        raise ModelError(f"{name} does not fit together: its VAE is made for another network.", own)


def takes_texts(key: str, config: Any, texts: Sequence[Any]) -> bool:
    """Whether a transformer of this family takes what text encoders of these configs make."""
    if key == "zimage":
        return texts[0].hidden_size == config.cap_feat_dim
    if key == "qwenimage":
        return texts[0].hidden_size == config.joint_attention_dim
    if key == "flux2":
        is_deep = texts[0].num_hidden_layers > max(STACKED)
        return is_deep and len(STACKED) * texts[0].hidden_size == config.joint_attention_dim
    clips = [text for text in texts if text.model_type != "t5"]
    if any(text.d_model != config.joint_attention_dim for text in texts if text.model_type == "t5"):
        return False
    if key == "sd3":
        pooled, width = sum(text.projection_dim for text in clips), sum(text.hidden_size for text in clips)
        return pooled == config.pooled_projection_dim and width <= config.joint_attention_dim
    return all(text.hidden_size == config.pooled_projection_dim for text in clips)


def known_words(folder: Path) -> WORDS_OF_CARD | None:
    """The vocabulary that a small model declares in diffedit.json: {group: words}. None: not declared."""
    words = read_card(folder).get("words")
    if words is None:
        return None
    if not isinstance(words, dict) or not all(
        isinstance(group, list) and all(isinstance(word, str) for word in group) for group in words.values()
    ):
        raise ModelError(f"{folder / CARD} is invalid: its words are not lists of words.", "Mend it.")
    return cast(WORDS_OF_CARD, words)


def read_defaults(folder: Path) -> dict[str, Any]:
    """The defaults that a model declares in diffedit.json for itself, {key of OWN: value}; checked."""
    declared = read_card(folder).get("defaults", {})
    try:
        if not isinstance(declared, dict):
            raise SettingError("its defaults are not an object")
        if unknown := {*declared} - {*OWN}:
            raise SettingError(f"it has a default for {min(unknown)}, and can have {', '.join(OWN)}")
        build(EditConfig, declared)
    except SettingError as error:
        why = error.message.rstrip(".")
        raise ModelError(f"{folder / CARD} is invalid: {why}.", error.hint or "Mend it.") from error
    return declared


def read_card(folder: Path) -> dict[str, Any]:
    """What a model says of itself in diffedit.json: words, defaults, both or neither."""
    return read_if_there(folder / CARD)
