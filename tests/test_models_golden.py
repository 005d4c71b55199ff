"""Every kind of checkpoint against diffusers' own classes: the same texts, eps, latents and steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Build
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from torch import Tensor

from diffedit_cli.core.ddim import decode, invert
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.schedules import draw_noise, make_steps
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import GuidanceConfig

PROMPTS = ["a horse", "", "a zebra in the park"]


def load(folder: Path, **options: Any) -> DiffusersDenoiser:
    return load_model(folder, device="cpu", dtype="float32", **options)


def pipeline_of(model: DiffusersDenoiser, *, zeros: bool = True) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=model.vae,
        text_encoder=model.text_encoders[0],
        text_encoder_2=model.text_encoders[1],
        tokenizer=model.tokenizers[0],
        tokenizer_2=model.tokenizers[1],
        unet=model.unet,
        scheduler=DDIMScheduler(),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def xl(build_xl: Build) -> DiffusersDenoiser:
    return load(build_xl())


def test_texts_of_xl_are_those_of_the_pipeline(xl: DiffusersDenoiser) -> None:
    pipeline = pipeline_of(xl)
    ours = xl.embed(PROMPTS)
    assert ours.tokens.shape[2] == 32 + 40
    for row, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            tokens, zero, pooled, zero_pooled = pipeline.encode_prompt(prompt, negative_prompt=None)
        if not prompt:  # an empty prompt is what the pipeline takes for no prompt
            tokens, pooled = zero, zero_pooled
            assert not bool(tokens.any() or pooled.any())
        assert torch.allclose(ours.row(row).tokens, tokens, atol=1e-5)
        assert torch.allclose(ours.row(row).pooled, pooled, atol=1e-5)


def test_an_empty_prompt_is_a_text_where_the_checkpoint_says_so(build_xl: Build) -> None:
    folder = build_xl()
    (folder / "model_index.json").write_text('{"force_zeros_for_empty_prompt": false}')
    model = load(folder)
    with torch.inference_mode():
        _, tokens, _, pooled = pipeline_of(model, zeros=False).encode_prompt("x", negative_prompt=None)
    ours = model.embed([""])
    assert bool(tokens.any())
    assert torch.allclose(ours.tokens, tokens, atol=1e-5)
    assert torch.allclose(ours.pooled, pooled, atol=1e-5)


def test_eps_of_xl_is_the_pipelines(xl: DiffusersDenoiser) -> None:
    x, t, text = draw_noise((4, 8, 12), [1, 2]), torch.tensor([10, 900]), xl.embed(["horse", "zebra"])
    pipeline, size = pipeline_of(xl), (16, 24)
    ids = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, text_encoder_projection_dim=24)
    assert ids.tolist() == [[16, 24, 0, 0, 16, 24]]
    with torch.inference_mode():
        added = {"text_embeds": text.pooled, "time_ids": ids.repeat(2, 1)}
        theirs = xl.unet(x, t, text.tokens, added_cond_kwargs=added).sample
        other = {"text_embeds": text.pooled.flip(0), "time_ids": ids.repeat(2, 1)}
        mixed = xl.unet(x, t, text.tokens, added_cond_kwargs=other).sample
    assert torch.allclose(xl.predict(x, t, text), theirs, atol=1e-6)
    assert not torch.allclose(mixed, theirs, atol=1e-4)  # the pooled text counts


def test_pictures_of_xl_are_those_of_the_pipeline(build_xl: Build) -> None:
    folder = build_xl()
    model, noise = load(folder), draw_noise((4, 16, 16), [3])
    pipeline = pipeline_of(model)
    pipeline.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    pipeline.set_progress_bar_config(disable=True)
    steps = make_steps(model.schedule, 5)
    cond, uncond = model.embed(["a horse"]), model.embed([""])
    *_, ours = decode(model, noise, steps, cond, uncond, Guidance(GuidanceConfig(scale=5.0), steps))
    theirs = pipeline(
        "a horse", latents=noise, num_inference_steps=5, guidance_scale=5.0, height=32, width=32,
        output_type="latent",
    ).images  # fmt: skip
    assert torch.allclose(ours, theirs, atol=1e-4)


def network(model: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
    """What the UNet itself says, eps or v, with the empty text."""
    unet: UNet2DConditionModel = model.unet
    text = model.embed([""])
    with torch.inference_mode():
        return unet(x, t, text.tokens, added_cond_kwargs=model._added(x, text)).sample


TARGETS = {
    "1.x": {},
    "2.x": dict(prediction_type="v_prediction"),
    "2.x, zero SNR": dict(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
}


@pytest.mark.parametrize("which", ["build", "build_xl"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_decoding_steps_are_those_of_diffusers(
    which: str, target: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    make: Callable[..., Path] = request.getfixturevalue(which)
    folder = make(**target)
    model, scheduler = load(folder), DDIMScheduler.from_pretrained(folder / "scheduler")
    steps, text = make_steps(model.schedule, 10), model.embed([""])
    scheduler.set_timesteps(10)
    assert steps.timesteps.tolist() == scheduler.timesteps.tolist()
    guidance = Guidance(GuidanceConfig(scale=1.0), steps)
    ours = theirs = draw_noise((4, 8, 8), [1])
    for t, after in zip(scheduler.timesteps, decode(model, ours, steps, text, text, guidance), strict=True):
        theirs = scheduler.step(network(model, theirs, int(t)), int(t), theirs).prev_sample
        assert torch.allclose(after, theirs, atol=2e-3)


def test_inversion_steps_are_those_of_diffusers_where_the_network_predicts_eps(build_xl: Build) -> None:
    folder = build_xl()
    model = load(folder)
    scheduler = DDIMInverseScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(10)
    ours = theirs = draw_noise((4, 8, 8), [1])
    steps = make_steps(model.schedule, 10)
    for t, after in zip(scheduler.timesteps, invert(model, ours, steps, model.embed([""])), strict=True):
        theirs = scheduler.step(network(model, theirs, int(t)), int(t), theirs).prev_sample
        assert torch.allclose(after, theirs, atol=1e-4)
