"""What the tests share: no network, the same random numbers in every run, and a tiny Stable Diffusion."""

import functools
import gc
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="diffedit-hf-")  # read once, at the hub's import
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"  # several test processes share the cores
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="diffedit-config-")  # not that of whoever runs this
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="diffedit-cache-")

import numpy as np
import pytest
import torch
import typer.testing
from huggingface_hub import constants
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from torch import Tensor

install_import_hook(  # shapes and types of every call are checked; an int is a float
    ["diffedit_cli.core", "diffedit_cli.models"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

from diffedit_cli.core.schedules import draw_noise  # noqa: E402
from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, load_model  # noqa: E402 the hook goes first

settings.register_profile(
    "same",
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)
settings.load_profile("same")

typer.testing._get_command = functools.cache(typer.testing._get_command)  # it makes all flags anew

Build = Callable[..., Path]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test, and the fixtures that it is the first to use, draw the same numbers in every run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_sessionstart() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Imports make half a million objects that stay: no search for garbage walks through them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def chosen_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that the library chooses itself differ from run to run within a test, and not between tests."""
    monkeypatch.setattr("diffedit_cli.session.secrets.randbelow", random.Random(0).randrange)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DIFFEDIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def hear_ctrl_c() -> None:
    """A shell's background job ignores it, and so would the processes that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails at once."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("the tests forbid the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def tiny_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)


def tiny_unet(**config: Any) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    usual = dict(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=32,
    )
    return UNet2DConditionModel(**{**usual, **config})


def tiny_vae(**config: Any) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
        **config,
    )


def tiny_text_encoder(kind: Any, tokenizer: Any, **config: Any) -> Any:
    from transformers import CLIPTextConfig

    usual = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return kind(CLIPTextConfig(**{**usual, **config}))


def save_parts(folder: Path, parts: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    """Lay a checkpoint into a folder, with a DDIM scheduler of these settings."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.utils.logging import disable_progress_bar
    from transformers.utils.logging import disable_progress_bar as disable_transformers_bar

    disable_progress_bar()
    disable_transformers_bar()
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    trained = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    usual = dict(steps_offset=1, set_alpha_to_one=False)
    DDIMScheduler(**{**trained, **usual, **scheduler}).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Write a tiny Stable Diffusion of random weights in diffusers' layout: build(**scheduler settings)."""
    from transformers import CLIPTextModel

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {
            "unet": tiny_unet(),
            "vae": tiny_vae(),
            "text_encoder": tiny_text_encoder(CLIPTextModel, tokenizer),
            "tokenizer": tokenizer,
        }
    return lambda **scheduler: save_parts(tmp_path_factory.mktemp("checkpoint"), parts, scheduler)


@pytest.fixture(scope="session")
def build_xl(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Write a tiny SDXL of random weights in diffusers' layout: build_xl(**scheduler settings)."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = dict(hidden_size=40, projection_dim=24, hidden_act="gelu", num_hidden_layers=3)
        parts = {
            "unet": tiny_unet(
                cross_attention_dim=32 + 40,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=24 + 6 * 8,
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(2, 4),
                use_linear_projection=True,
            ),
            "vae": tiny_vae(),
            "text_encoder": tiny_text_encoder(CLIPTextModel, tokenizer),
            "text_encoder_2": tiny_text_encoder(CLIPTextModelWithProjection, tokenizer, **wide),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer,
        }
    return lambda **scheduler: save_parts(tmp_path_factory.mktemp("xl"), parts, scheduler)


@pytest.fixture(scope="session")
def checkpoint(build: Build) -> Path:
    """The folder of a tiny checkpoint: 32 pixels, 2 pixels a cell, 4 latent channels. Do not change it."""
    return build()


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> DiffusersDenoiser:
    return load_model(checkpoint, device="cpu", dtype="float32")


@pytest.fixture
def unet_rows(model: DiffusersDenoiser) -> Iterator[list[int]]:
    """How many samples each forward of the UNet took, counted by torch."""
    rows: list[int] = []
    hook = model.unet.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    yield rows
    hook.remove()


@pytest.fixture
def encodes(model: DiffusersDenoiser) -> Iterator[list[int]]:
    """How many pictures each run of the VAE's encoder took, counted by torch."""
    seen: list[int] = []
    hook = model.vae.encoder.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    yield seen
    hook.remove()


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    """Two pictures of soft blobs."""
    noise = draw_noise((3, 8, 8), [1, 2])
    return torch.nn.functional.interpolate(noise, (32, 32), mode="bicubic").sigmoid()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of the test's own."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(folder))  # a copy of its own
    return folder


def put(
    cache: Path,
    checkpoint: Path,
    name: str,
    leave_out: str = "",
    commit: str = "0123456789abcdef0123456789abcdef01234567",
) -> None:
    """Lay a checkpoint into the hub's cache as a download does."""
    repo = cache / ("models--" + name.replace("/", "--"))
    shutil.copytree(checkpoint, repo / "snapshots" / commit, ignore=shutil.ignore_patterns(leave_out))
    (repo / "snapshots" / commit / "model_index.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
