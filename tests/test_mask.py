"""mask.py: hand cases, plain-loop references, properties, and what diffusers' mask gets wrong."""

import itertools
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import Oracle, text, towards
from torch import Tensor

from diffedit_cli.core.diffedit import Texts, find_heat
from diffedit_cli.core.mask import (
    MICRO_BATCH,
    binarise,
    combine,
    difference_maps,
    drop_specks,
    enlarge,
    feather,
    fill_holes,
    grow,
    normalise,
    refine,
    weigh,
    widen,
)
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.settings import EditConfig, MaskConfig

RAW = MaskConfig(grow=0, fill_holes=False)


def grid(*lines: str) -> Tensor:
    """A mask drawn in characters: # is 1, . is 0."""
    return torch.tensor([[float(mark == "#") for mark in line] for line in lines])[None, None]


def draw(mask: Tensor) -> list[str]:
    return ["".join("#" if value else "." for value in line) for line in mask[0, 0].tolist()]


@st.composite
def masks(draw_from: st.DrawFn) -> Tensor:
    rows, columns = draw_from(st.integers(1, 7)), draw_from(st.integers(1, 7))
    cells = draw_from(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(cells).float().view(1, 1, rows, columns)


@st.composite
def heats(draw_from: st.DrawFn) -> Tensor:
    rows, columns = draw_from(st.integers(1, 6)), draw_from(st.integers(1, 6))
    values = st.integers(0, 800).map(lambda n: n / 8) | st.sampled_from([0.0, 1.0])
    cells = draw_from(st.lists(values, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(cells).view(1, 1, rows, columns)


def maps_of(oracle: Oracle, x0: Tensor, config: MaskConfig, seeds: list[int], *others: float) -> Tensor:
    """The maps (n b 3 h w) of the texts 1 (the reference), 3 (the query) and others."""
    texts = [text(value) for value in (1, 3, *others)]
    return torch.cat(list(difference_maps(oracle, x0, texts, config, seeds)))


def pieces(mask: Tensor) -> list[set[tuple[int, int]]]:
    """The sets of cells of a 2-d mask that touch side by side, by a flood from each."""
    left = {(int(row), int(column)) for row, column in mask.nonzero()}
    found = []
    while left:
        piece, edge = set(), {left.pop()}
        while edge:
            piece |= edge
            edge = {(r + i, c + j) for r, c in edge for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))} & left
            left -= edge
        found.append(piece)
    return found


def test_specks_are_dropped_by_hand() -> None:
    mask = grid("##..#", "##...", "...#.", "....#")
    heat = mask.clone()
    heat[0, 0, 2, 3] = 3.0
    assert draw(drop_specks(mask, heat, 0.5)) == ["##...", "##...", "...#.", "....."]
    assert draw(drop_specks(mask, heat, 0.76)) == ["##...", "##...", ".....", "....."]
    assert torch.equal(drop_specks(mask, heat, 0.0), mask)


@given(masks(), st.integers(0, 2**16), st.sampled_from([0.05, 0.3, 1.0]))
def test_the_pieces_that_stay_are_those_with_enough_heat(mask: Tensor, seed: int, share: float) -> None:
    heat = torch.randint(1, 9, mask.shape, generator=torch.Generator().manual_seed(seed)).float()
    weights = [sum(float(heat[0, 0][cell]) for cell in piece) for piece in pieces(mask[0, 0])]
    expected = torch.zeros_like(mask)
    for piece, weight in zip(pieces(mask[0, 0]), weights, strict=True):
        for cell in piece:
            expected[0, 0][cell] = float(weight >= share * max(weights))
    assert torch.equal(drop_specks(mask, heat, share), expected)
    both = drop_specks(torch.cat([torch.ones_like(mask), mask]), torch.cat([heat, heat]), share)
    assert torch.equal(both[1:], expected)  # pictures of a batch do not touch each other


def test_difference_maps_by_hand() -> None:
    """eps = text * p for the texts 1, 3 and 0; p is the pattern, n the noise. In means over the channels:
    gap = 2 |p|, reach = 4 p^2 + p^2, gain = (n - 3 p)^2 + n^2 - 2 (n - p)^2 = 7 p^2 - 2 n p."""
    pattern = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).view(1, 2, 1, 2)
    oracle = Oracle(lambda x, alphas, text: text * pattern)
    maps = maps_of(oracle, torch.zeros(1, 2, 1, 2), MaskConfig(samples=3), [5], 0)
    assert maps.shape == (3, 1, 3, 1, 2)
    assert torch.allclose(maps[:, 0, 0], torch.tensor([4.0, 2.0]))  # 2 (1 + 3) / 2 and 2 (2 + 0) / 2
    assert torch.allclose(maps[:, 0, 2], torch.tensor([25.0, 10.0]))  # 5 (1 + 9) / 2 and 5 (4 + 0) / 2
    noise = torch.stack([draw_noise((2, 1, 2), [5], 1 + k)[0] for k in range(3)])
    wanted = (7 * pattern**2 - 2 * noise * pattern).mean(1)
    assert torch.allclose(maps[:, 0, 1], wanted, atol=1e-5)


def test_weigh_by_hand() -> None:
    """Ten cells in a row, each weighed with its two neighbours."""
    gap = torch.full((1, 1, 1, 10), 2.0)
    reach = torch.full_like(gap, 4.0)
    for share, weight in ((1.0, 1.0), (3.0, 1.0), (0.0, 0.5), (0.5, 0.75)):
        assert torch.allclose(weigh(gap, share * reach, reach), weight * gap), share
    assert torch.allclose(weigh(gap, -reach, reach), 0.5 * gap)  # as poor as the whole picture
    halves = torch.cat([reach[..., :5], -reach[..., :5]], 3)  # known and unknown: 0 as a whole
    wanted = torch.tensor([2, 2, 2, 2, 4 / 3, 2 / 3, 0, 0, 0, 0])
    assert torch.allclose(weigh(gap, halves, reach), wanted.expand_as(gap), atol=1e-6)
    assert torch.equal(weigh(0 * gap, 0 * gap, 0 * gap), 0 * gap)  # no difference, and no 0 / 0


def test_a_neighbour_that_no_text_names_stays_out() -> None:
    """Left stands what the reference (1) names, so it tells the noise exactly. Right stands what no word
    means: reference and query (3) see as much of it, and the empty text (0) tells the noise best."""
    x0, column = torch.zeros(1, 3, 8, 8), torch.arange(8.0).expand(1, 1, 8, 8)
    exact = towards(x0)

    def formula(x: Tensor, alphas: Tensor, text: Tensor) -> Tensor:
        right = torch.where(text == 0, 0, text - 2)
        wrong = torch.where(column < 3, 1 - text, torch.where(column < 5, 0, right))
        return exact(x, alphas, text) + wrong

    def heat_of(ref: str, evidence: bool) -> Tensor:
        oracle, mask = Oracle(formula), replace(RAW, refine=0, clip=1, evidence=evidence)
        config = EditConfig(ref=ref, query="3", mask=mask)
        return find_heat(oracle, oracle.decode(x0), x0, Texts.embed(oracle, config), config, [3])

    assert draw(binarise(heat_of("1", True), RAW)) == ["###....."] * 8
    assert draw(binarise(heat_of("1", False), RAW)) == ["###..###"] * 8
    assert torch.equal(heat_of("", True), heat_of("", False))  # the empty text is true everywhere


def test_both_texts_see_the_source_under_the_same_noise_at_the_asked_level() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def formula(x: Tensor, alphas: Tensor, text: Tensor) -> Tensor:
        seen.append((x.double(), alphas))
        return x * text

    x0 = torch.tensor([2.0, -5.0]).view(2, 1, 1, 1).expand(2, 4, 3, 3)
    oracle = Oracle(formula)
    maps_of(oracle, x0, MaskConfig(samples=3, strength=(0.3, 0.5)), [7, 8])
    assert oracle.asked == [[299, 299, 499, 499] * 2, [299, 299] * 2]
    for (x, alphas), maps in zip(seen, ([0, 1], [2]), strict=True):
        first, second = x.chunk(2)
        assert torch.equal(first, second)
        noise = torch.cat([draw_noise((4, 3, 3), [7, 8], 1 + k) for k in maps])
        alpha = alphas.chunk(2)[0]
        wanted = alpha**0.5 * x0.repeat(len(maps), 1, 1, 1) + (1 - alpha) ** 0.5 * noise
        assert torch.allclose(first, wanted, atol=1e-5)


def test_every_map_has_noise_of_its_own() -> None:
    maps = maps_of(
        Oracle(lambda x, alphas, text: x * text), torch.zeros(2, 4, 5, 5), MaskConfig(samples=6), [1, 2]
    )
    rows = maps[:, :, 0].flatten(0, 1).flatten(1)
    assert all(not torch.allclose(a, b, rtol=0.01) for a, b in itertools.combinations(rows, 2))


@pytest.mark.parametrize(("batch", "samples"), [(1, 10), (1, 1), (2, 5), (3, 4), (5, 2)])
@pytest.mark.parametrize("texts", [2, 3])
def test_each_map_costs_a_forward_a_text_and_a_call_stays_small(batch: int, samples: int, texts: int) -> None:
    oracle, others = Oracle(lambda x, alphas, text: x * text), [0] * (texts - 2)
    x0 = torch.zeros(batch, 2, 3, 3)
    maps = maps_of(oracle, x0, MaskConfig(samples=samples), list(range(batch)), *others)
    assert maps.shape == (samples, batch, 3, 3, 3)
    assert sum(map(len, oracle.asked)) == texts * samples * batch
    assert max(map(len, oracle.asked)) <= max(MICRO_BATCH, texts * batch)


def test_normalise_by_hand() -> None:
    heat = torch.arange(101.0).view(1, 1, 1, 101)  # the .99 quantile is 99
    got = normalise(heat, 0.99).flatten()
    assert got[[0, 33, 99, 100]].tolist() == pytest.approx([0, 1 / 3, 1, 1])
    assert torch.equal(normalise(heat, 1.0).flatten(), heat.flatten() / 100)


def test_a_flat_picture_leaves_a_twofold_mean_with_its_peak_at_1() -> None:
    heat = torch.zeros(1, 1, 1, 7)
    heat[..., 3] = 0.9
    flat = torch.full((1, 3, 1, 7), 0.4)
    assert refine(heat, flat, 1).flatten().tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0], abs=1e-6
    )
    assert torch.equal(refine(torch.zeros_like(heat), flat, 1), torch.zeros_like(heat))
    assert torch.equal(refine(heat, flat, 0), heat)


def test_a_blurred_disc_gets_the_pictures_outline() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    away = ((y - 15) ** 2 + (x - 17) ** 2).sqrt()
    disc = (away < 8)[None, None]
    pixels = torch.where(disc, torch.tensor([0.7, 0.5, 0.2]).view(1, 3, 1, 1), 0.45)
    pixels = (pixels + 0.03 * draw_noise((3, 32, 32), [1])).repeat_interleave(4, 2).repeat_interleave(4, 3)
    blurred = (1.6 - away / 7).clamp(0, 1)[None, None] + 0.15 * draw_noise((1, 32, 32), [2])

    def iou(heat: Tensor) -> float:
        found = heat > 0.5
        return float((found & disc).sum() / (found | disc).sum())

    assert iou(blurred) < 0.8
    assert iou(refine(blurred, pixels, 6)) > 0.97


def test_one_hot_place_does_not_hide_the_rest() -> None:
    """diffusers removes no outliers (fault 6)."""
    heat = torch.zeros(1, 1, 20, 20)
    heat[..., 5:15, 5:15] = 1
    clean = binarise(normalise(heat, 0.99), RAW)
    heat[..., 0, 0] = 1000
    hurt = binarise(normalise(heat, 0.99), RAW)
    hurt[..., 0, 0] = 0
    assert torch.equal(clean, hurt)
    assert clean.sum() == 100


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_map_without_differences_becomes_0(value: float) -> None:
    """diffusers divides 0 by 0 and masks everything (fault 4)."""
    heat = torch.full((1, 1, 4, 4), value)
    assert not normalise(heat, 0.99).any()
    assert not binarise(normalise(heat, 0.99), MaskConfig(threshold=0)).any()


def test_few_hot_cells_below_the_quantile_still_count() -> None:
    heat = torch.zeros(1, 1, 20, 20)
    heat[0, 0, 3, 4] = 2
    assert normalise(heat, 0.99)[0, 0, 3, 4] == 1


def test_grow_by_hand() -> None:
    mask = grid(".....", ".#...", ".....", "....#")
    assert draw(grow(mask, 1)) == ["###..", "###..", "#####", "...##"]
    assert draw(grow(grid("####.", "####.", "####."), -1)) == [
        "###..",
        "###..",
        "###..",
    ]  # the border is no edge
    assert draw(grow(mask, -1)) == ["....."] * 4
    assert draw(grow(mask, 0)) == draw(mask)


def test_widen_by_hand() -> None:
    small = grid(".......", ".......", "...#...", ".......", ".......", ".......")
    large = grid("##.....", "##.....", ".......", ".......", ".......", ".......")
    both = torch.cat([small, large, torch.zeros_like(small)])
    wide = widen(both, 1.2)  # 1.2 and 2.4 cells, and of nothing nothing
    assert draw(wide[:1]) == [".......", "..###..", "..###..", "..###..", ".......", "......."]
    assert draw(wide[1:2]) == ["####..."] * 4 + ["......."] * 2
    assert not wide[2].any()
    assert torch.equal(widen(both, 0), both)
    assert torch.equal(widen(both, 0.2), both)  # less than half a cell


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([".....", ".###.", ".#.#.", ".###.", "....."], [".....", ".###.", ".###.", ".###.", "....."]),
        ([".....", ".###.", ".#.#.", ".#.#.", "....."], [".....", ".###.", ".#.#.", ".#.#.", "....."]),
        ([".#.", "#.#", ".#."], [".#.", "###", ".#."]),  # diagonals hold it shut
        (["###", "#.#", "#.#"], ["###", "#.#", "#.#"]),  # open to the border
        (
            ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"],
            ["#######"] * 7,
        ),
    ],
)
def test_fill_holes_by_hand(before: list[str], after: list[str]) -> None:
    assert draw(fill_holes(grid(*before))) == after


def test_binarise_by_hand() -> None:
    heat = torch.tensor([[[[0.0, 0.39, 0.4, 1.0]]]])
    some = MaskConfig(threshold=0.4)
    assert draw(binarise(heat, some)) == ["..##"]
    assert draw(binarise(heat, MaskConfig(grow=0, threshold=1))) == ["...#"]
    assert draw(binarise(heat, MaskConfig(grow=0, threshold=0))) == [".###"]
    assert draw(binarise(heat, replace(some, grow=1))) == [".###"]
    assert draw(binarise(heat, replace(some, grow=1, invert=True))) == ["#..."]
    ring = grid("....", ".##.", ".##.").sub(0)
    assert draw(binarise(ring, MaskConfig(grow=-1))) == ["....", "....", "...."]


def test_binarise_fills_before_it_shrinks() -> None:
    ring = grid("#####", "#####", "##.##", "#####", "#####")
    assert draw(binarise(ring, MaskConfig(grow=-1))) == ["#####"] * 5
    assert draw(binarise(ring, MaskConfig(grow=-1, fill_holes=False)))[2] == "#...#"


def test_combine_by_hand() -> None:
    mask, add, subtract = (
        torch.tensor(values).view(1, 1, 1, 4)
        for values in ([0.0, 0.2, 0.6, 1.0], [0.5, 0.5, 0.5, 0.0], [0.0, 0.0, 1.0, 0.25])
    )
    assert torch.equal(combine(mask), mask)
    assert combine(mask, add).flatten().tolist() == pytest.approx([0.5, 0.5, 0.6, 1])
    assert combine(mask, add, subtract).flatten().tolist() == pytest.approx([0.5, 0.5, 0, 0.75])
    assert combine(mask, subtract=subtract).flatten().tolist() == pytest.approx([0, 0.2, 0, 0.75])


def test_feather_by_hand() -> None:
    edge = grid(*["....######"] * 9)
    inside = feather(edge, 2)[0, 0, 4].tolist()
    assert inside == pytest.approx([0, 0, 0, 0, 0.2, 0.6, 1, 1, 1, 1])
    assert torch.equal(feather(edge, 0), edge)
    assert feather(torch.ones(1, 1, 3, 3), 40).eq(1).all()  # the border of the picture is no edge


def test_enlarge_by_hand() -> None:
    assert enlarge(torch.tensor([[[[0.0, 1.0]]]]), 2)[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])
    assert enlarge(torch.rand(2, 1, 3, 5), 8).shape == (2, 1, 24, 40)
    assert enlarge(torch.rand(1, 1, 7, 3), 4).amax() <= 1


def refine_by_loops(heat: Tensor, pixels: Tensor, radius: int, eps: float) -> Tensor:
    """Least squares in each window, one window at a time; then each cell's mean over the windows round it,
    and the peak scaled to 1."""
    rows, columns = heat.shape[2:]
    places = list(itertools.product(range(rows), range(columns)))

    def window(place: tuple[int, int]) -> list[tuple[int, int]]:
        return [q for q in places if max(abs(q[0] - place[0]), abs(q[1] - place[1])) <= radius]

    fits = {}
    for place in places:
        colours = torch.stack([pixels[0, :, y, x] for y, x in window(place)]).double()
        values = torch.stack([heat[0, 0, y, x] for y, x in window(place)]).double()
        away = colours - colours.mean(0)
        ridge = eps * torch.eye(3, dtype=torch.float64)
        a = torch.linalg.solve(
            away.T @ away / len(values) + ridge, away.T @ (values - values.mean()) / len(values)
        )
        fits[place] = torch.cat([a, (values.mean() - a @ colours.mean(0))[None]])
    out = torch.zeros_like(heat)
    for y, x in places:
        fit = torch.stack([fits[q] for q in window((y, x))]).mean(0)
        value = fit[:3] @ pixels[0, :, y, x].double() + fit[3]
        out[0, 0, y, x] = float(value.clamp(min=0))
    return out / (float(out.max()) or 1)


def weigh_by_loops(gap: Tensor, gain: Tensor, reach: Tensor) -> Tensor:
    """One picture: the weight of each cell from its neighbours, two on each side from 48 cells on."""
    rows, columns = gap.shape[-2:]
    radius = max(1, int(min(rows, columns) / 32 + 0.5))
    whole, result = float(gain.sum() / reach.sum()), gap.clone()
    for r, c in itertools.product(range(rows), range(columns)):
        window = (0, 0, slice(max(0, r - radius), r + radius + 1), slice(max(0, c - radius), c + radius + 1))
        share = float(gain[window].sum() / reach[window].sum())
        result[0, 0, r, c] *= min(1, max(0, (1 + share - min(whole, 0)) / 2))
    return result


def normalise_by_loops(heat: Tensor, clip: float) -> Tensor:
    values = sorted(float(v) for v in heat.flatten())
    place = clip * (len(values) - 1)
    under = min(int(place), len(values) - 1)
    over = min(under + 1, len(values) - 1)
    low, high = values[0], values[under] + (place - under) * (values[over] - values[under])
    if high <= low:
        high = values[-1]
    out = torch.zeros_like(heat)
    for i, j in itertools.product(*map(range, heat.shape[2:])):
        share = (float(heat[0, 0, i, j]) - low) / (high - low) if high > low else 0.0
        out[0, 0, i, j] = min(max(share, 0.0), 1.0)
    return out


def grow_by_loops(mask: Tensor, cells: int) -> Tensor:
    rows, columns = mask.shape[2:]
    pick = max if cells > 0 else min
    reach = range(-abs(cells), abs(cells) + 1)
    out = torch.zeros_like(mask)
    for i, j in itertools.product(range(rows), range(columns)):
        near = [
            float(mask[0, 0, i + di, j + dj])
            for di, dj in itertools.product(reach, repeat=2)
            if 0 <= i + di < rows and 0 <= j + dj < columns
        ]
        out[0, 0, i, j] = pick(near)
    return out


def fill_by_loops(mask: Tensor) -> Tensor:
    """Flood from every empty cell on the border; what the flood does not reach is filled."""
    rows, columns = mask.shape[2:]
    todo = [
        (i, j)
        for i, j in itertools.product(range(rows), range(columns))
        if (i in (0, rows - 1) or j in (0, columns - 1)) and not mask[0, 0, i, j]
    ]
    wet = set(todo)
    while todo:
        i, j = todo.pop()
        for y, x in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= y < rows and 0 <= x < columns and (y, x) not in wet and not mask[0, 0, y, x]:
                wet.add((y, x))
                todo.append((y, x))
    out = torch.ones_like(mask)
    for i, j in wet:
        out[0, 0, i, j] = 0
    return out


def feather_by_loops(mask: Tensor, width: int) -> Tensor:
    rows, columns = mask.shape[2:]
    out = torch.zeros_like(mask)
    for i, j in itertools.product(range(rows), range(columns)):
        near = [
            float(mask[0, 0, y, x])
            for y in range(max(0, i - width), min(rows, i + width + 1))
            for x in range(max(0, j - width), min(columns, j + width + 1))
        ]
        soft = 2 * sum(near) / len(near) - 1
        out[0, 0, i, j] = min(max(soft, 0.0), float(mask[0, 0, i, j]))
    return out


@given(heats(), st.floats(0.5, 1))
def test_normalise_against_loops(heat: Tensor, clip: float) -> None:
    normal = normalise(heat, clip)
    assert torch.allclose(normal, normalise_by_loops(heat, clip), atol=1e-3)
    assert bool(((normal >= 0) & (normal <= 1)).all())


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_refine_against_loops(seed: int, rows: int, columns: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heat, pixels = (torch.rand(1, c, rows, columns, generator=generator).double() for c in (1, 3))
    got = refine(heat, pixels, radius, eps=0.01)
    assert torch.allclose(got, refine_by_loops(heat, pixels, radius, 0.01), atol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (64, 40), (96, 64)])
def test_weigh_against_loops(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    gap, gain, reach = (torch.rand(2, 1, rows, columns, generator=generator).double() for _ in range(3))
    gain[1] -= 0.8  # poor as a whole
    assert gain[1].sum() < 0 < gain[0].sum()
    rows_of = (x.split(1) for x in (gap, gain, reach))
    wanted = torch.cat([weigh_by_loops(*part) for part in zip(*rows_of, strict=True)])
    assert torch.allclose(weigh(gap, gain, reach), wanted, atol=1e-9)


@given(masks(), st.integers(-3, 3), st.integers(0, 9))
def test_shapes_against_loops(mask: Tensor, cells: int, width: int) -> None:
    assert torch.equal(grow(mask, cells), grow_by_loops(mask, cells))
    assert torch.equal(fill_holes(mask), fill_by_loops(mask))
    assert torch.allclose(feather(mask, width), feather_by_loops(mask, width), atol=1e-6)


@given(masks(), st.integers(1, 3))
def test_growing_and_shrinking_are_mirror_images(mask: Tensor, cells: int) -> None:
    assert torch.equal(grow(1 - mask, cells), 1 - grow(mask, -cells))
    assert bool((grow(mask, cells) >= mask).all())
    assert torch.equal(grow(grow(mask, cells), 1), grow(mask, cells + 1))
    assert torch.equal(fill_holes(fill_holes(mask)), fill_holes(mask))


@given(heats(), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_higher_threshold_masks_less(heat: Tensor, a: float, b: float, fill: bool) -> None:
    normal = normalise(heat, 0.99)
    low, high = (binarise(normal, MaskConfig(threshold=t, grow=1, fill_holes=fill)) for t in sorted((a, b)))
    assert bool((low >= high).all())
    assert set(low.unique().tolist()) <= {0.0, 1.0}


@given(st.floats(1e-3, 1e3), st.floats(0.5, 1))
def test_scale_and_offset_of_the_heat_do_not_matter(k: float, clip: float) -> None:
    heat = draw_noise((1, 8, 9), [3]).abs().double()
    assert torch.allclose(normalise(k * heat, clip), normalise(heat, clip), atol=1e-5)
    assert torch.allclose(normalise(heat + k, clip), normalise(heat, clip), atol=1e-4 * max(k, 1))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=3))
def test_pictures_of_a_batch_do_not_touch_each_other(scales: list[float]) -> None:
    """diffusers takes one mean over the batch as threshold (fault 5)."""
    factors = torch.tensor(scales).view(-1, 1, 1, 1)
    heat = draw_noise((1, 9, 8), list(range(len(scales)))).abs() * factors
    config = MaskConfig()

    pixels = draw_noise((3, 18, 16), list(range(len(scales)))).sigmoid()

    def whole(heat: Tensor, pixels: Tensor) -> Tensor:
        refined = refine(normalise(heat, config.clip), pixels, 2)
        return feather(enlarge(binarise(refined, config), 2), 2)

    together = whole(heat, pixels)
    assert together.flatten(1).amax(1).gt(0).all()
    for i in range(len(scales)):
        assert torch.equal(together[i : i + 1], whole(heat[i : i + 1], pixels[i : i + 1]))


@given(masks(), st.floats(0, 5))
def test_a_feather_never_reaches_outside_the_mask(mask: Tensor, width: float) -> None:
    soft = feather(mask, width)
    assert bool((soft <= mask).all())
    assert bool((soft >= 0).all())


def test_half_precision_of_sdxls_size() -> None:
    heat = draw_noise((1, 128, 128), [1, 2]).abs()
    exact, half = (normalise(x, 0.99) for x in (heat, heat.half()))
    assert torch.allclose(half.float(), exact, atol=0.01)


def test_a_wide_feather_of_a_large_picture() -> None:
    """All at once 513 x 513 cells round each of 262,144 would take a quarter of a minute."""
    mask = torch.zeros(1, 1, 512, 512)
    mask[..., 256:] = 1
    start = time.perf_counter()
    soft = feather(mask, 100)[0, 0, 200]
    assert soft[[255, 256, 356]].tolist() == pytest.approx([0, 1 / 201, 1], abs=1e-4)
    assert feather(mask, 256).max() < 1  # wider than the mask
    assert time.perf_counter() - start < 5
