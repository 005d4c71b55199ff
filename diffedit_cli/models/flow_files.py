"""A flow-matching model in files: its transformer with separate text encoders and a VAE, or all in one file.

A file holds no config. That of a transformer and of T5 follows from the shapes of the tensors; those of CLIP
and of the VAEs are in the package, as CLIP's vocabulary is. T5's is looked for elsewhere (t5_words.py). For a
language model a checkpoint gives all configs and the tokenizer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .bounds import check_values
from .checks import CHECKS
from .clip_tokenizer import clip_tokenizer
from .families import BY_KIND, Family, Suited, family_of, index_beside, refuse_other_tasks, suited
from .flow_schedule import CLASS, read_flow
from .layout import Layout, check_layout
from .memory import exceeds, loaded, without_weights
from .networks import empty_network, read_config, read_json, reading, with_computed
from .parts import Parts, check_fit, fill_encoder, load_tokenizer
from .single_file import CONFIGS
from .t5_words import T5_MARK, load_t5_words, t5_config, t5_name
from .transformer_file import TRANSFORMERS, config_of, kind_of_transformer, told_by, with_own_names
from .vae import OF_A_CHECKPOINT, fill_vae
from .weights import State, fill, read_network, refuse_unknown, shapes_in

PREFIXES = re.compile(r"(model\.diffusion_model|first_stage_model|vae|text_encoders\.\w+\.transformer)\.")
OF_VAE = (OF_A_CHECKPOINT, "vae.")
TABLE = "embeddings.token_embedding.weight"
WITH_FOLDER = "Name the folder or the Hub id of a whole checkpoint of its family with --text-encoder."
CLIPS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}  # as the configs of XL call them
ENCODERS = {  # by the kind of the transformer: which part each text encoder is
    "sd3": {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"},
    "flux": {"clip_l": "text_encoder", "t5": "text_encoder_2"},
    "chroma": {"t5": "text_encoder"},
    "zimage": {"qwen3": "text_encoder"},
    "flux2": {"qwen3": "text_encoder"},
    "qwenimage": {"qwen2_5_vl": "text_encoder"},
}
FILE_NAMES = {"t5": "t5xxl", "qwen3": "qwen_3_4b", "qwen2_5_vl": "qwen_2.5_vl_7b"}
LANGUAGES = {  # a tensor of each language model
    "qwen3": re.compile(r"(model\.)?layers\.0\.self_attn\.q_norm\.weight$"),
    "qwen2_5_vl": re.compile(r"(model\.)?(language_model\.)?layers\.0\.self_attn\.q_proj\.bias$"),
}
WITH_LANGUAGE = {  # by the kind of the transformer: checkpoints that have the small files
    "zimage": "zimage-turbo, Tongyi-MAI/Z-Image",
    "flux2": "flux2-klein, black-forest-labs/FLUX.2-klein-9B",
    "qwenimage": "qwen-image",
}
SCHEDULERS: dict[str, dict[str, Any]] = {  # as published
    "sd3": {"shift": 3.0},
    "flux-schnell": {"shift": 1.0},
    "flux-dev": {"shift": 3.0, "use_dynamic_shifting": True},
    "chroma": {"shift": 3.0},
}
VAES = {"sd3": "sd3", "flux": "flux", "chroma": "flux"}  # folders of the package's configs


@dataclass(frozen=True)
class Piece:
    """The tensors of one network in a file. name: of the file. prefix: of the names in it. shapes: by the
    names in the network."""

    name: str
    path: Path
    prefix: str
    shapes: Mapping[str, torch.Size]

    @property
    def what(self) -> str:
        """The network, for people."""
        return f"{self.name} ({self.prefix.rstrip('.')})" if self.prefix else self.name

    def read(self) -> State:
        """Its weights."""
        found = read_network(self.name, self.path)
        return {name: x for key, x in found.items() if (name := own_name(key, self.prefix))}


@dataclass(frozen=True)
class FlowFiles:
    """Where the networks of a model in files are. encoders: by the keys of ENCODERS. rest: a checkpoint that
    provides the configs and the tokenizer, for a family whose files do not contain them."""

    name: str
    kind: str
    transformer: Piece
    encoders: Mapping[str, Piece]
    vae: Piece | None
    rest: Layout | None = None

    @property
    def family(self) -> Family:
        return BY_KIND[self.kind]

    @property
    def suited(self) -> Suited:
        index = index_beside(self.name, None if self.rest is None else self.rest.folder)
        return suited(self.name, self.family, told_by(self.transformer.shapes), index)

    @property
    def scheduler(self) -> dict[str, Any]:
        if self.rest is not None:
            return self.rest.configs["scheduler"]
        is_dev = told_by(self.transformer.shapes)["guidance_embeds"]
        key = self.kind if self.kind != "flux" else "flux-dev" if is_dev else "flux-schnell"
        return {"_class_name": CLASS, **SCHEDULERS[key]}

    @property
    def lacking(self) -> list[str]:
        """The text encoders that are missing but required."""
        wanted, optional = ENCODERS[self.kind], self.family.optional
        return [one for one, part in wanted.items() if one not in self.encoders and part != optional]


def own_name(key: str, prefix: str) -> str:
    """A tensor's name in its network; nothing: it belongs to another one."""
    return t5_name(key.removeprefix(prefix)) if key.startswith(prefix) else ""


def pieces_in(name: str, path: Path) -> list[Piece]:
    """The networks in a file. ModelError: there are other tensors."""
    shapes = shapes_in(path)
    prefixes = sorted({match[0] for key in shapes if (match := PREFIXES.match(key))})
    if prefixes:
        refuse_unknown(name, [key for key in shapes if not PREFIXES.match(key)])
    return [
        Piece(name, path, prefix, {own: x for key, x in shapes.items() if (own := own_name(key, prefix))})
        for prefix in prefixes or [""]
    ]


def find_files(name: str, path: Path, texts: Sequence[tuple[str, Path]] = ()) -> FlowFiles | None:
    """What a transformer's file holds, and each text encoder of other files; None: it holds no transformer.

    texts: the names and the places of these files. Their text encoders take precedence over those of the
    first file. ModelError: its name says that it is for another task.
    """
    kind = kind_of_transformer(shapes_in(path))
    if not kind:
        return None
    refuse_other_tasks(name, BY_KIND[kind])
    own = pieces_in(name, path)
    transformer = next(piece for piece in own if kind_of_transformer(piece.shapes))
    wanted = ENCODERS[kind]
    given = [piece for file, place in texts for piece in pieces_in(file, place)]
    encoders: dict[str, Piece] = {}
    for piece in [piece for piece in own if piece is not transformer] + given:
        sort = kind_of_encoder(piece)
        if sort in wanted:
            before = encoders.get(sort)
            if before is not None and before.path != path:
                raise ModelError(f"{before.name} and {piece.name} are both {sort}.", "Give one of them.")
            encoders[sort] = piece
    for file, _ in texts:
        if not any(piece.name == file for piece in encoders.values()):
            raise ModelError(
                f"{file} holds no text encoder of {TRANSFORMERS[kind]}.", f"It takes {listed(wanted, kind)}."
            )
    vaes = [piece for piece in (*own, *given) if piece.prefix in OF_VAE]
    return FlowFiles(name, kind, transformer, encoders, vaes[0] if vaes else None)


def kind_of_encoder(piece: Piece) -> str:
    """A key of ENCODERS; nothing for another network."""
    if T5_MARK in piece.shapes:
        return "t5"
    for kind, mark in LANGUAGES.items():
        if any(mark.match(key) for key in piece.shapes):
            return kind
    widths = {shape[-1] for key, shape in piece.shapes.items() if key.endswith(TABLE) and shape}
    for kind, part in CLIPS.items():
        if widths == {read_json(CONFIGS / "sdxl" / part / "config.json")["hidden_size"]}:
            return kind
    return ""


def check_whole(files: FlowFiles, *, has_own_vae: bool) -> None:
    """ModelError for files that do not make up a model. has_own_vae: no separate VAE is given."""
    if not files.encoders:
        what = f"{files.name} is a {TRANSFORMERS[files.kind]} transformer."
        wanted = ENCODERS[files.kind]
        as_files = "as files, with the flag repeated" if len(wanted) > 1 else "as a file"
        raise ModelError(what, f"{WITH_FOLDER} Or give {listed(wanted, files.kind)} {as_files}.")
    if files.lacking:
        raise ModelError(
            f"{files.name} also needs {listed(files.lacking, files.kind)}.",
            "Give each with --text-encoder, repeated.",
        )
    if has_own_vae and files.vae is None:
        raise ModelError(f"There is no VAE in {files.name}.", "Give one with --vae.")


def listed(encoders: Sequence[str] | Mapping[str, str], kind: str) -> str:
    """The usual names of the files of these text encoders, for a transformer of this kind."""
    names = FILE_NAMES | ({"qwen3": "qwen_3_4b or qwen_3_8b"} if kind == "flux2" else {})
    return " and ".join(names.get(one, one) for one in encoders)


def with_rest(files: FlowFiles, folders: Sequence[tuple[str, Path]]) -> FlowFiles:
    """Files with a language model, and a checkpoint's configs. folders: names of what is given, and where it
    is."""
    needs = f"{files.name} also needs the small files of its checkpoint: configs and tokenizer."
    if len(folders) != 1 or family_of(*folders[0]) is not files.family:
        raise ModelError(needs, f"Name {WITH_LANGUAGE[files.kind]} or a folder with another --text-encoder.")
    return replace(files, rest=check_layout(*folders[0], without=files.family.kinds))


def load_files(
    files: FlowFiles,
    words: Path | None,
    dtype: torch.dtype,
    *,
    has_own_vae: bool = True,
    room: int | None = None,
    by_turns: bool = False,
) -> Parts:
    """The parts of a model in files. words: of T5 (t5_words.py). has_own_vae: otherwise it has no weights.
    room, by_turns: see parts.load_folder."""
    pieces = [files.transformer, *files.encoders.values()]
    numbers = sum(x.numel() for piece in pieces for x in piece.shapes.values())
    load = partial(loaded, is_on_demand=by_turns and exceeds(numbers, dtype, room))
    encoders = {
        sort: load(partial(load_encoder, files, sort, dtype, room=room))
        for sort in ENCODERS[files.kind]
        if sort in files.encoders
    }
    parts = Parts(
        unet=load(partial(load_transformer, files, dtype, room=room)),
        vae=load_own_vae(files, is_filled=has_own_vae),
        text_encoders=[*encoders.values()],
        tokenizers=[tokenizer_for(files, sort, one, words) for sort, one in encoders.items()],
        schedule=read_flow(files.name, files.scheduler, files.family),
        family=files.family,
    )
    check_fit(files.name, parts)
    return parts


def load_encoder(files: FlowFiles, sort: str, dtype: torch.dtype, *, room: int | None = None) -> Any:
    """A text encoder. CLIP-L comes without a projection; that of SD3 then changes nothing."""
    piece, kind = files.encoders[sort], files.family.encoders[ENCODERS[files.kind][sort]]
    state = piece.read()
    if sort == "t5":
        with reading(piece.what):
            config = t5_config(piece.shapes)
        check_values(piece.what, config)
    elif files.rest is not None:
        config = files.rest.configs["text_encoder"]
    else:
        config = read_config(piece.name, CONFIGS / "sdxl" / CLIPS[sort])
    if sort == "clip_l" and kind == "text_encoder_2":
        state.setdefault("text_projection.weight", torch.eye(config["hidden_size"]))
    network = empty_network(piece.what, kind, config)
    return fill_encoder(piece.what, kind, network, state, dtype, room=room)


def tokenizer_for(files: FlowFiles, sort: str, encoder: Any, words: Path | None) -> Any:
    if sort == "clip_l":
        return clip_tokenizer()
    if sort == "clip_g":
        return clip_tokenizer("!")
    if files.rest is not None:
        folder = files.rest.folder / "tokenizer"
        return load_tokenizer(files.rest.name, folder, encoder, files.suited.longest)
    assert words is not None
    return load_t5_words(words, encoder, files.suited.longest)


def load_transformer(files: FlowFiles, dtype: torch.dtype, *, room: int | None = None) -> Any:
    piece, kind = files.transformer, files.kind
    state = with_own_names(piece.what, kind, piece.read())
    network = empty_network(piece.what, kind, transformer_config(files, state))
    return with_computed(kind, fill(piece.what, network, state, dtype, room=room))


def transformer_config(files: FlowFiles, state: State | None = None) -> dict[str, Any]:
    """The config of the transformer, checked. state: its tensors under the names of its network."""
    if files.rest is not None:
        return files.rest.configs["transformer"]
    what, kind = files.transformer.what, files.kind
    if state is None:
        with without_weights():
            state = with_own_names(what, kind, files.transformer.read())
    with reading(what):
        config = config_of(kind, {key: values.shape for key, values in state.items()})
    check_values(what, config)
    CHECKS[kind](what, config)
    return config


def vae_config(files: FlowFiles) -> dict[str, Any]:
    if files.rest is not None:
        return files.rest.configs["vae"]
    return read_config(files.name, CONFIGS / VAES[files.kind] / "vae", "flow_vae")


def load_own_vae(files: FlowFiles, *, is_filled: bool) -> Any:
    config, kind = vae_config(files), files.family.vae
    if files.vae is None or not is_filled:
        return empty_network(files.name, kind, config)
    return fill_vae(files.vae.what, kind, config, files.vae.read())
