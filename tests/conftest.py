"""What the tests share: no network, a fixed order of random examples, and a tiny Stable Diffusion."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="diffedit-hf-")  # read once, at the hub's import
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

CHECKED = ["types", "schedules", "guidance", "ddim", "mask", "interpolate", "edit", "generate", "models"]
install_import_hook(  # shapes and types of every call are checked; an int is a float
    [f"diffedit_cli.{name}" for name in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, load_model  # noqa: E402 the hook goes first

settings.register_profile("dev", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

Build = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails at once."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("the tests forbid the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Write a tiny Stable Diffusion of random weights in diffusers' layout: build(**scheduler settings)."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.utils.logging import disable_progress_bar
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar as disable_transformers_bar

    disable_progress_bar()
    disable_transformers_bar()
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=2,
            cross_attention_dim=32,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
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
        )

    def write(**scheduler: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        text_encoder.save_pretrained(folder / "text_encoder")
        tokenizer.save_pretrained(folder / "tokenizer")
        trained = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
        usual = dict(steps_offset=1, set_alpha_to_one=False)
        DDIMScheduler(**{**trained, **usual, **scheduler}).save_pretrained(folder / "scheduler")
        return folder

    return write


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
