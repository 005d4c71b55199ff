"""Checkpoints that predict the velocity of a flow, against diffusers' own classes and pipelines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift, retrieve_timesteps
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline, compute_empirical_mu
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from flow_models import (
    CHROMA_SCHEDULER,
    DEV_SCHEDULER,
    QWEN_SCHEDULER,
    SCHNELL_SCHEDULER,
    SD3_SCHEDULER,
    T5_WINDOW,
    chroma_parts,
    flux_parts,
    klein_parts,
    qwen_image_parts,
    save_flow,
    sd3_parts,
    zimage_parts,
)
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffedit_cli.core.ddim import decode, invert
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.schedules import draw_noise, levels_at, make_steps
from diffedit_cli.core.types import FlowSchedule, Steps, Trajectory
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.models.flux import pack
from diffedit_cli.settings import GuidanceConfig

PROMPTS = ["a horse", "", "a zebra in the park"]
CELLS = 16, 16


@dataclass(frozen=True)
class Kind:
    """A family under test: its pipeline, how to make its parts, and its scheduler's config."""

    pipeline: Any
    parts: Callable[..., dict[str, Any]]
    scheduler: dict[str, Any]
    config: dict[str, Any]


KINDS = {
    "SD3": Kind(
        StableDiffusion3Pipeline, sd3_parts, SD3_SCHEDULER, {"qk_norm": None, "dual_attention_layers": ()}
    ),
    "SD3.5": Kind(StableDiffusion3Pipeline, sd3_parts, SD3_SCHEDULER, {}),
    "SD3.5 without T5": Kind(StableDiffusion3Pipeline, sd3_parts, SD3_SCHEDULER, {"has_t5": False}),
    "SD3.5, shifted by size": Kind(StableDiffusion3Pipeline, sd3_parts, DEV_SCHEDULER, {}),
    "FLUX.1 dev": Kind(FluxPipeline, flux_parts, DEV_SCHEDULER, {"guidance_embeds": True}),
    "FLUX.1 schnell": Kind(FluxPipeline, flux_parts, SCHNELL_SCHEDULER, {}),
    "Chroma": Kind(ChromaPipeline, chroma_parts, CHROMA_SCHEDULER, {}),
    "FLUX.2 klein": Kind(Flux2KleinPipeline, klein_parts, DEV_SCHEDULER, {}),
    "Qwen-Image": Kind(QwenImagePipeline, qwen_image_parts, QWEN_SCHEDULER, {}),
    "Z-Image": Kind(ZImagePipeline, zimage_parts, SD3_SCHEDULER, {}),
}


@dataclass(frozen=True)
class Pair:
    """A checkpoint of ours, loaded from its folder, and diffusers' pipeline of the same weights."""

    kind: Kind
    ours: DiffusersDenoiser
    pipeline: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.ours.latent_channels, *CELLS

    @property
    def window(self) -> int:
        """The tokens of T5."""
        return 256 if self.kind.config.get("has_t5") is False else T5_WINDOW


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind = KINDS[request.param]
    parts = {
        name: part.eval() if hasattr(part, "eval") else part
        for name, part in kind.parts(**kind.config).items()
    }
    folder = save_flow(tmp_path_factory.mktemp("flow"), parts, kind.scheduler)
    missing = {"text_encoder_3": None, "tokenizer_3": None} if kind.parts is sd3_parts else {}
    pipeline = kind.pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**kind.scheduler), **{**missing, **parts}
    )
    pipeline.set_progress_bar_config(disable=True)
    if kind.pipeline is ChromaPipeline:
        make_boolean(pipeline)
    return Pair(kind, load_model(folder, device="cpu", dtype="float32"), pipeline)


def make_boolean(pipeline: Any) -> None:
    """Let the mask of a ChromaPipeline leave tokens out: its 0 and 1 are added to the attention (diffusers
    issue 13619)."""
    mask = pipeline._prepare_attention_mask

    def boolean(**given: Any) -> Tensor | None:
        found = mask(**given)
        return None if found is None else found.bool()

    pipeline._prepare_attention_mask = boolean


def worst(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours - wanted).abs().max())


def steps_of(model: DiffusersDenoiser, count: int, strength: float = 1.0, **more: Any) -> Steps:
    return make_steps(model.schedule, count, strength, cells=CELLS, **more)


def test_texts_are_those_of_the_pipeline(pair: Pair) -> None:
    ours = pair.ours.embed(PROMPTS)
    wanted, pooled = texts_of(pair)
    if ours.counts is None:
        assert worst(ours.tokens, torch.stack(wanted)) < 1e-5
    else:
        assert len({len(tokens) for tokens in wanted}) == 3
        for tokens, counts, own in zip(ours.tokens, ours.counts, wanted, strict=True):
            assert worst(tokens[counts], own) < 1e-5
            assert not bool(tokens[~counts].any())
    assert (ours.pooled is None) == (pooled is None)
    if ours.pooled is not None and pooled is not None:
        assert worst(ours.pooled, pooled) < 1e-5


def texts_of(pair: Pair) -> tuple[list[Tensor], Tensor | None]:
    """What the pipeline makes of PROMPTS: the tokens of each that count, and the pooled texts."""
    encode, plain = pair.pipeline.encode_prompt, {"do_classifier_free_guidance": False}
    with torch.inference_mode():
        if pair.kind.pipeline is ZImagePipeline:
            return encode([*PROMPTS], **plain)[0], None
        if pair.kind.pipeline is Flux2KleinPipeline:
            return [*encode(PROMPTS)[0]], None
        if pair.kind.pipeline is QwenImagePipeline:
            tokens, counts = encode(PROMPTS)
            return [own[mask.bool()] for own, mask in zip(tokens, counts, strict=True)], None
        if pair.kind.pipeline is ChromaPipeline:
            tokens, _, counts, *_ = encode(PROMPTS, max_sequence_length=T5_WINDOW, **plain)
            return [own[mask.bool()] for own, mask in zip(tokens, counts, strict=True)], None
        if pair.kind.pipeline is FluxPipeline:
            tokens, pooled, _ = encode(PROMPTS, max_sequence_length=T5_WINDOW)
        else:
            tokens, _, pooled, _ = encode(PROMPTS, None, None, max_sequence_length=pair.window, **plain)
    return [*tokens], pooled


@pytest.mark.parametrize("count", [1, 4, 28])
@pytest.mark.parametrize("cells", [(16, 16), (24, 40), (128, 128)])
def test_levels_are_those_of_the_pipeline(pair: Pair, cells: tuple[int, int], count: int) -> None:
    config, more = pair.kind.scheduler, dict[str, Any]()
    if count == 1:  # of which shift_terminal makes NaN
        config = {key: value for key, value in config.items() if key != "shift_terminal"}
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    if scheduler.config.use_dynamic_shifting:
        more["mu"] = shift_of(pair.kind, cells[0] * cells[1] // 4, count)
    if pair.kind.parts is not sd3_parts:
        more["sigmas"] = np.linspace(1.0, 1 / count, count)
    retrieve_timesteps(scheduler, count, "cpu", **more)
    ours = make_steps(pair.ours.schedule, count, cells=cells)
    assert torch.equal(ours.timesteps, scheduler.timesteps)
    assert torch.equal(ours.sigmas, scheduler.sigmas.double())
    assert torch.equal(ours.alphas, 1 - ours.sigmas)
    assert (ours.target, ours.level(0), ours.level(-1)) == ("flow", (0, 1), (1, 0))


def shift_of(kind: Kind, tokens: int, count: int) -> float:
    """mu, as the pipeline has it."""
    if kind.pipeline is Flux2KleinPipeline:
        return compute_empirical_mu(tokens, count)
    own = FlowMatchEulerDiscreteScheduler(**kind.scheduler).config
    return calculate_shift(
        tokens, own.base_image_seq_len, own.max_image_seq_len, own.base_shift, own.max_shift
    )


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_of_a_text_are_those_of_the_pipeline(pair: Pair, scale: float) -> None:
    noise = draw_noise(pair.shape, [7])
    cond, uncond = (pair.ours.embed([text]) for text in ("a horse", ""))
    is_told = pair.kind.config.get("guidance_embeds", False)
    norm = "token" if pair.kind.pipeline is QwenImagePipeline else "none"
    config = GuidanceConfig(scale=scale, method="embedded" if is_told else "cfg", norm=norm)
    steps = steps_of(pair.ours, 6)
    before = pair.ours.forwards
    *_, ours = decode(pair.ours, noise, steps, cond, uncond, Guidance(config, steps))
    assert pair.ours.forwards - before == (12 if scale != 1 and not is_told else 6)
    shared: dict[str, Any] = dict(
        prompt="a horse", num_inference_steps=6, height=32, width=32, output_type="latent"
    )
    kind = pair.kind.pipeline
    if kind is Flux2KleinPipeline:  # it hands out the latents as its VAE takes them
        shared |= {"latents": pixel_unshuffle(noise, 2), "guidance_scale": scale}
        ours = pair.ours._unscaled(ours)
    elif kind is ZImagePipeline:  # whose scale multiplies what is added to the conditional prediction
        shared |= {"latents": noise, "negative_prompt": "", "guidance_scale": scale - 1}
    elif kind is QwenImagePipeline:
        shared |= {"latents": pack(noise), "negative_prompt": "", "true_cfg_scale": scale}
    else:
        shared |= {"guidance_scale": scale, "max_sequence_length": pair.window}
        shared |= {"latents": noise if kind is StableDiffusion3Pipeline else pack(noise)}
        shared |= {"true_cfg_scale": scale} if kind is FluxPipeline and not is_told else {}
        shared |= {"negative_prompt": ""} if not is_told else {}
    wanted = pair.pipeline(**shared).images
    ours = pack(ours) if kind in (FluxPipeline, ChromaPipeline, QwenImagePipeline) else ours
    assert worst(ours, wanted) < 1e-4
    assert (noise - noise.new_tensor(0)).std() > 0.5 < float(wanted.std())


def test_the_text_and_the_time_change_the_prediction(pair: Pair) -> None:
    noise, embeds = draw_noise(pair.shape, [1]), pair.ours.embed(PROMPTS)
    predicted = pair.ours.predict(noise.expand(3, -1, -1, -1), torch.tensor([500.0] * 3), embeds)
    later = pair.ours.predict(noise, torch.tensor([100.0]), embeds.row(0))
    assert worst(predicted[:1], predicted[2:]) > 1e-3
    assert worst(predicted[:1], later) > 1e-3
    assert worst(predicted[:1], pair.ours.predict(noise, torch.tensor([500.0]), embeds.row(0))) < 1e-5


def test_a_search_looks_at_the_share_of_the_time_before_the_shift(pair: Pair) -> None:
    schedule, latents = pair.ours.schedule, torch.zeros(3, *pair.shape)
    assert isinstance(schedule, FlowSchedule)
    timesteps, level = levels_at(schedule, [0.3, 0.5, 1.0], latents)
    is_dynamic = pair.kind.scheduler.get("use_dynamic_shifting")
    shift = np.exp(shift_of(pair.kind, 8 * 8, 200)) if is_dynamic else pair.kind.scheduler["shift"]
    wanted = [min(shift * t / (1 + (shift - 1) * t), 0.98) for t in (0.3, 0.5, 1.0)]
    assert timesteps.tolist() == pytest.approx([1000 * sigma for sigma in wanted], rel=1e-5)
    assert isinstance(level.sigma, Tensor)
    assert isinstance(level.alpha, Tensor)
    assert level.sigma.flatten().tolist() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(level.alpha, 1 - level.sigma)


def test_outside_the_mask_each_level_is_the_sources(pair: Pair) -> None:
    x0, steps = draw_noise(pair.shape, [3]), steps_of(pair.ours, 6, 0.7)
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
        has_frames = pair.kind.pipeline is QwenImagePipeline
        given = 2 * pixels[:, :, None] - 1 if has_frames else 2 * pixels - 1
        plain = vae.encode(given).latent_dist.mode()
        if has_frames:
            mean, std = (
                torch.tensor(vae.config[key])[:, None, None] for key in ("latents_mean", "latents_std")
            )
            latents = (plain[:, :, 0] - mean) / std
        elif pair.kind.pipeline is Flux2KleinPipeline:
            latents = pixel_shuffle(pair.pipeline._encode_vae_image(2 * pixels - 1, None), 2)
        else:
            latents = (plain - vae.config.shift_factor) * vae.config.scaling_factor
        drawn = vae.decode(plain).sample
        drawn = drawn[:, :, 0] if has_frames else drawn
        drawn = pair.pipeline.image_processor.postprocess(drawn, output_type="pt")
    ours = pair.ours.encode(pixels)
    assert worst(ours, latents) < 1e-5
    assert worst(pair.ours.decode(ours), drawn) < 1e-5
