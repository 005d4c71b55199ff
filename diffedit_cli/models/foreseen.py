"""What a run would refuse about a checkpoint, from its small files and before a weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.types import FlowSchedule, Schedule
from ..errors import ModelError
from ..settings import ModelConfig
from .converted import may_be_converted
from .denoiser import require_cells
from .families import Family
from .flow_files import transformer_config, vae_config
from .flow_schedule import read_flow
from .given import (
    check_flow,
    files_of_flow,
    flow_of_texts,
    given_apart,
    own_vae,
    source_if_here,
)
from .hardware import device_of, openvino_dtypes
from .int8 import check_nncf
from .layout import Layout, check_layout
from .load import DENOISERS, load_all
from .memory import without_weights
from .networks import native_cells, read_json
from .quiet import quiet
from .schedulers import read_schedule
from .separate import layout_round
from .single_file import CONFIGS, predicts_v, recognise, scheduler_config, with_prefix
from .sources import Source
from .unet import UNetDenoiser
from .vae import local_vae
from .weights import read_network


@dataclass(frozen=True)
class Foreseen:
    """A checkpoint that is not loaded. Its fields are those of a DiffusersDenoiser."""

    name: str
    schedule: Schedule | FlowSchedule
    size: int
    factor: int
    multiple: int
    latent_channels: int
    most_cells: int | None
    can_mix_texts: bool

    def check_size(self, cells: int) -> None:
        require_cells(self.name, cells, self.most_cells, self.factor)


def foresee(config: ModelConfig, *, is_dry: bool = False) -> Foreseen | None:
    """What the small files of a checkpoint tell of it. None: it is not here, it is a UNet alone, or OpenVINO
    may run it (which loads it in less time than this takes). is_dry: it will not be loaded.

    Raises as load_model does, where its reason can be known.
    """
    here = replace(config, offline=True)
    source = source_here(here)
    if source is None or not (is_dry or config.engine == "torch" or not may_be_converted(source)):
        return None
    if (of_flow := flow_of_texts(here)) is not None:
        return of_layout(layout_round(config.model, source.path, config.text_encoder[0], of_flow))
    if (files := files_of_flow(here, source)) is not None:
        schedule = read_flow(files.name, files.scheduler, files.family)
        return foreseen(files.name, schedule, files.family, transformer_config(files), vae_config(files))
    if source.path.is_file():
        return of_file(config, source)
    if config.text_encoder:
        return None
    return of_layout(check_layout(config.model, source.path, source.variant))


def check_parts(config: ModelConfig) -> None:
    """Put a checkpoint together without its weights, if all of it is here. Raises as load_model does."""
    here = replace(config, offline=True)
    source = source_here(here)
    if source is None or not is_vae_here(here) or is_embedded(here):
        return
    with quiet(), without_weights():
        load_all(here, source, torch.float32)


def source_here(config: ModelConfig) -> Source | None:
    """Where a checkpoint is; None: not all of it is here. Raises what load_model does before it reads it."""
    device = device_of(config)
    if config.engine == "openvino":
        openvino_dtypes(config, device)
    source = source_if_here(config)
    if source is None:
        return None
    check_flow(config, source)
    if config.dtype == "int8" and not may_be_converted(source):
        check_nncf()
    if config.vae is not None:
        local_vae(config.vae)
    return source


def is_embedded(config: ModelConfig) -> bool:
    """Whether a model is the one of the package, with nothing from elsewhere."""
    return config.model == "embedded" and not (config.lora or config.embedding or given_apart(config))


def is_vae_here(config: ModelConfig) -> bool:
    try:
        own_vae(config)
    except ModelError:
        return False
    return True


def of_layout(layout: Layout) -> Foreseen:
    name, config = layout.name, layout.configs["scheduler"]
    if layout.family is None:
        schedule, _ = read_schedule(name, config)
    else:
        schedule = read_flow(name, config, layout.family)
    network = layout.configs[layout.networks[0]]
    return foreseen(name, schedule, layout.family, network, layout.configs["vae"])


def of_file(config: ModelConfig, source: Source) -> Foreseen:
    """A checkpoint of Stable Diffusion in one file, or its UNet."""
    name, has_texts = config.model, not config.text_encoder
    state = with_prefix(read_network(name, source.path))
    has_own_vae = has_texts and config.vae is None
    kind = recognise(name, state, has_own_vae=has_own_vae, has_own_texts=has_texts)
    schedule, _ = read_schedule(name, scheduler_config(state, kind))
    network, vae = (read_json(CONFIGS / kind / part / "config.json") for part in ("unet", "vae"))
    if kind == "sd2" and predicts_v(state, kind):
        network["sample_size"] = 96
    return foreseen(name, schedule, None, network, vae)


def foreseen(
    name: str,
    schedule: Schedule | FlowSchedule,
    family: Family | None,
    network: Mapping[str, Any],
    vae: Mapping[str, Any],
) -> Foreseen:
    """A checkpoint by the configs of its network and its VAE."""
    kind = UNetDenoiser if family is None else DENOISERS[family.key]
    is_large = family is not None or network.get("addition_embed_type") == "text_time"
    factor, channels = kind.vae_shape_of(vae)
    return Foreseen(
        name,
        schedule,
        size=native_cells(network, is_large) * factor,
        factor=factor,
        multiple=factor * kind.patch_of(network),
        latent_channels=channels,
        most_cells=kind.most_cells_of(network),
        can_mix_texts=kind.can_mix_texts,
    )
