"""A model in other people's processes: what it leaves as it was, copies, threads, and borrowed pipelines."""

import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Build
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diffedit_cli import EditConfig, edit_image, load_image
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.models.prepack import PackedConv2d

ROOT = Path(__file__).parents[1]
HORSE = ROOT / "examples/horse_park.jpg"

STATE = """
import json, logging, os, random, sys, warnings
import numpy, torch
import diffusers, transformers, huggingface_hub  # these and what follows add filters of their own
import peft, torch._dynamo
import diffusers.loaders, diffusers.models.autoencoders.autoencoder_kl
import diffusers.models.unets.unet_2d_condition, diffusers.schedulers.scheduling_ddim
from transformers import CLIPTextModel, CLIPTokenizer
from diffusers.utils import logging as d
from transformers.utils import logging as t

def state():
    return {
        "levels": {name: logging.getLogger(name).level for name in ("", "diffusers", "transformers",
                   "huggingface_hub", "torch", "PIL", "peft")},
        "bars": [d.is_progress_bar_enabled(), t.is_progress_bar_enabled(),
                 huggingface_hub.utils.are_progress_bars_disabled()],
        "warnings": [str(one) for one in warnings.filters],
        "environment": dict(os.environ),
        "random": [str(random.getstate()), str(numpy.random.get_state()), torch.get_rng_state().tolist()],
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()],
        "hooks": [str(sys.excepthook), str(sys.stdout)],
    }

d.set_verbosity_info()
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)
"""
EDIT = """
before = state()
from diffedit_cli import EditConfig, GuidanceConfig, edit_image, load_image, load_model
from diffedit_cli.errors import ModelError
model = load_model(sys.argv[1], embedding=sys.argv[2])
try:
    load_model(sys.argv[3])
except ModelError:
    pass
edit_image(model, load_image(sys.argv[4]), EditConfig(ref="horse", query="zebra", steps=2, size=32, seed=1))
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


def test_the_callers_process_stays_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    """Importing, loading with an addition, a failure to load, and an edit; in a process of its own."""
    from safetensors.torch import save_file

    save_file({"emb_params": torch.ones(2, 32)}, tmp_path / "ink.safetensors")
    (tmp_path / "spoilt").mkdir()
    arguments = [checkpoint, tmp_path / "ink.safetensors", tmp_path / "spoilt", HORSE]
    done = subprocess.run(
        [sys.executable, "-c", STATE + EDIT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout) == {}


def test_levels_come_back_when_loading_fails(tmp_path: Path) -> None:
    def levels() -> list[Any]:
        return [
            value
            for logging in (diffusers_logging, transformers_logging)
            for value in (logging.get_verbosity(), logging.is_progress_bar_enabled())
        ]

    before = levels()
    with pytest.raises(ModelError):
        load_model(tmp_path)
    assert levels() == before
    threads = [threading.Thread(target=load_model, args=("embedded",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert levels() == before


def eps_of(model: DiffusersDenoiser, sides: int = 8) -> torch.Tensor:
    x = draw_noise((4, sides, sides), [1, 2])
    return model.predict(x, torch.tensor([10, 900]), model.embed(["a horse", "a zebra"]))


def test_weights_are_whole_after_a_run(checkpoint: Path) -> None:
    model, fresh = (load_model(checkpoint, device="cpu") for _ in range(2))
    wanted = {key: values.clone() for key, values in fresh.unet.state_dict().items()}
    eps = eps_of(model)
    convs = [module for module in model.unet.modules() if isinstance(module, PackedConv2d)]
    assert any(conv.packed is not None for conv in convs)  # the test would show nothing otherwise
    state = model.unet.state_dict()
    assert {key: values.shape for key, values in state.items()} == {k: v.shape for k, v in wanted.items()}
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert torch.equal(eps_of(model), eps)
    assert torch.equal(model.unet.conv_in.weight, fresh.unet.conv_in.weight)
    eps_of(model)
    moved = model.unet.to(torch.float64)
    assert torch.equal(moved.conv_in.weight, fresh.unet.conv_in.weight.double())
    model.unet.to(torch.float32)
    eps_of(model)
    model.unet.load_state_dict(wanted)
    assert torch.equal(eps_of(model), eps)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_after_a_run(checkpoint: Path, again: Callable[[Any], Any]) -> None:
    model = load_model(checkpoint, device="cpu")
    eps = eps_of(model)
    other = again(model)
    assert (other.forwards, model.forwards) == (0, 2)
    with torch.no_grad():
        other.unet.conv_in.bias += 1
    assert torch.equal(eps_of(model), eps)
    assert not torch.equal(eps_of(other), eps)
    assert other.origin == model.origin


def test_a_model_of_xl_can_be_pickled_after_a_run(build_xl: Build) -> None:
    """transformers adds hooks that cannot, where the states of a layer are asked for."""
    model = load_model(build_xl(), device="cpu")
    tokens = model.embed(["a horse"]).tokens
    assert torch.equal(pickle.loads(pickle.dumps(model)).embed(["a horse"]).tokens, tokens)
    assert torch.equal(model.embed(["a horse"]).tokens, tokens)


def test_threads_count_their_own_forwards_and_get_the_same(checkpoint: Path) -> None:
    """Sizes differ, so that the threads pack the weights against each other."""
    model = load_model(checkpoint, device="cpu")
    wanted = {sides: eps_of(model, sides) for sides in (8, 12, 16)}
    found: dict[int, Any] = {}

    def work(sides: int) -> None:
        good = all(torch.equal(eps_of(model, sides), wanted[sides]) for _ in range(10))
        found[sides] = good, model.forwards, model.network_seconds > 0

    threads = [threading.Thread(target=work, args=(sides,)) for sides in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(wanted, (True, 20, True))
    assert model.forwards == 6


def pipeline_from(model: DiffusersDenoiser, folder: Path, **more: Any) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    parts = dict(
        vae=model.vae, unet=model.unet, text_encoder=model.text_encoders[0], tokenizer=model.tokenizers[0],
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
    )  # fmt: skip
    if model.is_xl:
        parts |= dict(text_encoder_2=model.text_encoders[1], tokenizer_2=model.tokenizers[1])
        return StableDiffusionXLPipeline(**parts, add_watermarker=False, **more)
    extras = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionPipeline(**parts, **extras, **more)


@pytest.mark.parametrize("which", ["build", "build_xl"])
def test_a_loaded_pipeline_is_a_model_and_stays_usable(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)()
    named = load_model(folder, device="cpu")
    pipeline = pipeline_from(load_model(folder, device="cpu"), folder)
    pipeline.set_progress_bar_config(disable=True)
    for module in pipeline.unet.modules():
        if isinstance(module, PackedConv2d):
            module.__class__ = torch.nn.Conv2d  # as diffusers loads it
    call = dict(num_inference_steps=2, height=32, width=32, output_type="np")
    before = pipeline("a horse", latents=draw_noise((4, 16, 16), [1]), **call).images
    model = load_model(pipeline)
    assert (model.size, model.device.type, model.dtype) == (32, "cpu", torch.float32)
    config = EditConfig(ref="horse", query="zebra", steps=3, size=32, seed=1)
    ours, wanted = (edit_image(one, load_image(HORSE), config) for one in (model, named))
    difference = torch.tensor([*ours.image.tobytes()]).int() - torch.tensor([*wanted.image.tobytes()]).int()
    assert difference.abs().max() <= 1  # the named one packs its weights, which changes the order of sums
    assert ours.origin["model_is_local"]
    after = pipeline("a horse", latents=draw_noise((4, 16, 16), [1]), **call).images
    assert (before == after).all()
    assert pipeline.unet.state_dict()["conv_in.weight"].numel()
    half = load_model(pipeline, dtype="bfloat16")
    assert half.unet.dtype == half.text_encoders[0].dtype == torch.bfloat16


def test_pipelines_of_another_kind_are_refused(checkpoint: Path) -> None:
    model = load_model(checkpoint, device="cpu")
    with pytest.raises(SettingError, match="--lora cannot be used with a loaded pipeline"):
        load_model(pipeline_from(model, checkpoint), lora="a.safetensors")
    with pytest.raises(ModelError, match="neither a checkpoint's name nor a pipeline"):
        load_model(3)
    with pytest.raises(ModelError, match="neither a checkpoint's name nor a pipeline"):
        load_model(model.unet)
    pipeline = pipeline_from(model, checkpoint)
    pipeline.scheduler = EDMEulerScheduler()
    with pytest.raises(ModelError, match="without betas"):
        load_model(pipeline)
    pipeline = pipeline_from(model, checkpoint)
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(ModelError, match="inpainting"):
        load_model(pipeline)
    pipeline.unet.register_to_config(in_channels=4)
    pipeline.unet._hf_hook = object()
    with pytest.raises(ModelError, match="keeps its networks off the device"):
        load_model(pipeline)
