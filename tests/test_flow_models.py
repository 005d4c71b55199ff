"""Checkpoints that predict the velocity of a flow, against diffusers' own classes and pipelines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift, retrieve_timesteps
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from flow_models import (
    DEV_SCHEDULER,
    SCHNELL_SCHEDULER,
    SD3_SCHEDULER,
    T5_WINDOW,
    flux_parts,
    save_flow,
    sd3_parts,
)
from torch import Tensor

from diffedit_cli.core.ddim import decode, invert
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.schedules import draw_noise, levels_at, make_steps
from diffedit_cli.core.types import FlowSchedule, Steps, Trajectory
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.models.flux import pack
from diffedit_cli.settings import GuidanceConfig

PROMPTS = ["a horse", "", "a zebra in the park"]
CELLS = 16, 16
NOISE_SHAPE = 16, *CELLS


@dataclass(frozen=True)
class Kind:
    """A family under test: how to make its parts, its scheduler's config, and its pipeline."""

    parts: Callable[..., dict[str, Any]]
    scheduler: dict[str, Any]
    config: dict[str, Any]

    @property
    def is_flux(self) -> bool:
        return self.parts is flux_parts


KINDS = {
    "SD3": Kind(sd3_parts, SD3_SCHEDULER, {"qk_norm": None, "dual_attention_layers": ()}),
    "SD3.5": Kind(sd3_parts, SD3_SCHEDULER, {}),
    "SD3.5 without T5": Kind(sd3_parts, SD3_SCHEDULER, {"has_t5": False}),
    "SD3.5, shifted by size": Kind(sd3_parts, DEV_SCHEDULER, {}),
    "FLUX.1 dev": Kind(flux_parts, DEV_SCHEDULER, {"guidance_embeds": True}),
    "FLUX.1 schnell": Kind(flux_parts, SCHNELL_SCHEDULER, {}),
}


@dataclass(frozen=True)
class Pair:
    """A checkpoint of ours, loaded from its folder, and diffusers' pipeline of the same weights."""

    kind: Kind
    ours: DiffusersDenoiser
    pipeline: Any


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind = KINDS[request.param]
    parts = {
        name: part.eval() if hasattr(part, "eval") else part
        for name, part in kind.parts(**kind.config).items()
    }
    folder = save_flow(tmp_path_factory.mktemp("flow"), parts, kind.scheduler)
    missing = {} if kind.is_flux else {"text_encoder_3": None, "tokenizer_3": None}
    make = FluxPipeline if kind.is_flux else StableDiffusion3Pipeline
    pipeline = make(scheduler=FlowMatchEulerDiscreteScheduler(**kind.scheduler), **{**missing, **parts})
    pipeline.set_progress_bar_config(disable=True)
    return Pair(kind, load_model(folder, device="cpu", dtype="float32"), pipeline)


def worst(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours - wanted).abs().max())


def steps_of(model: DiffusersDenoiser, count: int, strength: float = 1.0, **more: Any) -> Steps:
    return make_steps(model.schedule, count, strength, cells=CELLS, **more)


def test_texts_are_those_of_the_pipeline(pair: Pair) -> None:
    ours = pair.ours.embed(PROMPTS)
    window = 256 if len(pair.ours.text_encoders) == 2 and not pair.kind.is_flux else T5_WINDOW
    with torch.inference_mode():
        if pair.kind.is_flux:
            tokens, pooled, _ = pair.pipeline.encode_prompt(PROMPTS, max_sequence_length=window)
        else:
            tokens, _, pooled, _ = pair.pipeline.encode_prompt(
                PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=window
            )
    assert worst(ours.tokens, tokens) < 1e-5
    assert ours.pooled is not None
    assert worst(ours.pooled, pooled) < 1e-5


@pytest.mark.parametrize("count", [1, 4, 28])
@pytest.mark.parametrize("cells", [(16, 16), (24, 40), (128, 128)])
def test_levels_are_those_of_the_pipeline(pair: Pair, cells: tuple[int, int], count: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**pair.kind.scheduler)
    own, is_shifted = scheduler.config, scheduler.config.use_dynamic_shifting
    sizes = own.base_image_seq_len, own.max_image_seq_len, own.base_shift, own.max_shift
    more = {"mu": calculate_shift(cells[0] * cells[1] // 4, *sizes)} if is_shifted else {}
    if pair.kind.is_flux:
        more["sigmas"] = np.linspace(1.0, 1 / count, count)
    retrieve_timesteps(scheduler, count, "cpu", **more)
    ours = make_steps(pair.ours.schedule, count, cells=cells)
    assert torch.equal(ours.timesteps, scheduler.timesteps)
    assert torch.equal(ours.sigmas, scheduler.sigmas.double())
    assert torch.equal(ours.alphas, 1 - ours.sigmas)
    assert (ours.target, ours.level(0), ours.level(-1)) == ("flow", (0, 1), (1, 0))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_of_a_text_are_those_of_the_pipeline(pair: Pair, scale: float) -> None:
    noise = draw_noise(NOISE_SHAPE, [7])
    cond, uncond = (pair.ours.embed([text]) for text in ("a horse", ""))
    is_told = pair.kind.config.get("guidance_embeds", False)
    config = GuidanceConfig(scale=scale, method="embedded" if is_told else "cfg")
    steps = steps_of(pair.ours, 6)
    before = pair.ours.forwards
    *_, ours = decode(pair.ours, noise, steps, cond, uncond, Guidance(config, steps))
    assert pair.ours.forwards - before == (12 if scale != 1 and not is_told else 6)
    shared: dict[str, Any] = dict(
        prompt="a horse", num_inference_steps=6, height=32, width=32, output_type="latent"
    )
    if pair.kind.is_flux:
        shared |= {"latents": pack(noise), "guidance_scale": scale, "max_sequence_length": T5_WINDOW}
        if not is_told and scale != 1:
            shared |= {"negative_prompt": "", "true_cfg_scale": scale}
        wanted, ours = pair.pipeline(**shared).images, pack(ours)
    else:
        window = 256 if len(pair.ours.text_encoders) == 2 else T5_WINDOW
        wanted = pair.pipeline(
            **shared, latents=noise, negative_prompt="", guidance_scale=scale, max_sequence_length=window
        ).images
    assert worst(ours, wanted) < 1e-4
    assert (noise - noise.new_tensor(0)).std() > 0.5 < float(wanted.std())


def test_the_text_and_the_time_change_the_prediction(pair: Pair) -> None:
    noise, embeds = draw_noise(NOISE_SHAPE, [1]), pair.ours.embed(PROMPTS)
    predicted = pair.ours.predict(noise.expand(3, -1, -1, -1), torch.tensor([500.0] * 3), embeds)
    later = pair.ours.predict(noise, torch.tensor([100.0]), embeds.row(0))
    assert worst(predicted[:1], predicted[2:]) > 1e-3
    assert worst(predicted[:1], later) > 1e-3
    assert worst(predicted[:1], pair.ours.predict(noise, torch.tensor([500.0]), embeds.row(0))) < 1e-5


def test_a_search_looks_at_the_share_of_the_time_before_the_shift(pair: Pair) -> None:
    schedule, latents = pair.ours.schedule, torch.zeros(3, *NOISE_SHAPE)
    assert isinstance(schedule, FlowSchedule)
    timesteps, level = levels_at(schedule, [0.3, 0.5, 1.0], latents)
    shift = pair.kind.scheduler["shift"]
    if pair.kind.scheduler.get("use_dynamic_shifting"):
        shift = float(np.exp(calculate_shift(8 * 8)))
    wanted = [min(shift * t / (1 + (shift - 1) * t), 0.98) for t in (0.3, 0.5, 1.0)]
    assert timesteps.tolist() == pytest.approx([1000 * sigma for sigma in wanted], rel=1e-5)
    assert isinstance(level.sigma, Tensor)
    assert isinstance(level.alpha, Tensor)
    assert level.sigma.flatten().tolist() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(level.alpha, 1 - level.sigma)


def test_outside_the_mask_each_level_is_the_sources(pair: Pair) -> None:
    x0, steps = draw_noise(NOISE_SHAPE, [3]), steps_of(pair.ours, 6, 0.7)
    cond, empty = (pair.ours.embed([text]) for text in ("a zebra", ""))
    source = Trajectory(torch.stack([*list(invert(pair.ours, x0, steps, empty))[::-1], x0]))
    mask = torch.zeros(1, 1, *CELLS)
    mask[..., 4:10, 5:12] = 1
    guidance = Guidance(GuidanceConfig(scale=4), steps)
    run = list(decode(pair.ours, source.latents[0], steps, cond, empty, guidance, mask, source))
    for latents, own in zip(run, source.latents[1:], strict=True):
        assert torch.equal(latents * (1 - mask), own * (1 - mask))
    assert worst(run[-1] * mask, x0 * mask) > 1e-3


def test_encoding_and_decoding_are_the_pipelines(pair: Pair, pixels: Tensor) -> None:
    vae = pair.pipeline.vae
    with torch.inference_mode():
        latents = (vae.encode(2 * pixels - 1).latent_dist.mode() - vae.config.shift_factor) * (
            vae.config.scaling_factor
        )
        drawn = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
        drawn = pair.pipeline.image_processor.postprocess(drawn, output_type="pt")
    ours = pair.ours.encode(pixels)
    assert worst(ours, latents) < 1e-5
    assert worst(pair.ours.decode(ours), drawn) < 1e-5
