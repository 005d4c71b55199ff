"""ddim.py: hand cases, exact oracles, properties, rejects, and diffusers' schedulers step by step."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from oracles import Oracle, row, sd_schedule, text, towards
from torch import Tensor

from diffedit_cli.core.ddim import ddim_step, decode, finish, invert, renoise, require_finite
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.schedules import add_noise, draw_noise, make_steps, v_to_eps, vp_level
from diffedit_cli.core.types import Latents, Schedule, Steps, Trajectory
from diffedit_cli.errors import NumericError
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import GuidanceConfig

SPACINGS = ["leading", "trailing", "linspace"]
PLAIN = GuidanceConfig(scale=1)


def noise(batch: int = 2, index: int = 0, shape: tuple[int, int, int] = (3, 4, 5)) -> Tensor:
    return draw_noise(shape, list(range(batch)), index).double()


def decoded(
    oracle: Any, start: Tensor, steps: Steps, config: GuidanceConfig = PLAIN, **more: Any
) -> list[Tensor]:
    return list(decode(oracle, start, steps, text(1), text(0), Guidance(config, steps), **more))


def test_step_by_hand() -> None:
    # x0 = (1 - sqrt(.75) .5) / .5 = 1.133975; .8 x0 + .6 .5
    assert ddim_step(row(1), row(0.5), vp_level(0.25), vp_level(0.64)).item() == pytest.approx(
        1.207180, abs=1e-6
    )


def test_two_steps_by_hand() -> None:
    """eps 1 throughout: up from 0 to abar .64 and .36, then down again."""
    schedule = Schedule(torch.tensor([0.64, 0.36], dtype=torch.float64), 1.0)
    oracle, steps = Oracle(lambda x, *_: torch.ones_like(x), schedule), make_steps(schedule, 2)
    up = list(invert(oracle, row(0), steps, text(0)))
    assert [x.item() for x in up] == pytest.approx([0.6, 0.8])
    assert [x.item() for x in decoded(oracle, up[-1], steps)] == pytest.approx([0.6, 0])
    assert oracle.asked == [[0], [1], [1], [0]]


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [1, 2, 25, 50])
def test_the_exact_eps_leads_to_x0(spacing: str, to_one: bool, count: int) -> None:
    x0, schedule = noise(), sd_schedule(spacing, to_one=to_one)
    oracle, steps = Oracle(towards(x0), schedule), make_steps(schedule, count)
    start = add_noise(x0, noise(index=1), steps.level(0))
    wanted = add_noise(x0, noise(index=1), vp_level(schedule.final_alpha))  # x0 where that is 1
    assert (decoded(oracle, start, steps)[-1] - wanted).abs().max() < 1e-12
    if to_one:  # and then from any noise whatever
        assert (decoded(oracle, 3 * noise(index=2), steps)[-1] - x0).abs().max() < 1e-12


@pytest.mark.parametrize("stride", [1, 2, 3, 99])
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_constant_eps_inverts_exactly(spacing: str, strength: float, stride: int) -> None:
    schedule = sd_schedule(spacing, to_one=True)
    x0, eps, steps = noise(), noise(index=1), make_steps(schedule, 25, strength)
    oracle = Oracle(lambda *_: eps, schedule)
    up = list(invert(oracle, x0, steps, text(0), stride))
    wanted = renoise(x0, eps, steps).latents
    assert len(up) == len(steps)
    assert torch.allclose(torch.stack([*up[::-1], x0]), wanted, atol=1e-12, rtol=0)
    assert torch.allclose(decoded(oracle, up[-1], steps)[-1], x0, atol=1e-12, rtol=0)


def test_renoise_keeps_the_source_and_reaches_every_level() -> None:
    x0, eps, steps = noise(), noise(index=1), make_steps(sd_schedule(), 10, 0.5)
    levels = renoise(x0, eps, steps).latents
    assert torch.equal(levels[-1], x0)
    for latents, level in zip(levels[:-1], steps.levels, strict=False):
        assert torch.equal(latents, add_noise(x0, eps, level))


def test_inversion_asks_at_the_timestep_it_leads_to_and_without_guidance() -> None:
    oracle, steps = Oracle(lambda x, *_: x), make_steps(sd_schedule(), 10, 0.8)
    list(invert(oracle, noise(), steps, text(0)))
    assert oracle.asked == [[t, t] for t in steps.timesteps.tolist()[::-1]]


@pytest.mark.parametrize(("stride", "asked"), [(1, [4, 3, 2, 1, 0]), (2, [4, 2, 0]), (3, [3, 1]), (9, [2])])
def test_one_forward_leads_over_as_many_levels_as_it_is_told(stride: int, asked: list[int]) -> None:
    oracle, steps = Oracle(lambda x, *_: x.sin()), make_steps(sd_schedule(), 5)
    up = [noise(), *invert(oracle, noise(), steps, text(0), stride)]
    assert len(up) == 6
    assert oracle.asked == [[int(steps.timesteps[i])] * 2 for i in asked]
    for number in range(1, min(stride, 5) + 1):  # the levels of the first prediction
        wanted = ddim_step(up[0], up[0].sin(), steps.level(5), steps.level(5 - number))
        assert torch.equal(up[number], wanted)


@given(st.integers(1, 12), st.floats(0.1, 1), st.floats(0, 1))
def test_outside_the_mask_each_step_ends_at_the_source_of_its_level(
    count: int, strength: float, soft: float
) -> None:
    """diffusers takes the level before, so its background ends noisy (fault 1)."""
    x0, steps = noise(), make_steps(sd_schedule(), count, strength)
    source = renoise(x0, noise(index=1), steps)
    mask = torch.zeros(2, 1, 4, 5, dtype=torch.float64)
    mask[..., 2, :], mask[..., 3, :] = soft, 1.0
    oracle = Oracle(lambda x, alphas, text: x.tanh() * (1 + text))
    config = GuidanceConfig(scale=5)
    run = decoded(oracle, source.latents[0], steps, config, mask=mask, source=source)
    before = source.latents[0]
    for i, after in enumerate(run):
        assert torch.equal(after[..., :2, :], source.latents[i + 1][..., :2, :])
        eps = before.tanh() * (1 + 5.0)  # u = tanh x, t = 2 tanh x
        free = ddim_step(before, eps, *steps.levels[i : i + 2])
        assert torch.allclose(after[..., 3, :], free[..., 3, :])
        blend = soft * free[..., 2, :] + (1 - soft) * source.latents[i + 1][..., 2, :]
        assert torch.allclose(after[..., 2, :], blend)
        before = after
    assert torch.equal(run[-1][..., :2, :], x0[..., :2, :])


@pytest.mark.parametrize("method", ["cfg", "apg", "adaptive", "cfg++"])
def test_pictures_of_a_batch_do_not_touch_each_other(method: Any) -> None:
    steps = make_steps(sd_schedule(), 6)
    oracle = Oracle(lambda x, alphas, text: (x * (1 + text)).sin())
    start, config = noise(3), GuidanceConfig(method=method)
    start[1] *= 30
    together = decoded(oracle, start, steps, config)[-1]
    up = list(invert(oracle, start, steps, text(0)))[-1]
    for i in range(3):
        alone = start[i : i + 1]
        assert torch.allclose(
            together[i : i + 1], decoded(oracle, alone, steps, config)[-1], rtol=1e-4, atol=1e-4
        )
        assert torch.allclose(up[i : i + 1], list(invert(oracle, alone, steps, text(0)))[-1], rtol=1e-6)


def test_finish_reports_every_step_and_decodes_the_last() -> None:
    x0, steps = torch.rand(2, 3, 4, 4).double(), make_steps(sd_schedule(to_one=True), 5)
    oracle, told = Oracle(towards(2 * x0 - 1), sd_schedule(to_one=True)), []
    run = decode(oracle, noise(shape=(3, 4, 4)), steps, text(1), text(0), Guidance(PLAIN, steps))
    pixels = finish(oracle, run, "paint", 5, lambda *now: told.append(now))
    assert torch.allclose(pixels, x0, atol=1e-12)
    assert told == [("paint", done, 5) for done in range(6)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_numbers_are_refused(bad: float) -> None:
    steps = make_steps(sd_schedule(), 3)

    def broken(x: Tensor, alphas: Tensor, text: Tensor) -> Tensor:
        eps = x.clone()
        eps[-1, 0, 0, 0] = bad
        return eps

    class BadDecoder(Oracle):
        def decode(self, latents: Latents) -> Latents:
            return super().decode(latents) * bad

    for oracle, words in (
        (Oracle(broken), "predicted picture"),
        (BadDecoder(lambda x, *_: x), "decoded picture"),
    ):
        for mask in (None, torch.zeros(2, 1, 4, 5, dtype=torch.float64)):
            source = renoise(noise(), noise(), steps)
            run = decode(
                oracle, noise(), steps, text(1), text(0), Guidance(PLAIN, steps), mask=mask, source=source
            )
            with pytest.raises(NumericError, match=words) as caught:
                finish(oracle, run, "decode", 3)
            assert "--dtype float32" in caught.value.hint
    require_finite(torch.ones(3), "nothing")


def theirs(kind: type, spacing: str, prediction: str, to_one: bool) -> Any:
    trained = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    return kind(
        **trained,
        timestep_spacing=spacing,
        prediction_type=prediction,
        steps_offset=1 if spacing == "leading" else 0,
        set_alpha_to_one=to_one,
    )


def as_trained(eps: Tensor, x: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """What a network of this prediction type would say where the noise is eps."""
    if prediction == "epsilon":
        return eps
    x0 = (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5
    return alpha**0.5 * eps - (1 - alpha) ** 0.5 * x0


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_decoding_is_diffusers_ddim(spacing: str, prediction: str, to_one: bool) -> None:
    scheduler = theirs(DDIMScheduler, spacing, prediction, to_one)
    scheduler.set_timesteps(25)
    schedule = sd_schedule(spacing, 1 if spacing == "leading" else 0, to_one)
    steps = make_steps(schedule, 25)
    assert steps.timesteps.tolist() == scheduler.timesteps.tolist()
    wanted = noise()
    run = decoded(Oracle(lambda x, *_: x.sin(), schedule), wanted, steps)
    for t, ours in zip(scheduler.timesteps, run, strict=True):
        said = as_trained(wanted.sin(), wanted, schedule.alphas_cumprod[t], prediction)
        wanted = scheduler.step(said, t, wanted).prev_sample
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_inversion_is_diffusers_ddim_inverse(spacing: str, prediction: str, to_one: bool) -> None:
    scheduler = theirs(DDIMInverseScheduler, spacing, prediction, to_one)
    scheduler.set_timesteps(25)
    schedule = sd_schedule(spacing, 1 if spacing == "leading" else 0, to_one)
    steps = make_steps(schedule, 25)
    assert steps.timesteps.tolist()[::-1] == scheduler.timesteps.tolist()
    wanted = noise()
    run = invert(Oracle(lambda x, *_: x.sin(), schedule), wanted, steps, text(0))
    for t, ours in zip(scheduler.timesteps, run, strict=True):
        # their inverse step starts at the level before t, and that is the one that v belongs to
        index = int(t) - 40
        start = schedule.alphas_cumprod[index] if index >= 0 else torch.tensor(schedule.final_alpha)
        said = as_trained(wanted.sin(), wanted, start, prediction)
        wanted = scheduler.step(said, t, wanted).prev_sample
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # in diffusers
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [1, 2, 3, 25])
def test_the_second_solver_is_diffusers_dpm_solver(spacing: str, count: int) -> None:
    schedule = sd_schedule(spacing, to_one=True)
    steps = make_steps(schedule, count, solver="dpm++")
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(timesteps=steps.timesteps.tolist())
    wanted = noise()
    for t, ours in zip(steps.timesteps, decoded(Oracle(exact_eps, schedule), wanted, steps), strict=True):
        alpha = schedule.alphas_cumprod[t].reshape(1, 1, 1, 1)
        wanted = scheduler.step(exact_eps(wanted, alpha, wanted), t, wanted).prev_sample
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def exact_eps(x: Tensor, alpha: Tensor, _: Tensor) -> Tensor:
    """What a perfect network says where pictures are N(0, 4)."""
    return (1 - alpha) ** 0.5 * x / (4 * alpha + 1 - alpha)


def test_the_second_solver_is_closer_to_the_exact_flow() -> None:
    """Where pictures are N(0, 4) the exact flow keeps x / sqrt(4 abar + 1 - abar)."""
    schedule, errors = sd_schedule(), {}
    for solver in ("ddim", "dpm++"):
        steps = make_steps(schedule, 12, solver=solver)
        first, last = float(steps.alphas[0]) ** 2, float(steps.alphas[-1]) ** 2
        exact = noise() * ((1 + 3 * last) / (1 + 3 * first)) ** 0.5
        errors[solver] = (decoded(Oracle(exact_eps, schedule), noise(), steps)[-1] - exact).abs().mean()
    assert errors["dpm++"] < errors["ddim"] / 2


@pytest.mark.parametrize("inside", [0.0, 0.5, 1.0])
def test_the_second_solver_blends_at_the_level_it_has_reached(inside: float) -> None:
    steps, x0 = make_steps(sd_schedule(), 10, 0.8, "dpm++"), noise()
    oracle = Oracle(exact_eps, sd_schedule())
    source = Trajectory(torch.stack([*list(invert(oracle, x0, steps, text(0)))[::-1], x0]))
    mask = torch.full_like(x0[:, :1], inside)
    run = decoded(oracle, source.latents[0], steps, mask=mask, source=source)
    if inside == 0:  # the background is the source's own at each level, and at the end x0 itself
        assert all(torch.equal(ours, level) for ours, level in zip(run, source.latents[1:], strict=True))
    free = decoded(oracle, source.latents[0], steps)
    assert torch.equal(run[0], torch.lerp(source.latents[1], free[0], mask))


def exact_v(x: Tensor, alpha: Tensor, std: float) -> Tensor:
    """What a perfect network says where pictures are N(0, std^2): v = sqrt(abar) eps - sqrt(1 - abar) x0."""
    ratio = x / (alpha * std**2 + 1 - alpha)
    return (alpha * (1 - alpha)) ** 0.5 * (1 - std**2) * ratio


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_a_v_network_comes_back_closer_than_in_diffusers(std: float) -> None:
    """v becomes eps at the timestep that is asked. diffusers takes the level that its step starts from."""
    x0, schedule, errors = std * noise(4), sd_schedule(), {}
    steps = make_steps(schedule, 25, 0.8)
    oracle = Oracle(lambda x, alpha, _: v_to_eps(x, exact_v(x, alpha, std), vp_level(alpha)), schedule)
    *_, top = invert(oracle, x0, steps, text(0))
    errors["ours"] = (decoded(oracle, top, steps)[-1] - x0).square().mean()
    scheduler = theirs(DDIMInverseScheduler, "leading", "v_prediction", False)
    scheduler.set_timesteps(25)
    top = x0
    for t in scheduler.timesteps[: len(steps)]:
        top = scheduler.step(exact_v(top, schedule.alphas_cumprod[t], std), t, top).prev_sample
    errors["theirs"] = (decoded(oracle, top, steps)[-1] - x0).square().mean()
    assert errors["ours"] < 0.85 * errors["theirs"]


def test_a_real_network_goes_up_and_down_again(model: DiffusersDenoiser) -> None:
    """Inversion and decoding under one prompt are a near round trip, closer with more steps."""
    x0, embeds = draw_noise((4, 8, 8), [1]), model.embed(["horse"])
    errors = []
    for count in (5, 50):
        steps = make_steps(model.schedule, count, 0.8)
        top = list(invert(model, x0, steps, embeds))[-1]
        back = list(decode(model, top, steps, embeds, embeds, Guidance(PLAIN, steps)))[-1]
        errors.append(float((back - x0).abs().max()))
    assert errors[1] < errors[0] / 3
