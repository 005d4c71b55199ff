"""Networks converted for OpenVINO in the user's cache: created once, found again, listed and removed.

A folder of the cache holds the networks and tokenizers of one checkpoint with its LoRAs, and, in about.json,
what else a run needs, so that neither diffusers nor transformers is imported. Its name is a hash of the
weights and of what else the conversion depends on.
"""

import gc
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.types import Report, Schedule
from ..errors import ModelError
from .addons import path_of, split
from .compiled import (
    REMOVE,
    OpenvinoNetwork,
    OpenvinoTextEncoder,
    OpenvinoUNet,
    OpenvinoVAE,
    import_openvino,
)
from .int8 import check_nncf, drawings, quantise
from .networks import TEXT_KEYS, read_json
from .parts import Parts
from .plain_tokenizer import PlainTokenizer
from .sources import Source, bytes_of, full_name, hash_of

FORMAT = 1  # of the folders: to be raised where other things are stored or they are read otherwise
ABOUT, UNET, ENCODER, DECODER = "about.json", "unet.xml", "vae_encoder.xml", "vae_decoder.xml"
TEXTS = ("text_encoder", "text_encoder_2")
LONGEST_WAIT = 1800.0  # seconds for another process that converts the same networks


@dataclass(frozen=True)
class Converted:
    """A folder of converted networks. model: the checkpoint's name, or its whole path. dtype: of the
    products, float32 or bfloat16; int8: those of the UNet. bytes: on disk. seconds: that it took."""

    model: str
    lora: tuple[str, ...]
    dtype: str
    openvino: str
    bytes: int
    seconds: float
    path: str


def cache_folder() -> Path:
    """Where converted networks are kept: the system's cache folder."""
    import platformdirs

    return platformdirs.user_cache_path("diffedit", appauthor=False) / "openvino"


def folders_for(
    source: Source, lora: Sequence[str], dtypes: Sequence[torch.dtype], apart: Sequence[Source] = ()
) -> dict[torch.dtype, Path]:
    """The folder of a checkpoint's converted networks for each dtype, whether it exists or not.

    apart: parts that do not come from the checkpoint itself.
    """
    weights = source.revision or hash_of(source.path)
    loras = [[hash_of(path_of(given)), split(given)[1]] for given in lora]
    facts = [FORMAT, version("openvino"), version("diffusers"), weights, source.variant, loras]
    facts += [one.revision or hash_of(one.path) for one in apart]
    found: dict[torch.dtype, Path] = {}
    for dtype in dtypes:
        digest = hashlib.sha256(json.dumps([*facts, str(dtype)]).encode()).hexdigest()
        found[dtype] = cache_folder() / f"{sort_of(source)}-{digest[:32]}"
    return found


def sort_of(source: Source) -> str:
    """What distinguishes most checkpoints without a hash, which takes seconds: the commit, or the size."""
    return source.revision or str(bytes_of(source.path))


def may_be_converted(source: Source) -> bool:
    """Whether a checkpoint of this commit, or of this size, was ever converted."""
    return any(cache_folder().glob(f"{sort_of(source)}-*/{ABOUT}"))


def is_there(folder: Path) -> bool:
    return (folder / ABOUT).is_file()


def read_parts(folder: Path, dtype: torch.dtype) -> Parts:
    """The converted checkpoint in a folder, but for what its own folder says. ModelError: it is invalid."""
    _, facts = read_about(folder)
    configs, own = facts["configs"], facts["schedule"]
    alphas = torch.tensor(own.pop("alphas_cumprod"), dtype=torch.float64)
    encoder, decoder = (OpenvinoNetwork(folder / name, dtype) for name in (ENCODER, DECODER))
    texts = [name for name in configs if name.startswith("text_encoder")]
    return Parts(
        unet=OpenvinoUNet(folder / UNET, dtype, configs["unet"]),
        vae=OpenvinoVAE(encoder, decoder, configs["vae"]),
        text_encoders=[OpenvinoTextEncoder(folder / f"{name}.xml", dtype, configs[name]) for name in texts],
        tokenizers=[PlainTokenizer(folder / f"{name}.json", **facts["tokenizers"][name]) for name in texts],
        schedule=Schedule(alphas_cumprod=alphas, **own),
        predicts_v=facts["predicts_v"],
        has_zero_empty_prompt=facts["has_zero_empty_prompt"],
    )


def convert(
    folder: Path,
    name: str,
    lora: Sequence[str],
    dtype: torch.dtype,
    load: Callable[[], Parts],
    report: Report,
) -> None:
    """Convert the networks that `load` returns in float32 into a folder, which appears when it is complete.

    Only one process converts; others wait for it. ModelError: the cache cannot be written.
    """
    from filelock import FileLock

    if dtype == torch.int8:
        check_nncf()
    part = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{part}.lock", timeout=LONGEST_WAIT):
            if is_there(folder):
                return
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
            part.mkdir()
            try:
                start, parts = time.perf_counter(), load()
                facts = facts_of(parts)
                write_networks(part, parts, dtype, report)
                seen = drawings(part / UNET, parts, report) if dtype == torch.int8 else []
                del parts
                if seen:
                    gc.collect()  # NNCF takes memory of its own
                    quantise(part / UNET, seen, report)
                about = Converted(
                    model=full_name(name),
                    lora=tuple(lora),
                    dtype=str(dtype).removeprefix("torch."),
                    openvino=version("openvino"),
                    bytes=0,
                    seconds=round(time.perf_counter() - start, 1),
                    path=str(folder),
                )
                (part / ABOUT).write_text(json.dumps({**asdict(about), "facts": facts}), "utf-8")
                os.replace(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"The converted networks cannot be stored in {folder.parent} ({error.strerror or error}).",
            "Check the free space and the permissions, or let torch run the model.",
        ) from error


def facts_of(parts: Parts) -> dict[str, Any]:
    """The facts about a checkpoint that are not in its networks, in plain values."""
    assert isinstance(parts.schedule, Schedule)
    names = [TEXTS[number] for number in range(len(parts.text_encoders))]
    encoders = zip(names, parts.text_encoders, strict=True)
    return {
        "configs": {
            "unet": dict(parts.unet.config),
            "vae": dict(parts.vae.config),
            **{name: {key: getattr(encoder.config, key) for key in TEXT_KEYS} for name, encoder in encoders},
        },
        "tokenizers": {
            name: {"model_max_length": tokenizer.model_max_length, "pad": tokenizer.pad_token_id}
            for name, tokenizer in zip(names, parts.tokenizers, strict=True)
        },
        "schedule": {**vars(parts.schedule), "alphas_cumprod": parts.schedule.alphas_cumprod.tolist()},
        "predicts_v": parts.predicts_v,
        "has_zero_empty_prompt": parts.has_zero_empty_prompt,
    }


class PlainUNet(nn.Module):
    """A UNet that takes and returns only tensors. more: the names of those that only some UNets take."""

    def __init__(self, unet: Any, more: Sequence[str]) -> None:
        super().__init__()
        self.unet, self.more = unet, more

    def forward(self, sample: Tensor, timestep: Tensor, tokens: Tensor, *values: Tensor) -> Tensor:
        more = dict(zip(self.more, values, strict=True))
        scale = more.pop("timestep_cond", None)
        return self.unet(
            sample, timestep, tokens, timestep_cond=scale, added_cond_kwargs=more, return_dict=False
        )[0]


class PlainTextEncoder(nn.Module):
    """A text encoder that returns its last layer's states, those of the layer before, and the pooled text."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        out = self.encoder(tokens, output_hidden_states=True)
        pooled = getattr(out, "text_embeds", None)
        return (out.last_hidden_state, out.hidden_states[-2], *([] if pooled is None else [pooled]))


def write_networks(folder: Path, parts: Parts, dtype: torch.dtype, report: Report) -> None:
    """Trace each network with torch and write it as OpenVINO's IR, with batch and sides left open.

    For bfloat16 and int8 the weights are stored as float16, which takes half the space of float32 and is more
    precise than bfloat16.
    """
    unet, vae = parts.unet, parts.vae
    levels, factor = len(unet.config.block_out_channels), 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = 2 * 2 ** (levels - 1), 3 * 2 ** (levels - 1)
    latents = torch.zeros(2, int(unet.config.in_channels), height, width)
    encoder = nn.Sequential(vae.encoder, vae.quant_conv or nn.Identity())
    decoder = nn.Sequential(vae.post_quant_conv or nn.Identity(), vae.decoder)
    more = example_inputs(parts)
    jobs: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = [
        (
            UNET,
            PlainUNet(unet, [*more]),
            (latents, torch.tensor([1, 2]), example_tokens(parts), *more.values()),
        ),
        (ENCODER, encoder, (torch.zeros(2, 3, factor * height, factor * width),)),
        (DECODER, decoder, (latents,)),
    ]
    for name, text, tokenizer in zip(TEXTS, parts.text_encoders, parts.tokenizers, strict=False):
        tokens = torch.tensor(
            tokenizer(["a", "b"], padding="max_length", max_length=tokenizer.model_max_length).input_ids
        )
        jobs.append((f"{name}.xml", PlainTextEncoder(text), (tokens,)))
        tokenizer.backend_tokenizer.save(str(folder / f"{name}.json"))
    for done, (name, network, inputs) in enumerate(jobs, 1):
        model = to_openvino(network, inputs)
        import_openvino().save_model(model, folder / name, compress_to_fp16=dtype != torch.float32)
        report("convert", done, len(jobs))


def example_tokens(parts: Parts) -> Tensor:
    """Two texts, as the UNet takes them."""
    texts = [encoder.config for encoder in parts.text_encoders]
    return torch.zeros(2, texts[0].max_position_embeddings, sum(text.hidden_size for text in texts))


def example_inputs(parts: Parts) -> dict[str, Tensor]:
    """What this UNet takes besides, for two samples, in the order of MORE_INPUTS."""
    found: dict[str, Tensor] = {}
    if width := parts.unet.config.time_cond_proj_dim:
        found["timestep_cond"] = torch.zeros(2, width)
    if parts.is_xl:
        found["text_embeds"] = torch.zeros(2, parts.text_encoders[1].config.projection_dim)
        found["time_ids"] = torch.zeros(2, 6)
    return found


def to_openvino(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """A network of torch as a model of OpenVINO that takes any batch, height and width.

    Uses the frontend directly: openvino.convert_model sends telemetry in programs that allow it.
    """
    openvino = import_openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of shapes that a trace takes for fixed: tests run others
        traced = torch.jit.trace(network.eval(), inputs, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=inputs)
        model = frontend.convert(frontend.load(decoder))
    for port, example in zip(model.inputs, inputs, strict=True):
        shape = [-1, *example.shape[1:]]
        port.get_node().set_partial_shape(
            openvino.PartialShape([*shape[:2], -1, -1] if example.dim() == 4 else shape)
        )
    model.validate_nodes_and_infer_types()
    return model


def read_about(folder: Path) -> tuple[Converted, dict[str, Any]]:
    """What a folder holds, and the facts that are not in its networks. ModelError: it is invalid."""
    about = read_json(folder / ABOUT)
    try:
        facts = about.pop("facts")
        about["lora"] = tuple(about["lora"])
        about["bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return Converted(**about), facts
    except (TypeError, KeyError) as error:
        raise ModelError(f"{folder / ABOUT} is invalid.", REMOVE) from error


def converted_networks() -> list[Converted]:
    """All folders of the cache that can be read, by model and dtype."""
    found: list[Converted] = []
    for file in cache_folder().glob(f"[!.]*/{ABOUT}"):
        with suppress(ModelError):
            found.append(read_about(file.parent)[0])
    return sorted(found, key=lambda one: (one.model, one.lora, one.dtype))


def remove_converted(name: str | None) -> list[Converted]:
    """Remove the converted networks of a checkpoint, or all of them; returns what was removed."""
    gone = [one for one in converted_networks() if name is None or one.model == full_name(name)]
    for folder in [Path(one.path) for one in gone] if name is not None else [cache_folder()]:
        shutil.rmtree(folder, ignore_errors=not folder.exists())
    return gone
