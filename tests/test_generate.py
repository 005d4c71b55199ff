"""generate.py: exact colours from an oracle, then diffusers' own pipeline, then frames on a tiny network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from oracles import Oracle, sd_schedule
from torch import Tensor

from diffedit_cli.core.text2image import count_frames, generate, interpolate
from diffedit_cli.errors import NumericError
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import GenerateConfig, GuidanceConfig, InterpolateConfig

PLAIN = GuidanceConfig(scale=1)
SHAPE = (4, 16, 16)


def painter() -> Oracle:
    """A model that paints each text as a grey: the text 0.4 as .4 / 2 + .5 = .7."""

    def formula(x: Tensor, alphas: Tensor, text: Tensor) -> Tensor:
        return (x - alphas**0.5 * text) / (1 - alphas) ** 0.5

    return Oracle(formula, sd_schedule(to_one=True))


def drifter() -> Oracle:
    """A model whose pictures keep what they start from."""
    return Oracle(lambda x, alphas, text: text.expand_as(x), sd_schedule(to_one=True))


def greys(frames: list[tuple[int, Tensor]]) -> list[float]:
    return [float(pixels.mean()) for _, pixels in frames]


def painted(config: InterpolateConfig, model: Oracle | None = None, **more: Any) -> list[tuple[int, Tensor]]:
    return list(interpolate(model or painter(), config, (3, 2, 2), list(range(len(config.prompts))), **more))


def film(*prompts: str, **changes: Any) -> InterpolateConfig:
    return InterpolateConfig(**{"prompts": prompts, "frames": 3, "steps": 4, "guidance": PLAIN, **changes})


def test_generate_paints_the_prompt() -> None:
    pixels = generate(painter(), GenerateConfig(prompt="0.4", steps=5, guidance=PLAIN), (3, 2, 2), [1, 2])
    assert torch.allclose(pixels, torch.full((2, 3, 2, 2), 0.7), atol=1e-5)


def test_guidance_and_the_negative_prompt_by_hand() -> None:
    """u paints .2 and t .4; at scale 3 the eps is that of .2 + 3 (.4 - .2) = .8, a grey of .9."""
    config = GenerateConfig(prompt="0.4", negative_prompt="0.2", steps=5, guidance=GuidanceConfig(scale=3))
    assert torch.allclose(generate(painter(), config, (3, 2, 2), [1]), torch.tensor(0.9), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (film("0", "1"), [0.5, 0.75, 1]),
        (film("0", "1", frames=2), [0.5, 1]),
        (
            film("0", "1", "-1"),
            [0.5, 0.75, 1, 0.5, 0],
        ),  # three prompts with three frames: five, no doubled joint
        (film("0", "1", "-1", loop=True), [0.5, 0.75, 1, 0.5, 0, 0.25]),
        (film("0", "1", frames=2, loop=True), [0.5, 1]),
        (film("0", "1", frames=5, ease="in"), [0.5, 0.53125, 0.625, 0.78125, 1]),
        (film("0", "1", frames=4, spacing="even"), [0.5, 0.625, 0.75, 1]),
        (film("0", "1", "0", frames=7), [0.5 + i / 12 for i in [*range(6), *range(6, -1, -1)]]),
    ],
)
def test_frames_by_hand(config: InterpolateConfig, wanted: list[float]) -> None:
    frames = painted(config)
    assert [index for index, _ in frames] == list(range(len(wanted)))
    assert count_frames(config) == len(wanted)
    got = greys(frames)
    if config.spacing == "even":  # which of two equal gaps is halved is a matter of rounding
        assert got in (pytest.approx(wanted, abs=1e-4), pytest.approx([0.5, 0.75, 0.875, 1], abs=1e-4))
    else:
        assert got == pytest.approx(wanted, abs=1e-4)
    assert all(pixels.shape == (1, 3, 2, 2) for _, pixels in frames)


@pytest.mark.parametrize(
    "config",
    [
        film("0", "1", "-1"),
        film("0", "1", "-1", loop=True),
        film("0", "1", loop=True, frames=2),
        film("0", "1", "-1", frames=6, spacing="even"),
        film("0", "1", "-1", frames=6, spacing="even", loop=True),
        film("0", "1", "-1", chain=0.5, guidance=GuidanceConfig(scale=2)),
    ],
)
def test_an_interrupted_run_goes_on(config: InterpolateConfig) -> None:
    whole = painted(config, drifter())
    for first in range(len(whole)):

        def have(index: int, first: int = first) -> Tensor:
            assert index < first, "asks for a frame that is not there"
            return whole[index][1]

        rest = painted(config, drifter(), first=first, have=have)
        assert [index for index, _ in rest] == list(range(first, len(whole)))
        for (_, again), (_, before) in zip(rest, whole[first:], strict=True):
            assert torch.allclose(again, before, atol=1e-4)


def test_a_loop_goes_back_to_the_first_prompt_and_seed() -> None:
    """Half the way back from B to A lies where half the way from A to B does."""
    frames = painted(film("0", "0.1", loop=True), drifter())
    assert len(frames) == 4
    assert torch.allclose(frames[3][1], frames[1][1], atol=1e-4)


def test_what_is_there_is_not_drawn_again(model: DiffusersDenoiser, unet_rows: list[int]) -> None:
    config = film("horse", "zebra", "dog", steps=2)
    run = interpolate(model, config, SHAPE, [1, 2, 3], first=3, have=lambda index: torch.zeros(1, 3, 32, 32))
    assert [index for index, _ in run] == [3, 4]
    assert sum(unet_rows) == 2 * 2


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(
    "changes", [{}, {"spacing": "even"}, {"loop": True}, {"spacing": "even", "loop": True}, {"chain": 0.5}]
)
def test_progress_rises_to_its_total(changes: dict[str, Any], first: int) -> None:
    told: list[tuple[str, int, int]] = []
    config = film("0", "1", "-1", frames=6, **changes)
    have = {"first": first, "have": lambda index: torch.zeros(1, 3, 2, 2)}
    painted(config, report=lambda *now: told.append(now), **have)
    shares = [done / total for _, done, total in told]  # the legs of a chain have fewer steps
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


def test_a_chain_starts_each_leg_from_the_last_picture() -> None:
    """With next to no noise put on, the second leg hardly moves from where the first ended."""
    model = drifter()

    def drawn(**changes: Any) -> list[Tensor]:
        config = film("0", "0.1", "0.2", steps=50, **changes)
        return [pixels for _, pixels in interpolate(model, config, (3, 4, 4), [1, 2, 3])]

    chained, free = drawn(chain=0.02), drawn()
    assert torch.equal(chained[2], free[2])
    assert (chained[3] - chained[2]).abs().max() < 0.2
    assert (free[3] - free[2]).abs().max() > 1


def test_a_joint_of_a_chain_has_no_jump() -> None:
    """Noise on the last picture would lead elsewhere at once; its inversion leads back to it."""
    model = Oracle(lambda latents, _, text: text.expand_as(latents))  # inverts exactly
    config = film("0.2", "0.4", "0.8", frames=17, steps=10, chain=0.6)
    shown = [pixels for _, pixels in interpolate(model, config, (3, 4, 4), [1, 2, 3])]
    joint, leg = (float((shown[index] - shown[16]).abs().mean()) for index in (17, 32))
    assert joint < 0.15 * leg


def test_every_frame_is_drawn_from_the_init() -> None:
    model = drifter()
    init = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    for strength, limit in ((0.02, 0.2), (1.0, None)):
        config = film("0", "0.1", steps=50, strength=strength)
        frames = [pixels for _, pixels in interpolate(model, config, (3, 4, 4), [1, 2], init=init)]
        gap = max(float((frame - init).abs().max()) for frame in frames)
        assert gap < limit if limit else gap > 0.5


def test_the_ends_are_the_pictures_of_the_prompts(model: DiffusersDenoiser) -> None:
    config = film("horse", "zebra", "dog", steps=4, guidance=GuidanceConfig(scale=5))
    frames = dict(interpolate(model, config, SHAPE, [1, 2, 3]))
    for index, (prompt, seed) in zip((0, 2, 4), zip(config.prompts, (1, 2, 3), strict=True), strict=True):
        wanted = generate(
            model, GenerateConfig(prompt=prompt, steps=4, guidance=config.guidance), SHAPE, [seed]
        )
        assert (frames[index] - wanted).abs().max() < 1e-3
    assert (frames[1] - frames[0]).abs().max() > 0.01


def test_pictures_of_a_batch_do_not_touch_each_other(model: DiffusersDenoiser, unet_rows: list[int]) -> None:
    config = GenerateConfig(prompt="zebra", steps=4)
    together = generate(model, config, SHAPE, [1, 2])
    assert unet_rows == [4] * 4
    for i, seed in enumerate([1, 2]):
        assert (generate(model, config, SHAPE, [seed]) - together[i : i + 1]).abs().max() < 1e-3
    assert (together[0] - together[1]).abs().max() > 0.1


def test_values_that_are_not_numbers_are_refused(checkpoint: Path) -> None:
    broken = load_model(checkpoint, device="cpu")
    broken.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(NumericError):
        generate(broken, GenerateConfig(prompt="zebra", steps=2), SHAPE, [1])
    with pytest.raises(NumericError):
        list(interpolate(broken, film("horse", "zebra"), SHAPE, [1, 2]))


TRAILING = {"timestep_spacing": "trailing", "set_alpha_to_one": True}


@pytest.mark.parametrize(
    ("scheduler", "rescale"),
    [
        ({}, 0.0),
        ({}, 0.7),  # of eps; diffusers rescales v where the network predicts v
        (TRAILING, 0.0),
        ({"prediction_type": "v_prediction"}, 0.0),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, **TRAILING}, 0.0),
    ],
)
def test_pictures_are_those_of_diffusers_pipeline(
    build: Any, scheduler: dict[str, Any], rescale: float
) -> None:
    folder = build(**scheduler)
    ours = load_model(folder, device="cpu", dtype="float32")
    theirs = StableDiffusionPipeline(
        vae=ours.vae,
        text_encoder=ours.text_encoders[0],
        tokenizer=ours.tokenizers[0],
        unet=ours.unet,
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        wanted = theirs(
            prompt="a zebra",
            negative_prompt="a horse",
            num_inference_steps=10,
            guidance_scale=7.5,
            guidance_rescale=rescale,
            generator=torch.Generator().manual_seed(11),
            height=32,
            width=32,
            output_type="pt",
        ).images
    config = GenerateConfig(
        prompt="a zebra", negative_prompt="a horse", steps=10, guidance=GuidanceConfig(rescale=rescale)
    )
    assert (generate(ours, config, SHAPE, [11]) - wanted).abs().max() < 0.01
