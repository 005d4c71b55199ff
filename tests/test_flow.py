"""The core on the levels of a flow, x = (1 - sigma) x0 + sigma eps, where a network predicts v = eps - x0."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from oracles import sd_schedule, text
from torch import Tensor

from diffedit_cli.core.costs import edit_forwards
from diffedit_cli.core.ddim import decode, invert, renoise
from diffedit_cli.core.flowedit import flow_edit
from diffedit_cli.core.guidance import Guidance, cfg_plus_plus_scale
from diffedit_cli.core.schedules import add_noise, draw_noise, from_x0, to_eps, to_x0
from diffedit_cli.core.types import Level, PromptEmbeds, Steps, Trajectory
from diffedit_cli.settings import EditConfig, GuidanceConfig, Solver

PLAIN = GuidanceConfig(scale=1)


class Flow:
    """A Denoiser whose velocity is a plain formula of latents, time in [0, 1] and text, each (b 1 1 1)."""

    schedule = sd_schedule()  # not asked

    def __init__(self, formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self.formula = formula
        self.asked: list[float] = []

    def encode(self, pixels: Tensor) -> Tensor:
        return 2 * pixels - 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2 + 0.5

    def embed(self, prompts: Any) -> PromptEmbeds:
        return text(*(float(prompt or 0) for prompt in prompts))

    def predict(self, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds) -> Tensor:
        self.asked.append(float(timesteps[0]))
        times = (timesteps / 1000).to(latents)[:, None, None, None]
        return self.formula(latents, times, embeds.tokens[:, :1, :1, None].to(latents))


def wavy(x: Tensor, time: Tensor, text: Tensor) -> Tensor:
    return (x + time).sin() * (1 + text)


def flow_steps(count: int, strength: float = 1.0, solver: Solver = "ddim", shift: float = 3.0) -> Steps:
    """Those of FlowMatchEulerDiscreteScheduler, from pure noise on; of a strength, the last ones."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(count)
    taken = max(1, round(strength * count))
    sigmas = scheduler.sigmas.double()[-taken - 1 :]
    return Steps(scheduler.timesteps[-taken:], 1 - sigmas, sigmas, solver, "flow")


def noise(index: int = 0) -> Tensor:
    return draw_noise((3, 4, 5), [1, 2], index)


def decoded(
    flow: Flow, start: Tensor, steps: Steps, config: GuidanceConfig = PLAIN, **more: Any
) -> list[Tensor]:
    return list(decode(flow, start, steps, text(1), text(0), Guidance(config, steps), **more))


@pytest.mark.parametrize("count", [1, 4, 28])
def test_a_step_is_eulers(count: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(count)
    flow, steps, wanted = Flow(wavy), flow_steps(count), noise()
    assert steps.level(0) == (0, 1)
    for t, ours in zip(scheduler.timesteps, decoded(flow, wanted, steps), strict=True):
        times, said = (t / 1000).expand(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
        wanted = scheduler.step(wavy(wanted, times, said), t, wanted).prev_sample
        assert (ours - wanted).abs().max() < 1e-6 * max(1, float(wanted.abs().max()))
    assert flow.asked == pytest.approx(scheduler.timesteps.tolist())


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # in diffusers
def test_the_second_solver_is_diffusers_dpm_solver() -> None:
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.double()
    steps = Steps(sigmas[:-1] * 1000, 1 - sigmas, sigmas, "dpm++", "flow")
    wanted = noise()
    for sigma, t, ours in zip(sigmas, scheduler.timesteps, decoded(Flow(wavy), wanted, steps), strict=False):
        said = wavy(wanted, sigma.float().expand(2, 1, 1, 1), torch.ones(2, 1, 1, 1))
        wanted = scheduler.step(said, t, wanted).prev_sample
        assert torch.allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_a_run_from_pure_noise_ends_at_x0(solver: Solver) -> None:
    """v = eps - x0 = (x - x0) / sigma leads every noise to x0."""
    x0 = 2 * noise(1)
    flow = Flow(lambda x, time, _: (x - x0) / time)
    *_, last = decoded(flow, noise(), flow_steps(10, solver=solver))
    assert (last - x0).abs().max() < 1e-5


@pytest.mark.parametrize("config", [GuidanceConfig(scale=4), GuidanceConfig(method="cfg++")])
@pytest.mark.parametrize("is_inverted", [True, False])
def test_outside_the_mask_each_level_is_the_sources(config: GuidanceConfig, is_inverted: bool) -> None:
    x0, steps = noise(1), flow_steps(10, 0.8)
    if is_inverted:
        source = Trajectory(torch.stack([*list(invert(Flow(wavy), x0, steps, text(0)))[::-1], x0]))
    else:
        source = renoise(x0, noise(), steps)
    mask = torch.zeros(2, 1, 4, 5)
    mask[..., 2:, :] = 1
    run = decoded(Flow(wavy), source.latents[0], steps, config, mask=mask, source=source)
    assert all(
        torch.equal(a[..., :2, :], b[..., :2, :]) for a, b in zip(run, source.latents[1:], strict=True)
    )
    assert torch.equal(run[-1][..., :2, :], x0[..., :2, :])
    assert (run[-1] - x0)[..., 2:, :].abs().max() > 0.1


def test_a_prediction_tells_x0_and_eps_and_is_told_by_x0() -> None:
    x0, eps = noise(1).double(), noise(2).double()
    for level in (Level(0.0, 1.0), Level(0.3, 0.7)):
        x, v = add_noise(x0, eps, level), eps - x0
        for found, wanted in (
            (to_x0(x, v, level, "flow"), x0),
            (to_eps(x, v, level, "flow"), eps),
            (from_x0(x, x0, level, "flow"), v),
        ):
            assert torch.allclose(found, wanted, atol=1e-12)


def test_cfg_plus_plus_is_the_papers_step_from_pure_noise_on() -> None:
    """x0 from u + strength (t - u), noised again with the eps of u."""
    u, t, x = noise(1).double(), noise(2).double(), noise().double()
    for here, after in ((Level(0.0, 1.0), Level(0.3, 0.7)), (Level(0.3, 0.7), Level(1.0, 0.0))):
        scaled = u + cfg_plus_plus_scale(0.6, here, after) * (t - u)
        ours = add_noise(to_x0(x, scaled, here, "flow"), to_eps(x, scaled, here, "flow"), after)
        wanted = add_noise(to_x0(x, u + 0.6 * (t - u), here, "flow"), to_eps(x, u, here, "flow"), after)
        assert torch.allclose(ours, wanted, atol=1e-12)


def towards(x: Tensor, time: Tensor, text: Tensor) -> Tensor:
    """The exact velocity where every picture of a text has its number as all of its values."""
    return (x - text) / time


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_flowedit_moves_the_picture_by_the_difference_of_the_texts(scale: float) -> None:
    """Inside the mask the end is x0 + query - ref; guided, both are g times as far from the empty text."""
    x0, steps, texts = noise(1).double(), even_steps(8, 1.0, shift=3.0), (text(2), text(5), text(0))
    mask = torch.zeros(2, 1, 4, 5).double()
    mask[..., 2:, :] = 1
    flow = Flow(towards)
    run = list(flow_edit(flow, x0, steps, *texts, GuidanceConfig(scale=scale), mask, [1, 2]))
    moved = 5 * scale - 2 * max(1.0, 0.26 * scale)
    assert torch.allclose(run[-1][..., 2:, :], x0[..., 2:, :] + moved, atol=1e-9)
    assert all(torch.equal(latents[..., :2, :], x0[..., :2, :]) for latents in run)
    assert len(flow.asked) == 16
    config = EditConfig(inversion="flowedit", strength=1, steps=8, guidance=GuidanceConfig(scale=scale))
    costs = edit_forwards(config, search=False)
    assert costs == {"mask": 0, "invert": 0, "decode": 16 if scale == 1 else 32}


def test_flowedit_under_one_text_leaves_the_picture() -> None:
    x0, mask = noise(1), torch.ones(2, 1, 4, 5)
    run = flow_edit(Flow(wavy), x0, flow_steps(6), text(1), text(1), text(0), PLAIN, mask, [1, 2])
    assert all(torch.allclose(latents, x0, atol=1e-5) for latents in run)


def even_steps(count: int, strength: float, shift: float) -> Steps:
    """The levels at the times 1, 1 - 1/n, ..., 0, shifted, as FLUX has them."""
    times = torch.linspace(1, 0, count + 1, dtype=torch.float64)[-round(strength * count) - 1 :]
    sigmas = shift * times / (1 + (shift - 1) * times)
    return Steps(1000 * sigmas[:-1], 1 - sigmas, sigmas, target="flow")


def gaussian(x: Tensor, time: Tensor, _: Tensor, std: float = 0.3) -> Tensor:
    """The exact velocity where pictures are normal with this deviation."""
    alpha = 1 - time
    return x / (time**2 + alpha**2 * std**2) * (time - alpha * std**2)


def test_rounds_bring_the_way_back_closer() -> None:
    x0, steps, errors = 0.3 * noise(1).double(), even_steps(28, 0.8, shift=3.16), list[float]()
    for rounds in (0, 1, 2):
        flow = Flow(gaussian)
        *_, top = invert(flow, x0, steps, text(0), rounds=rounds)
        assert len(flow.asked) == len(steps) * (1 + rounds)
        errors.append(float((decoded(flow, top, steps)[-1] - x0).norm() / x0.norm()))
    assert errors == pytest.approx([0.096, 0.0101, 0.0011], rel=0.05)


def test_a_round_that_diverges_is_not_taken() -> None:
    """Of a batch, only the picture for which it diverges goes without."""
    x0, steps = noise(1).double(), even_steps(4, 1.0, shift=1.0)
    steep = torch.tensor([20.0, 0.5]).double()[:, None, None, None]
    flow = Flow(lambda x, *_: (steep[: len(x)] * x).sin())
    plain, refined = (next(invert(flow, x0, steps, text(0), rounds=rounds)) for rounds in (0, 5))
    alone = next(invert(flow, x0[:1], steps, text(0), rounds=5))
    assert torch.equal(refined[0], plain[0])
    assert torch.equal(refined[:1], alone)
    assert (refined[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("config", [GuidanceConfig(method=m, scale=0.9) for m in ("apg", "adaptive")])
def test_guidance_bears_pure_noise(config: GuidanceConfig) -> None:
    run = decoded(Flow(wavy), noise(), flow_steps(6), config)
    assert all(bool(torch.isfinite(latents).all()) for latents in run)
