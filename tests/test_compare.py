"""compare.py: which tiles there are, what is said over them, what they share, and the grid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffedit_cli import edit_image, generate_image
from diffedit_cli.compare import (
    FADE,
    Comparison,
    combinations,
    compare,
    count_forwards,
    edit_configs,
    labels,
    prompt_configs,
)
from diffedit_cli.errors import SettingError
from diffedit_cli.images.masks import load_mask
from diffedit_cli.images.read import Picture, load_image, read_settings
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import EditConfig, read_lists

WORDS = {"ref": ["horse"], "query": ["zebra"], "steps": [3], "mask_samples": [2], "seed": [5]}


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    small = np.random.default_rng(3).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(small).resize((45, 37), Image.Resampling.BICUBIC).save(tmp_path / "in.png")
    return load_image(tmp_path / "in.png")


# ------------------------------------------------------------------------------------------- comma lists


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        ("guidance_norm", "none,pred", ["none", "pred"]),
        ("guidance_scale", "1, 7.5 ,3", [1.0, 7.5, 3.0]),
        ("guidance_interval", "0:1,0.2:0.8", ["0:1", "0.2:0.8"]),
        ("steps", "10,25,10", [10, 25]),
        ("mask_fill_holes", "on,OFF", [True, False]),
        ("mask_strength", "0.3+0.5,0.5", [(0.3, 0.5), (0.5,)]),
        ("ref", ",horse", ["", "horse"]),
        ("query", r"a zebra\, at night,donkey", ["a zebra, at night", "donkey"]),
    ],
)
def test_comma_lists(key: str, text: str, values: list[Any]) -> None:
    assert read_lists(EditConfig, {key: text}) == {key: values}


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("steps", "10,2.5", "--steps cannot be '2.5'"),
        ("guidance_scale", "1,much", "--guidance-scale cannot be 'much'"),
        ("seed", "1,", "--seed cannot be ''"),
        ("mask_invert", "on,maybe", "--mask-invert cannot be 'maybe'"),
        ("mask_strength", "0.3+x", "--mask-strength cannot be 'x'"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(key: str, text: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        read_lists(EditConfig, {key: text})


# ------------------------------------------------------------------------------------------ combinations


def test_the_longer_list_runs_across() -> None:
    lists = {"query": ["zebra", "cow"], "guidance_scale": [1.0, 2.0, 3.0], "steps": [9]}
    got = [(v["query"], v["guidance_scale"], v["steps"]) for v in combinations(lists)]
    assert got == [(q, g, 9) for q in ("zebra", "cow") for g in (1.0, 2.0, 3.0)]
    assert labels(lists, {})[:2] == ["zebra, scale 1", "zebra, scale 2"]


def test_labels_name_the_scale_that_a_norm_implies() -> None:
    lists = {"guidance_norm": ["none", "diff"]}
    assert labels(lists, {}) == ["norm none, scale 7.5", "norm diff, scale 0.15"]
    assert labels(lists, {"guidance_scale": 5}) == ["norm none, scale 5", "norm diff, scale 0.15"]
    assert labels({"guidance_norm": ["none", "pred"]}, {}) == ["norm none", "norm pred"]
    both = {"guidance_norm": ["diff", "both"], "guidance_scale": [0.1]}
    assert labels(both, {}) == ["norm diff", "norm both"]


def test_labels_of_every_kind() -> None:
    lists = {"mask_strength": [(0.3, 0.5), (0.5,)]}
    assert labels(lists, {}) == ["mask strength 0.3+0.5", "mask strength 0.5"]
    assert labels({"mask_fill_holes": [True, False]}, {}) == ["mask fill holes on", "mask fill holes off"]
    assert labels({"ref": ["", "horse"]}, {}) == ["ref (empty)", "ref horse"]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"query": ["zebra"]}, "nothing to compare"),
        ({"query": ["zebra", ""]}, "no query"),
        ({"seed": list(range(11)), "steps": list(range(1, 11))}, "110 tiles"),
        ({"guidance_norm": ["none", "wrong"]}, "--guidance-norm cannot be wrong"),
        ({"guidance_norm": ["none", "diff"], "guidance_scale": [7.5]}, "7.5 is too large"),
        ({"query": ["zebra"], "strength": [0.5, 3.0]}, "--strength 3.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(lists: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        edit_configs(lists)


@pytest.mark.parametrize("key", ["ref", "strength", "inversion", "mask_threshold", "mask_invert"])
def test_what_only_an_edit_has_is_refused_without_a_picture(key: str) -> None:
    with pytest.raises(SettingError, match="needs a picture"):
        prompt_configs({key: ["x", "y"]})


def test_without_a_picture_the_size_is_both_sides() -> None:
    (one, two) = prompt_configs({"query": ["a horse"], "size": [64], "steps": [1, 2]})
    assert (one.prompt, one.width, one.height, one.steps, two.steps) == ("a horse", 64, 64, 1, 2)


# ----------------------------------------------------------------------------------------------- drawing


def test_tiles_are_single_edits_and_share_what_they_can(
    model: DiffusersDenoiser, picture: Picture, unet_rows: list[int], encodes: list[int]
) -> None:
    lists = {**WORDS, "guidance_norm": ["none", "pred", "diff"], "mask_threshold": [0.3, 0.6]}
    result = compare(model, picture, lists)
    decode = 2 * 2  # 80 % of 3 steps, 2 forwards each
    assert sum(unet_rows) == result.run.forwards == 3 * 2 + 2 + 6 * decode
    assert count_forwards(lists, {}, has_picture=True) == result.run.forwards
    assert encodes == [1]
    for tile, config in zip(result.tiles, edit_configs(lists), strict=True):
        alone = edit_image(model, picture, config)
        assert tile.config == alone.config
        assert np.asarray(tile.image).tobytes() == np.asarray(alone.image).tobytes()
        assert (tile.coverage, tile.changed_outside) == (alone.coverage, 0)


@pytest.mark.parametrize(
    ("key", "values", "search", "inversions"),
    [
        ("guidance_scale", [2.0, 3.0], 6, 1),
        ("mask_grow", [0, 1], 6, 1),
        ("mask_evidence", [True, False], 6 + 4, 1),
        ("strength", [0.5, 0.51], 6, 2),
        ("query", ["zebra", "cow"], 12, 1),
        ("seed", [1, 2], 12, 1),
        ("mask_strength", [(0.3,), (0.5,)], 12, 1),
        ("negative_prompt", ["", "dull"], 6, 1),
    ],
)
def test_each_stage_is_run_once_for_all_that_ask_the_same(
    model: DiffusersDenoiser, picture: Picture, key: str, values: list[Any], search: int, inversions: int
) -> None:
    lists = {**WORDS, "steps": [2], key: values}
    decode = {"strength": 2}.get(key, 4)  # round(.5 * 2) = round(.51 * 2) = 1 step
    invert = {"strength": 1}.get(key, 2)
    expected = search + inversions * invert + 2 * decode
    assert compare(model, picture, lists).run.forwards == expected
    assert count_forwards(lists, {}, has_picture=True) == expected


def test_noise_and_texts_of_the_inversion_are_not_shared_across(
    model: DiffusersDenoiser, picture: Picture
) -> None:
    lists = {**WORDS, "inversion": ["noise", "negative-prompt", "ddim"], "ref": ["horse", "cow"]}
    result = compare(model, picture, lists)
    for tile in result.tiles:
        alone = edit_image(model, picture, tile.config)  # type: ignore[arg-type]
        assert np.asarray(tile.image).tobytes() == np.asarray(alone.image).tobytes()


def test_tiles_of_a_prompt(model: DiffusersDenoiser) -> None:
    lists = {"query": ["a horse"], "guidance_scale": [1.0, 4.0], "steps": [2]}
    result = compare(model, None, lists)
    assert len({tile.config.seed for tile in result.tiles}) == 1  # one random seed for all
    for tile in result.tiles:
        alone = generate_image(model, tile.config)  # type: ignore[arg-type]
        assert np.asarray(tile.image).tobytes() == np.asarray(alone.image).tobytes()
    assert result.run.forwards == count_forwards(lists, {}, has_picture=False) == 2 + 4


def test_progress_counts_forwards_to_the_end(model: DiffusersDenoiser, picture: Picture) -> None:
    seen: list[tuple[str, int, int]] = []
    lists = {**WORDS, "guidance_scale": [1.0, 4.0]}
    compare(model, picture, lists, report=lambda *step: seen.append(step))
    assert {(stage, total) for stage, _, total in seen} == {("compare", 6 + 2 + 2 + 4)}
    done = [step[1] for step in seen]
    assert done == sorted(done)
    assert done[-1] == 14


def test_progress_counts_with_the_models_own_strength(
    model: DiffusersDenoiser, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "own_defaults", {"strength": 1.0})
    seen: list[tuple[str, int, int]] = []
    lists = {**WORDS, "guidance_scale": [1.0, 4.0]}
    result = compare(model, picture, lists, report=lambda *step: seen.append(step))
    assert result.tiles[0].config.strength == 1.0
    assert seen[-1][1:] == (result.run.forwards, result.run.forwards)


# -------------------------------------------------------------------------------------------------- grid


def comparison(model: DiffusersDenoiser, picture: Picture, count: int) -> Comparison:
    """A comparison of as many tiles, each a copy of one edit."""
    one = compare(model, picture, {**WORDS, "guidance_scale": [1.0, 2.0]})
    lists = {**WORDS, "guidance_scale": [float(n) for n in range(1, count + 1)]}
    return replace(one, lists=lists, labels=labels(lists, {}), tiles=one.tiles[:1] * count)


@pytest.mark.parametrize(("count", "rows", "across"), [(2, 1, 3), (4, 1, 5), (5, 2, 3), (9, 2, 5)])
def test_one_list_is_broken_into_rows(
    model: DiffusersDenoiser, picture: Picture, count: int, rows: int, across: int
) -> None:
    sheet = comparison(model, picture, count).sheet()
    tile_width, gap = 256, 8
    assert sheet.width == across * (tile_width + gap) + gap
    assert sheet.height == pytest.approx(rows * (256 * 37 / 45 + 2 * gap + 16) + gap, abs=2 * rows)


def test_a_grid_begins_with_the_source_under_dark_labels(model: DiffusersDenoiser, picture: Picture) -> None:
    sheet = np.asarray(comparison(model, picture, 2).sheet())
    tile = np.asarray(picture.rgb.resize((256, round(256 * 37 / 45)), Image.Resampling.LANCZOS))
    top = next(y for y in range(len(sheet)) if (sheet[y, 8:264] == tile[0]).all())
    assert (sheet[top : top + len(tile), 8:264] == tile).all()
    for left in (8, 272, 536):
        assert (sheet[:top, left : left + 256].min(axis=2) < 60).sum() > 20  # letters
    assert (sheet[:, 264:272] == 255).all()


def test_the_film_goes_from_the_source_to_the_results_and_back(
    model: DiffusersDenoiser, picture: Picture
) -> None:
    result = compare(model, picture, {**WORDS, "guidance_scale": [1.0, 7.0]})
    frames = list(result.frames())
    assert len(frames) == len(FADE)
    assert frames[FADE.index(1.0)].tobytes() == result.sheet().tobytes()
    before = np.asarray(frames[0])
    width = 256 + 8
    source = before[:, 8:264][30:]
    assert (before[:, 8 + width : 264 + width][30:] == source).all()
    assert (before[:, 8 + 2 * width : 264 + 2 * width][30:] == source).all()
    away = [float(np.abs(np.asarray(frame, float) - before).mean()) for frame in frames[9:14]]
    assert away == sorted(away)
    assert away[0] == 0


def test_a_grid_is_no_larger_than_a_film_can_be(model: DiffusersDenoiser, picture: Picture) -> None:
    large = replace(picture, rgb=picture.rgb.resize((1800, 1480)))
    one = comparison(model, picture, 9)
    big = tuple(replace(tile, image=large.rgb) for tile in one.tiles)
    sheet = replace(one, picture=large, tiles=big).sheet()
    assert max(sheet.size) <= 4096
    assert sheet.width > 3500


def test_what_is_stored_and_told(model: DiffusersDenoiser, picture: Picture, tmp_path: Path) -> None:
    lists = {**WORDS, "guidance_norm": ["none", "pred"]}
    result = compare(model, picture, lists)
    result.save(tmp_path / "grid.png")
    stored = read_settings(tmp_path / "grid.png")
    assert stored is not None
    assert (stored["command"], stored["compare"]) == ("compare", {"guidance_norm": ["none", "pred"]})
    assert (stored["input"], stored["ref"], stored["seed"], stored["steps"]) == ("in.png", "horse", 5, 3)
    facts = result.facts()
    assert [tile["label"] for tile in facts["tiles"]] == ["norm none", "norm pred"]
    assert [tile["settings"]["guidance_norm"] for tile in facts["tiles"]] == ["none", "pred"]
    assert facts["forwards"] == sum(tile["forwards"] for tile in facts["tiles"])
    assert facts["settings"] == stored
    result.save(tmp_path / "bare.png", metadata=False)
    assert read_settings(tmp_path / "bare.png") is None


def test_a_mask_of_ones_own_is_used_in_every_tile(
    model: DiffusersDenoiser, picture: Picture, tmp_path: Path
) -> None:
    area = Image.new("L", picture.rgb.size)
    area.paste(255, (0, 0, 20, 37))
    area.save(tmp_path / "m.png")
    mask = load_mask(tmp_path / "m.png", picture.rgb.size)
    result = compare(model, picture, {**WORDS, "guidance_scale": [2.0, 5.0]}, mask=mask)
    for tile in result.tiles:
        image = np.asarray(tile.image)
        assert (image[:, 20:] == np.asarray(picture.rgb)[:, 20:]).all()
        assert (image[:, :20] != np.asarray(picture.rgb)[:, :20]).any()
