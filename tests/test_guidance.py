"""guidance.py: the cases of guidance.md by hand, then properties, then whole runs."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import Oracle, row, sd_schedule, text
from torch import Tensor

from diffedit_cli.core.ddim import ddim_step
from diffedit_cli.core.guidance import (
    NORMS,
    Guidance,
    GuidanceState,
    apg,
    apg_length,
    cfg,
    cfg_both,
    cfg_cond,
    cfg_diff,
    cfg_plus_plus_scale,
    cfg_pred,
    cfg_token,
    cosine,
    forwards_per_run,
    norm,
    rescale,
)
from diffedit_cli.core.schedules import draw_noise, make_steps, vp_level
from diffedit_cli.core.types import Schedule, Steps
from diffedit_cli.settings import GuidanceConfig

NAMES = list(NORMS)
STEPS = make_steps(sd_schedule(), 10)


def near(got: Tensor, *wanted: float, within: float = 1e-5) -> None:
    assert got.flatten().tolist() == pytest.approx(wanted, abs=within, rel=within)


def noises(*seeds: int, shape: tuple[int, int, int] = (4, 6, 5)) -> tuple[Tensor, Tensor]:
    u, v = (draw_noise(shape, list(seeds), index) for index in (1, 2))
    return u, u + 0.3 * v


U, T = row(3, 4), row(3, 6)


@pytest.mark.parametrize(
    ("variant", "g", "wanted"),
    [
        (cfg, 7.5, (3, 19)),
        (cfg_pred, 7.5, (0.779813, 4.938815)),
        (cfg_cond, 7.5, (1.046229, 6.626115)),
        (cfg_diff, 0.15, (3, 4.75)),
        (cfg_both, 0.15, (2.669965, 4.227445)),
        (cfg_pred, 1, (2.236068, 4.472136)),  # not t: hence the rule that scale 1 gives t
    ],
)
def test_case_a(variant: Callable[..., Tensor], g: float, wanted: tuple[float, ...]) -> None:
    near(variant(U, T, g), *wanted)


def test_case_b_norms_are_taken_per_picture() -> None:
    u = torch.cat([row(3, 4), row(30, 40)])
    t = torch.cat([row(3, 6), row(30, 40)])
    near(cfg_pred(u, t, 7.5), 0.779813, 4.938815, 30, 40)


@pytest.mark.parametrize("name", NAMES)
def test_case_c_no_difference(name: str) -> None:
    near(NORMS[name](U, U, 7.5), 3, 4)
    near(rescale(cfg(U, U, 7.5), U, 0.7), 3, 4)
    near(apg(U, U, 7.5)[0], 3, 4)


def test_case_d_rescale() -> None:
    u, t = row(1, -1, 1, -1), row(2, -2, 0, 0)
    p = cfg(u, t, 2)
    near(p, 3, -3, -1, 1)
    near(rescale(p, t, 1), 1.897367, -1.897367, -0.632456, 0.632456)
    near(rescale(p, t, 0.7), 2.228157, -2.228157, -0.742719, 0.742719)
    near(rescale(p, t, 0), 3, -3, -1, 1)


def test_case_e_deviation_is_not_length() -> None:
    u, t = row(1, 3), row(2, 4)
    near(rescale(cfg(u, t, 7.5), t, 1), 8.5, 10.5)
    near(cfg_cond(u, t, 7.5), 2.813860, 3.475945)


def test_case_g_each_token_has_a_length_of_its_own() -> None:
    u, t = (torch.tensor(x).repeat_interleave(2, -1).expand(1, 1, 2, 4) for x in ([3.0, 1.0], [3.0, 2.0]))
    assert torch.equal(cfg_token(u, t, 4)[0, 0], torch.tensor([[3.0, 3, 2, 2]] * 2))
    assert float(cfg_cond(u, t, 4)[0, 0, 0, 0]) < 2.5


def test_case_f_apg() -> None:
    u, t = row(3, 0), row(3, 4)
    near(apg(u, t, 2, eta=0, r=0)[0], 1.08, 5.44)
    near(apg(u, t, 2, eta=1, r=2)[0], 3, 6)


def test_apg_momentum_by_hand() -> None:
    u, t = row(3, 0), row(3, 4)  # d = (0, 4)
    guided, momentum = apg(u, t, 2, row(2, 2).float(), eta=1, r=0)
    near(momentum, -1, 3)
    near(guided, 2, 7)


def test_case_g_cfg_plus_plus() -> None:
    u, t, x, levels = row(0.2), row(0.7), row(1), (vp_level(0.25), vp_level(0.64))
    scale = cfg_plus_plus_scale(0.6, *levels)
    assert scale == pytest.approx(1.058225, abs=1e-6)
    near(ddim_step(x, cfg(u, t, scale), *levels), 1.027180, within=1e-6)
    near(ddim_step(x, cfg(u, t, 0.6), *levels), 1.207180, within=1e-6)


@pytest.mark.parametrize("kind", ["linear-down", "cosine-down", "linear-up"])
def test_case_h_the_end_at_scale_1_costs_one_forward(kind: Any) -> None:
    config = GuidanceConfig(schedule=kind)
    assert forwards_per_run(config, 5) == 9
    assert run_of(config, make_steps(sd_schedule(), 5))[1] == 9


@pytest.mark.parametrize(
    ("config", "forwards"),
    [
        (GuidanceConfig(), 20),
        (GuidanceConfig(scale=1), 10),
        (GuidanceConfig(scale=1, norm="pred"), 10),
        (GuidanceConfig(scale=0), 20),
        (GuidanceConfig(interval="0.2:0.8"), 16),
        (GuidanceConfig(method="cfg++"), 20),
        (GuidanceConfig(method="cfg++", scale=1), 20),
        (GuidanceConfig(method="apg", interval="0:0.5"), 15),
    ],
)
def test_forwards_are_as_counted(config: GuidanceConfig, forwards: int) -> None:
    assert forwards_per_run(config, 10) == forwards
    assert run_of(config)[1] == forwards


@pytest.mark.parametrize("reuse", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "config",
    [
        GuidanceConfig(),
        GuidanceConfig(norm="cond", rescale=0.5, interval="0.1:0.8"),
        GuidanceConfig(method="cfg++"),
        GuidanceConfig(schedule="linear-up"),
    ],
)
def test_a_difference_that_stays_the_same_may_be_reused(config: GuidanceConfig, reuse: int) -> None:
    usual, _ = run_of(config)
    found, forwards = run_of(config, reuse=reuse)
    assert forwards == forwards_per_run(config, 10, reuse)
    for eps, wanted in zip(found, usual, strict=True):
        assert torch.allclose(eps, wanted, rtol=1e-4, atol=1e-5)


def test_what_is_reused_is_the_difference_and_not_the_prediction() -> None:
    """By hand, at scale 3: u is 0, unknown, 1 and t is 1, 2, 3."""
    said = [row(0), row(1), row(2), row(1), row(3)]  # u and t, then t alone, then both
    oracle = Oracle(lambda latents, *_: torch.cat([said.pop(0) for _ in range(len(latents))]))
    guidance, state, found = Guidance(GuidanceConfig(scale=3), STEPS, reuse=2), GuidanceState(), []
    for step in range(3):
        eps, state = guidance.predict(oracle, row(0), step, text(1), text(0), state)
        found.append(eps.item())
    assert found == [3, 4, 7]  # 0 + 3; 2 + 2 * 1; 1 + 3 * 2


def run_of(config: GuidanceConfig, steps: Steps = STEPS, reuse: int = 1) -> tuple[list[Tensor], int]:
    """The guided predictions of a run on latents that stand still, and what a picture of it cost."""
    u, t = noises(1)
    oracle = Oracle(lambda latents, alphas, text: torch.where(text > 0, t, u).expand_as(latents))
    guidance, state, found = Guidance(config, steps, reuse), GuidanceState(), []
    for step in range(len(steps)):
        eps, state = guidance.predict(oracle, u, step, text(1), text(0), state)
        found.append(eps)
    return found, sum(map(len, oracle.asked))


@pytest.mark.parametrize("config", [GuidanceConfig(norm="pred", scale=1), GuidanceConfig(interval="0:0.01")])
def test_scale_1_is_the_conditional_prediction_itself(config: GuidanceConfig) -> None:
    found, _ = run_of(config)
    assert all(torch.equal(eps, noises(1)[1]) for eps in found)


@given(st.sampled_from(NAMES), st.floats(0, 15))
def test_pictures_of_a_batch_do_not_touch_each_other(name: str, g: float) -> None:
    u, t = noises(1, 2, 3)
    u[2], t[1] = u[2] * 100, u[1]
    for variant in (
        lambda u, t: NORMS[name](u, t, g),
        lambda u, t: rescale(cfg(u, t, g), t, 0.7),
        lambda u, t: apg(u, t, g, 0.5 * u)[0],
        lambda u, t: cosine(u, t),
    ):
        together = variant(u, t)
        for i in range(3):
            one = slice(i, i + 1)
            assert torch.allclose(together[one], variant(u[one], t[one]), rtol=1e-5)


@given(st.sampled_from(NAMES), st.floats(0, 15), st.floats(1e-3, 1e3))
def test_scaling_both_scales_the_result(name: str, g: float, k: float) -> None:
    u, t = (x.double() for x in noises(1, 2))
    assert torch.allclose(NORMS[name](k * u, k * t, g), k * NORMS[name](u, t, g), rtol=1e-4, atol=1e-5 * k)
    assert torch.allclose(rescale(k * u, k * t, 0.7), k * rescale(u, t, 0.7), rtol=1e-4, atol=1e-5 * k)
    wanted = k * apg(u, t, g, r=0)[0]
    assert torch.allclose(apg(k * u, k * t, g, r=0)[0], wanted, rtol=1e-4, atol=1e-5 * k)


def length(x: Tensor) -> list[float]:
    """Plain loops in float64, no tensor arithmetic."""
    lengths = []
    for picture in range(len(x)):
        total = 0.0
        for channel in range(x.shape[1]):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    total += x[picture, channel, i, j].item() ** 2
        lengths.append(math.sqrt(total))
    return lengths


@given(st.floats(0.05, 15))
def test_lengths_against_plain_loops(g: float) -> None:
    u, t = noises(1, 2)
    size_u, size_t, size_d = (length(x) for x in (u, t, t - u))
    assert norm(u).flatten().tolist() == pytest.approx(size_u, rel=1e-5)
    assert length(cfg_pred(u, t, g)) == pytest.approx(size_u, rel=1e-4)
    assert length(cfg_both(u, t, g)) == pytest.approx(size_u, rel=1e-4)
    assert length(cfg_cond(u, t, g)) == pytest.approx(size_t, rel=1e-4)
    moved = length(cfg_diff(u, t, g) - u)
    assert moved == pytest.approx([g * size for size in size_u], rel=1e-4)
    assert size_d != pytest.approx(size_u, rel=0.1)


@given(st.floats(1.1, 15), st.floats(0.1, 30))
def test_apg_is_orthogonal_and_cut(g: float, r: float) -> None:
    u, t = noises(1, 2)
    guided, momentum = apg(u, t, g, r=r)
    update = (guided - t).double()
    assert torch.equal(momentum, t - u)
    assert (update * t).sum((1, 2, 3)).abs().max() < 1e-3 * g
    assert max(length(update)) <= (g - 1) * r * 1.001
    assert torch.allclose(apg(u, t, g, r=0, eta=1)[0], cfg(u, t, g), atol=1e-4)


def test_rescale_on_eps_is_not_rescale_on_v() -> None:
    """diffusers rescales what the network predicts: for a v checkpoint v, ours the eps that v stands for.

    abar = .36, x = (1, 1), v_u = (1, -1), v_t = (2, -2), g = 2, phi = 1. eps = .6 v + .8 x, so u = (1.4, .2),
    t = (2, -.4), p = (2.6, -1), and std(t) / std(p) = 2 / 3.
    """
    x, v_u, v_t = row(1, 1), row(1, -1), row(2, -2)
    u, t = (0.6 * v + 0.8 * x for v in (v_u, v_t))
    near(rescale(cfg(u, t, 2), t, 1), 2.6 * 2 / 3, -2 / 3)
    on_v = rescale(cfg(v_u, v_t, 2), v_t, 1)  # (3, -3) * 2 / 3
    near(0.6 * on_v + 0.8 * x, 2, -0.4)


def test_rescale_at_1_gives_the_deviation_of_the_conditional() -> None:
    u, t = noises(1, 2)
    got = rescale(cfg(u, t, 7.5), t, 1)
    for i in range(2):
        assert got[i].std().item() == pytest.approx(t[i].std().item(), rel=1e-5)


finite = st.one_of(st.just(0.0), st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-5, 5, width=32))
pairs = st.lists(st.tuples(finite, finite), min_size=3, max_size=3)


@given(pairs, st.floats(0, 15))
def test_finite_in_finite_out(pairs: list[tuple[float, float]], g: float) -> None:
    u, t = (row(*values).float() for values in zip(*pairs, strict=True))
    results = [NORMS[name](u, t, g) for name in NAMES]
    results += [rescale(cfg(u, t, g), t, 0.7), cosine(u, t), *apg(u, t, g), *apg(u, t, g, u, r=0)]
    assert all(bool(torch.isfinite(result).all()) for result in results)


def test_a_huge_ratio_of_lengths_is_finite() -> None:
    u, t = row(8, 0).float(), row(4, 1e-38).float()  # p = (0, 2e-38): |u| / |p| overflows
    for name in NAMES:
        assert bool(torch.isfinite(NORMS[name](u, t, 2)).all()), name


@pytest.mark.parametrize("name", NAMES)
def test_zero_predictions(name: str) -> None:
    zero = row(0, 0)
    near(NORMS[name](zero, zero, 7.5), 0, 0)
    near(cfg_diff(zero, T, 0.15), 0, 0)
    near(cfg_pred(zero, T, 7.5), 22.5, 45)  # as cfg
    near(cfg_pred(row(3, 4), row(1.5, 2), 2), 0, 0)  # p is 0
    near(rescale(zero, T, 1), 0, 0)
    assert cosine(zero, zero).item() == 1
    assert cosine(zero, T).item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_at_the_size_of_sdxl(name: str) -> None:
    u, t = noises(1, 2, shape=(4, 128, 128))  # 65,536 squares of unit variance overflow float16
    g = 0.15 if name in ("diff", "both") else 7.5
    exact = NORMS[name](u.half().double(), t.half().double(), g)
    assert torch.allclose(NORMS[name](u.half(), t.half(), g).double(), exact, atol=0.02, rtol=0.01)
    assert torch.allclose(
        rescale(u.half(), t.half(), 0.7).double(), rescale(u.double(), t.double(), 0.7), atol=0.02
    )
    assert torch.allclose(
        apg(u.half(), t.half(), g)[0].double(), apg(u.double(), t.double(), g)[0], atol=0.02, rtol=0.01
    )
    assert torch.allclose(cosine(u.half(), t.half()), cosine(u, t), atol=1e-3)


@pytest.mark.parametrize("strength", [0.1, 0.6, 1.0])
def test_cfg_plus_plus_step_is_the_papers(strength: float) -> None:
    found, _ = run_of(GuidanceConfig(method="cfg++", scale=strength))
    u, t = (x.double() for x in noises(1))
    for step, eps in enumerate(found):
        a, b = STEPS.level(step), STEPS.level(step + 1)
        x0 = (u - a.sigma * (u + strength * (t - u))) / a.alpha
        wanted = b.alpha * x0 + b.sigma * u
        assert torch.allclose(ddim_step(u, eps.double(), a, b), wanted, atol=1e-4)


def test_cfg_plus_plus_bears_two_equal_levels() -> None:
    """steps_offset 0 and a final abar of alphas_cumprod[0]: the last step leads nowhere."""
    steps = make_steps(sd_schedule(steps_offset=0), 10)
    assert steps.alphas[-1] == steps.alphas[-2]
    found, _ = run_of(GuidanceConfig(method="cfg++"), steps)
    assert all(bool(torch.isfinite(eps).all()) for eps in found)


def test_apg_carries_its_momentum_from_step_to_step() -> None:
    found, _ = run_of(GuidanceConfig(method="apg", scale=3))
    u, t = (x.double() for x in noises(1))
    momentum = None
    for (alpha, sigma), eps in zip(STEPS.levels, found, strict=False):
        x0_u, x0_t = ((u - sigma * e) / alpha for e in (u, t))
        x0, momentum = apg(x0_u, x0_t, 3, momentum, r=apg_length(u))
        wanted = (u - alpha * x0) / sigma
        assert torch.allclose(eps.double(), wanted, atol=1e-3, rtol=1e-3)


def test_the_cut_of_apg_grows_with_the_root_of_the_size() -> None:
    assert apg_length(torch.zeros(2, 4, 64, 64)) == 15
    assert apg_length(torch.zeros(1, 4, 16, 16)) == 3.75  # the embedded model
    assert apg_length(torch.zeros(1, 4, 128, 128)) == 30


def test_a_run_cuts_alike_at_any_size() -> None:
    """The same values tiled: 16 times as many, so a length that is 4 times as long."""
    guidance = Guidance(GuidanceConfig(method="apg", scale=5), STEPS)
    parts = [draw_noise((4, 16, 16), [0], index) for index in range(3)]
    small, large = (
        guidance.combine(u, t, latents, 0, GuidanceState())[0]
        for latents, u, t in (parts, [part.repeat(1, 1, 4, 4) for part in parts])
    )
    assert torch.allclose(small.repeat(1, 1, 4, 4), large, atol=1e-5)


def test_adaptive_goes_on_with_one_forward_when_all_have_settled() -> None:
    """Picture 0 settles at step 0 and stays so, though step 1 differs again; picture 1 at step 2."""
    u = torch.stack([row(1, 0)[0], row(1, 0)[0]])
    far, close = row(0, 1)[0], row(1, 0.01)[0]
    turns = [(close, far), (far, far), (far, close), (close, close), (close, close)]
    conds = [torch.stack(pair) for pair in turns]
    levels = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    alphas = torch.cat([levels, levels.new_ones(1)])
    steps = Steps(torch.arange(4, -1, -1), alphas, 1 - alphas)

    def formula(latents: Tensor, alphas: Tensor, text: Tensor) -> Tensor:
        t = conds[len(oracle.asked) - 1]
        return torch.where(text > 0, t if len(latents) == 2 else torch.cat([t, t]), u[:1])

    oracle = Oracle(formula, Schedule(levels.flip(0), 1.0))
    guidance, state = Guidance(GuidanceConfig(method="adaptive", scale=2), steps), GuidanceState()
    found = []
    for step in range(5):
        eps, state = guidance.predict(oracle, u, step, text(1), text(0), state)
        found.append(eps)
    assert [len(rows) for rows in oracle.asked] == [4, 4, 4, 2, 2]
    near(found[0], 1, 0.02, -1, 2)  # both guided
    near(found[1], 0, 1, -1, 2)  # picture 0 goes on with t alone
    near(found[2], 0, 1, 1, 0.02)
    near(found[3], 1, 0.01, 1, 0.01)
    assert forwards_per_run(GuidanceConfig(method="adaptive"), 5) == 10  # the most that it can take


def test_the_unet_is_asked_once_a_step_at_the_steps_timestep() -> None:
    oracle = Oracle(lambda latents, alphas, text: latents)
    latents = draw_noise((4, 2, 2), [1, 2])
    for step in range(len(STEPS)):
        Guidance(GuidanceConfig(), STEPS).predict(oracle, latents, step, text(1), text(0))
    assert oracle.asked == [[t] * 4 for t in STEPS.timesteps.tolist()]
