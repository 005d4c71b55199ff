"""schedules.py: hand cases, properties, rejects, and diffusers' timesteps."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from oracles import row, sd_alphas, sd_schedule

from diffedit_cli.core.schedules import (
    add_noise,
    append_dims,
    draw_noise,
    from_x0,
    guidance_scales,
    inside_interval,
    make_steps,
    round_half_up,
    to_x0,
    vp_level,
)
from diffedit_cli.core.types import Schedule
from diffedit_cli.errors import SettingError
from diffedit_cli.settings import GuidanceSchedule

TEN = Schedule(torch.linspace(0.9, 0.1, 10, dtype=torch.float64), final_alpha=1.0, steps_offset=1)


@pytest.mark.parametrize(
    ("value", "whole"), [(0.29 * 100, 29), (0.5, 1), (2.5, 3), (0.49, 0), (7, 7), (0.7 * 25, 18)]
)
def test_round_half_up(value: float, whole: int) -> None:
    assert round_half_up(value) == whole


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        ("constant", [7.5] * 5),
        ("linear-down", [7.5, 5.875, 4.25, 2.625, 1]),
        ("cosine-down", [7.5, 6.548097, 4.25, 1.951903, 1]),
        ("linear-up", [1, 2.625, 4.25, 5.875, 7.5]),
    ],
)
def test_guidance_scales(kind: GuidanceSchedule, scales: list[float]) -> None:
    assert guidance_scales(kind, 7.5, 1, 5) == pytest.approx(scales, abs=1e-6)
    assert guidance_scales(kind, 7.5, 1, 1) == [7.5]


@pytest.mark.parametrize(
    ("interval", "count", "guided"),
    [
        ((0, 1), 3, [0, 1, 2]),
        ((0.2, 0.8), 10, [2, 3, 4, 5, 6, 7]),
        ((0, 0.5), 5, [0, 1, 2]),  # 2.5 is rounded up
        ((0.29, 0.3), 100, [29]),  # int(0.29 * 100) is 28
        ((0.4, 0.41), 10, []),
    ],
)
def test_inside_interval(interval: tuple[float, float], count: int, guided: list[int]) -> None:
    inside = inside_interval(interval, count)
    assert [step for step, is_inside in enumerate(inside) if is_inside] == guided
    assert len(inside) == count


def test_make_steps_by_hand() -> None:
    whole = make_steps(TEN, 5)
    assert whole.timesteps.tolist() == [9, 7, 5, 3, 1]
    assert (whole.alphas**2).tolist() == pytest.approx(
        [0.1, 0.9 - 0.8 * 7 / 9, 0.9 - 4 / 9, 0.9 - 2.4 / 9, 0.9 - 0.8 / 9, 1]
    )
    assert (whole.alphas**2 + whole.sigmas**2).tolist() == pytest.approx([1] * 6)
    assert make_steps(TEN, 5, 0.4).timesteps.tolist() == [3, 1]
    assert make_steps(TEN, 5, 0.5).timesteps.tolist() == [5, 3, 1]  # 2.5 is rounded up
    assert make_steps(TEN, 5, 0.01).timesteps.tolist() == [1]


def test_add_noise_by_hand() -> None:
    noised = add_noise(row(2), row(4), vp_level(0.25))
    assert noised.item() == pytest.approx(0.5 * 2 + math.sqrt(0.75) * 4)


def test_noise_is_what_diffusers_draws() -> None:
    wanted = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    assert torch.equal(draw_noise((4, 8, 8), [7]), wanted)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.integers(0, 20))
def test_noise_of_a_picture_depends_on_its_own_seed(seeds: list[int], index: int) -> None:
    rows = draw_noise((2, 3, 4), seeds, index)
    for seed, noise in zip(seeds, rows, strict=True):
        assert torch.equal(noise, draw_noise((2, 3, 4), [seed], index)[0])
        assert not torch.equal(noise, draw_noise((2, 3, 4), [seed], index + 1)[0])
        assert not torch.equal(noise, draw_noise((2, 3, 4), [seed ^ 1], index)[0])


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4))
def test_each_picture_has_its_own_level(alphas: list[float]) -> None:
    x0, noise = (draw_noise((2, 3, 3), list(range(len(alphas))), index).double() for index in (0, 1))
    level = vp_level(append_dims(torch.tensor(alphas, dtype=torch.float64), x0))
    noised = add_noise(x0, noise, level)
    for i, abar in enumerate(alphas):
        alone = add_noise(x0[i : i + 1], noise[i : i + 1], vp_level(abar))
        assert torch.allclose(noised[i], alone[0], atol=1e-12)
    assert torch.allclose(to_x0(noised, noise, level), x0, atol=1e-10)
    assert torch.allclose(from_x0(noised, x0, level), noise, atol=1e-10)


def test_append_dims_takes_the_type_of_the_latents() -> None:
    values = append_dims(torch.tensor([0.5, 0.25], dtype=torch.float64), torch.zeros(2, 4, 8, 8))
    assert values.shape == (2, 1, 1, 1)
    assert values.dtype == torch.float32


@given(
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.integers(1, 1000),
    st.floats(0.01, 1),
    st.integers(0, 1),
    st.booleans(),
)
def test_steps_go_from_noise_to_picture(
    spacing: str, count: int, strength: float, offset: int, to_one: bool
) -> None:
    steps = make_steps(sd_schedule(spacing, offset, to_one), count, strength)
    assert len(steps) == max(1, math.floor(strength * count + 0.5 + 1e-9))
    assert bool((steps.timesteps.diff() <= 0).all())
    assert bool((steps.alphas.diff() >= 0).all())
    assert steps.alphas.dtype == torch.float64
    levels = [*sd_alphas()[steps.timesteps].tolist(), 1.0 if to_one else float(sd_alphas()[0])]
    assert steps.levels == [(abar**0.5, (1 - abar) ** 0.5) for abar in levels]  # to the bit
    whole = make_steps(sd_schedule(spacing, offset, to_one), count)
    assert torch.equal(steps.timesteps, whole.timesteps[-len(steps) :])


@given(
    st.sampled_from(["linear-down", "cosine-down", "linear-up"]),
    st.floats(0, 20),
    st.floats(0, 20),
    st.integers(2, 100),
)
def test_scales_reach_both_ends_and_never_turn(
    kind: GuidanceSchedule, scale: float, end: float, count: int
) -> None:
    scales = guidance_scales(kind, scale, end, count)
    ends = [end, scale] if kind == "linear-up" else [scale, end]
    assert [scales[0], scales[-1]] == pytest.approx(ends)
    ordered = sorted(scales, reverse=ends[0] > ends[1])
    assert scales == pytest.approx(ordered)


@pytest.mark.parametrize("count", [0, -1, 11])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(SettingError, match="out of range for this model") as caught:
        make_steps(TEN, count)
    assert caught.value.hint == "Give a value from 1 to 10."


def test_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing"):
        make_steps(Schedule(TEN.alphas_cumprod, 1.0, "karras"), 5)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_those_of_diffusers(spacing: str, offset: int) -> None:
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    for count in (1, 2, 3, 7, 10, 20, 25, 30, 50, 100, 333, 500, 999):
        theirs.set_timesteps(count)
        ours = make_steps(sd_schedule(spacing, offset), count).timesteps
        assert ours.tolist() == theirs.timesteps.tolist(), count
