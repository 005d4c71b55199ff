"""interpolate.py: hand cases, properties, rejects."""

import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import row
from torch import Tensor

from diffedit_cli.core.interpolate import (
    PARALLEL,
    ease,
    leg_weights,
    lerp,
    mean_gap,
    share_out,
    slerp,
    spread_evenly,
)
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.core.types import PromptEmbeds
from diffedit_cli.settings import Easing

EASINGS = ["linear", "smooth", "in", "out"]


def embeds(*values: float) -> PromptEmbeds:
    return PromptEmbeds(torch.tensor(values, dtype=torch.float64)[None, None])


def test_slerp_by_hand() -> None:
    got = slerp(row(2, 0), row(0, 4), [0, 0.5, 1])
    assert got.shape == (3, 1, 1, 2)
    assert got.flatten().tolist() == pytest.approx([2, 0, math.sqrt(2), 2 * math.sqrt(2), 0, 4])


def test_slerp_of_a_third() -> None:
    got = slerp(row(1, 0), row(0.5, math.sqrt(0.75)), [1 / 3])  # 60 degrees: 20 of them
    angle = math.radians(20)
    assert got.flatten().tolist() == pytest.approx([math.cos(angle), math.sin(angle)])


def test_lerp_by_hand() -> None:
    got = lerp(embeds(1, 10), embeds(3, -10), [0, 0.25, 1]).tokens
    assert got.flatten().tolist() == pytest.approx([1, 10, 1.5, 5, 3, -10])


@pytest.mark.parametrize("same", [row(2, -1), row(0, 0)])
def test_slerp_of_a_noise_with_itself_is_that_noise(same: Tensor) -> None:
    got = slerp(same, same, [0, 0.3, 1])
    assert torch.equal(got, same.expand(3, -1, -1, -1))


def test_slerp_of_nearly_parallel_noises_is_a_line() -> None:
    a, b = row(1, 0), row(3, 3 * math.tan(math.acos(PARALLEL) * 0.9))
    assert torch.allclose(slerp(a, b, [0.25]), 0.75 * a + 0.25 * b)


@pytest.mark.parametrize("opposite", [row(-2, 1), row(-4, 2), row(-2, 1.001)])
def test_slerp_of_opposite_noises_is_an_error(opposite: Tensor) -> None:
    with pytest.raises(ValueError, match="opposite"):
        slerp(row(2, -1), opposite, [0.5])


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("linear", [0, 0.25, 0.5, 1]),
        ("smooth", [0, 0.15625, 0.5, 1]),
        ("in", [0, 0.0625, 0.25, 1]),
        ("out", [0, 0.4375, 0.75, 1]),
    ],
)
def test_ease_by_hand(kind: Easing, wanted: list[float]) -> None:
    assert [ease(kind, weight) for weight in (0, 0.25, 0.5, 1)] == wanted


def test_leg_weights_by_hand() -> None:
    assert leg_weights(5, "linear") == [0, 0.25, 0.5, 0.75, 1]
    assert leg_weights(2, "smooth") == [0, 1]


@given(st.sampled_from(EASINGS), st.integers(2, 100))
def test_weights_run_from_0_to_1_and_never_back(kind: Easing, frames: int) -> None:
    weights = leg_weights(frames, kind)
    assert len(weights) == frames
    assert (weights[0], weights[-1]) == (0, 1)
    assert weights == sorted(weights)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(0, 1000))
def test_slerp_keeps_the_length_and_mirrors(weights: list[float], seed: int) -> None:
    a, b = (noise.double() for noise in draw_noise((2, 4, 4), [seed, seed + 1]).split(1))
    b = b * a.norm() / b.norm()
    got = slerp(a, b, weights)
    assert torch.allclose(got.flatten(1).norm(dim=1), a.norm().expand(len(weights)))
    assert torch.allclose(got, slerp(b, a, [1 - weight for weight in weights]))
    assert torch.allclose(slerp(3 * a, 3 * b, weights), 3 * got)
    for weight, alone in zip(weights, got, strict=True):
        assert torch.allclose(slerp(a, b, [weight])[0], alone)
    assert torch.allclose(slerp(a, b, [0.0, 1.0]), torch.cat([a, b]))


def test_slerp_in_half_precision_at_the_size_of_sdxl() -> None:
    a, b = draw_noise((4, 128, 128), [1, 2]).split(1)  # 65,536 squares overflow float16
    exact = slerp(a.double(), b.double(), [0.0, 0.3, 1.0])
    assert torch.allclose(slerp(a.half(), b.half(), [0.0, 0.3, 1.0]).double(), exact, atol=0.01)
    with pytest.raises(ValueError, match="opposite"):
        slerp(a.half(), -a.half(), [0.5])
    assert torch.allclose(slerp(a.half(), a.half(), [0.5]), a.half(), atol=1e-3)


def spread(frames: int, at_once: int) -> tuple[list[tuple[float, Tensor]], list[list[float]]]:
    """Frames of one grey value each: w ** 4, most of whose way lies at the end."""
    asked: list[list[float]] = []

    def render(weights: list[float]) -> list[Tensor]:
        asked.append(weights)
        return [torch.full((1, 3, 2, 2), weight**4) for weight in weights]

    return sorted(spread_evenly(render, frames, at_once, mean_gap), key=lambda frame: frame[0]), asked


def test_the_widest_gap_is_halved_first() -> None:
    found, asked = spread(5, 1)
    assert asked == [[0, 1], [0.5], [0.75], [0.875]]
    assert [weight for weight, _ in found] == [0, 0.5, 0.75, 0.875, 1]


@pytest.mark.parametrize("frames", [2, 3, 6, 12, 17])
@pytest.mark.parametrize("at_once", [1, 4])
def test_frames_look_more_evenly_spread_than_equal_weights(frames: int, at_once: int) -> None:
    found, asked = spread(frames, at_once)
    weights = [weight for weight, _ in found]
    assert len(found) == frames
    assert weights == sorted(set(weights))
    assert (weights[0], weights[-1]) == (0, 1)
    assert sum(map(len, asked)) == frames  # every rendered frame is kept
    assert all(len(part) <= max(2, at_once) for part in asked)
    for weight, pixels in found:
        assert float(pixels.mean()) == pytest.approx(weight**4)
    if frames >= 6:
        widest = max(b**4 - a**4 for a, b in pairwise(weights))
        equal = [i / (frames - 1) for i in range(frames)]
        assert widest < 0.8 * max(b**4 - a**4 for a, b in pairwise(equal))


def test_cuts_are_shared_out_by_hand() -> None:
    assert share_out([9, 3, 1], 4) == [4, 2, 1]  # parts of 2.25, 1.5 and 1
    assert share_out([1, 9], 1) == [1, 2]
    assert share_out([5], 4) == [5]
    assert share_out([2, 2], 0) == [1, 1]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5), st.integers(0, 6))
def test_no_other_cuts_leave_a_narrower_widest_part(gaps: list[float], cuts: int) -> None:
    parts = share_out(gaps, cuts)
    assert sum(parts) == len(gaps) + cuts
    widest = max(gap / n for gap, n in zip(gaps, parts, strict=True))
    for other in product(range(1, cuts + 2), repeat=len(gaps)):
        if sum(other) == sum(parts):
            assert widest <= max(gap / n for gap, n in zip(gaps, other, strict=True))


def test_several_cuts_at_once_go_where_the_change_is() -> None:
    def render(weights: list[float]) -> list[float]:
        return [1 / (1 + math.exp(-40 * (weight - 0.28))) for weight in weights]

    found = sorted(spread_evenly(render, 12, 4, lambda a, b: b - a))
    gaps = [b[1] - a[1] for a, b in pairwise(found)]
    assert max(gaps) < 2.5 * sum(gaps) / len(gaps)  # halving the four widest gaps each time leaves 6.1
