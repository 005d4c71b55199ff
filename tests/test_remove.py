"""Removing an object: what is found and what is refused, and that nothing of it is in what is drawn."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import invoke
from pictures import box_mask, noise
from PIL import Image
from torch import Tensor

from diffedit_cli import (
    DiffeditError,
    MaskConfig,
    Masks,
    Picture,
    RemoveConfig,
    Session,
    load_image,
    load_model,
    remove_object,
)
from diffedit_cli.core.fill import bridge, seamless
from diffedit_cli.errors import SettingError
from diffedit_cli.images.read import read_settings
from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, known_words, sibling_of

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = RemoveConfig(ref="horse", seed=3, steps=4, mask=MaskConfig(samples=2))
FEW = ["--steps", "4", "--mask-samples", "2", "--seed", "3"]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def embedded() -> DiffusersDenoiser:
    return load_model("embedded", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def horse() -> Picture:
    return load_image(EXAMPLES / "horse_park.jpg")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    box_mask((40, 30), (8, 8, 20, 22)).save("own.png")
    return invoke


def picture_of(pixels: np.ndarray) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return load_image(buffer.getvalue())


# the hole


def test_a_bridge_spans_the_hole_and_leaves_the_rest(pixels: Tensor) -> None:
    hole = torch.zeros(2, 1, 32, 32)
    hole[..., 10:18, 12:20] = 1
    hole[..., 18, 12:20] = 0.2
    filled = bridge(pixels, hole)
    assert torch.equal(torch.where(hole > 0, 0, filled), torch.where(hole > 0, 0, pixels))
    assert float((filled - pixels).abs().amax()) > 0.01
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    assert float((bridge(ramp, hole) - ramp).abs().amax()) < 0.01


def test_what_is_drawn_takes_the_tone_of_what_is_around() -> None:
    around, hole = torch.full((1, 3, 32, 32), 0.4), torch.zeros(1, 1, 32, 32)
    hole[..., 7:25, 7:25] = 1
    drawn = around + 0.1
    drawn[..., 16, 16] = 0.9
    laid = seamless(drawn, around, hole)
    assert torch.allclose(laid[..., 7:, :][..., 25:], around[..., 7:, :][..., 25:])
    assert float(laid[0, 0, 16, 16]) == pytest.approx(0.8, abs=1e-3)  # its own detail stays
    laid[..., 16, 16] = 0.4
    assert torch.allclose(laid, around, atol=1e-3)


def test_nothing_of_what_was_there_is_in_the_result(model: DiffusersDenoiser) -> None:
    """Two pictures that differ in the mask alone become the same inside it: the start holds no object."""
    one = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    other, mask = one.copy(), box_mask((32, 32), (8, 10, 20, 22))
    other[10:22, 8:20] = 255 - other[10:22, 8:20]
    results = [remove_object(model, picture_of(pixels), QUICK, mask=mask).image for pixels in (one, other)]
    assert results[0].tobytes() == results[1].tobytes() != Image.fromarray(one).tobytes()


def test_a_neighbour_can_be_kept_out(model: DiffusersDenoiser) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    masks = Masks(use=box_mask((32, 32), (8, 8, 24, 24)), subtract=box_mask((32, 32), (16, 0, 32, 32)))
    result = remove_object(model, picture_of(pixels), QUICK, mask=masks)
    changed = np.abs(np.asarray(result.image, int) - pixels).max(2) > 0
    assert changed[8:24, 8:16].any()
    assert not changed[:, 16:].any()
    assert result.changed_outside == 0


# the search


def test_the_object_is_found_and_only_its_place_changes(embedded: DiffusersDenoiser, horse: Picture) -> None:
    result = remove_object(embedded, horse, QUICK)
    before, after, mask = (np.asarray(image, int) for image in (horse.rgb, result.image, result.mask))
    assert result.recognised is not None
    assert result.recognised > 0.6
    assert 0.1 < result.coverage < 0.7
    assert result.changed_outside == 0
    assert (before[mask == 0] == after[mask == 0]).all()
    assert np.abs(before - after)[mask == 255].mean() > 8
    assert result.heat is not None
    assert (result.config.seed, result.config.size, result.config.zoom) == (3, 128, False)
    assert result.config.guidance.scale is not None
    assert repr(result).startswith("RemoveResult(without horse, mask ")


def test_the_place_is_recognised(embedded: DiffusersDenoiser, horse: Picture) -> None:
    result = remove_object(embedded, horse, QUICK)
    assert result.config.place == result.settings()["place"] == "park"
    named = remove_object(embedded, horse, replace(QUICK, place="park"))
    assert named.image.tobytes() == result.image.tobytes()
    assert named.run.forwards == result.run.forwards - 2 * 11  # places, at two noise levels each


def test_a_session_gives_the_same_and_searches_once(embedded: DiffusersDenoiser, horse: Picture) -> None:
    session = Session(embedded, horse)
    first, again = session.remove(QUICK), session.remove(replace(QUICK, place="desert"))
    assert first.image.tobytes() == remove_object(embedded, horse, QUICK).image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.image.tobytes() != again.image.tobytes()
    assert again.run.forwards < first.run.forwards


def test_an_object_that_is_not_there_is_refused(embedded: DiffusersDenoiser, horse: Picture) -> None:
    before = embedded.forwards
    with pytest.raises(DiffeditError, match=r"does not see bus in horse_park\.jpg, so") as caught:
        remove_object(embedded, horse, replace(QUICK, ref="bus"))
    assert "--mask" in caught.value.hint
    assert caught.value.exit_code == 1
    assert embedded.forwards - before <= 3 * QUICK.mask.samples  # nothing was drawn


def test_a_mask_of_ones_own_needs_no_object(embedded: DiffusersDenoiser, horse: Picture) -> None:
    own = box_mask(horse.rgb.size, (10, 10, 60, 60))
    result = remove_object(embedded, horse, replace(QUICK, ref="bus"), mask=own)
    assert result.recognised is None
    assert result.heat is None
    assert result.mask.tobytes() == own.tobytes()
    assert remove_object(embedded, horse, replace(QUICK, ref=""), mask=own).changed_outside == 0


@pytest.mark.parametrize(
    ("prompt", "sibling"),
    [
        ("horse", "zebra"),
        ("a white horse in the park", "zebra"),
        ("bowl of apples", "bowl of pears"),
        ("apple", "pear"),
        ("bowl of lemons", "bowl of oranges"),
        ("horseshoe", ""),
        ("", ""),
    ],
)
def test_the_sibling_of_a_word(prompt: str, sibling: str) -> None:
    assert sibling_of(known_words(EMBEDDED) or {}, prompt) == sibling


def test_a_vocabulary_of_one_has_no_sibling() -> None:
    assert sibling_of({"objects": ["horse"]}, "horse") == sibling_of({}, "horse") == ""


# what is refused


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (RemoveConfig(), "It is not clear what to remove."),
        (RemoveConfig(ref="  "), "It is not clear what to remove."),
        (RemoveConfig(ref="horse", place="Horse "), "is what is to be removed"),
    ],
)
def test_words_that_say_nothing_are_refused(
    model: DiffusersDenoiser, horse: Picture, config: RemoveConfig, says: str
) -> None:
    with pytest.raises(SettingError, match=says):
        remove_object(model, horse, config)


def test_an_inverted_mask_is_refused() -> None:
    with pytest.raises(SettingError, match="--mask-invert cannot be used to remove"):
        RemoveConfig(ref="horse", mask=MaskConfig(invert=True))


def test_a_mask_of_the_whole_picture_is_refused(model: DiffusersDenoiser, horse: Picture) -> None:
    whole = Image.new("L", horse.rgb.size, 255)
    with pytest.raises(DiffeditError, match="nothing left to fill it from"):
        remove_object(model, horse, QUICK, mask=whole)


# the command


def test_the_command_writes_the_picture_the_mask_and_the_grid(run: Run, checkpoint: Path) -> None:
    extras = ["--grid", "grid.png", "--save-mask", "mask.png", "--json"]
    model = ["--model", checkpoint, "--device", "cpu"]
    done = run("remove", "photo.png", "--ref", "horse", "--mask", "own.png", *FEW, *extras, *model)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["output"] == "photo-without-horse.png"
    assert facts["changed_outside"] == 0
    assert facts["recognised"] is None
    assert facts["forwards"] == 2 * 2  # 60 % of 4 steps, guided
    assert facts["settings"] == read_settings("photo-without-horse.png")
    assert facts["settings"]["command"] == "remove"
    assert facts["settings"]["mask_sha256"]
    with Image.open("mask.png") as mask, Image.open("own.png") as own, Image.open("grid.png") as sheet:
        assert mask.tobytes() == own.tobytes()
        assert sheet.width > 3 * 40


def test_a_dry_run_counts_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    before = {*tmp_path.iterdir()}
    done = run("remove", "photo.png", "--ref", "horse", "--place", "medow", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["output"] == "photo-without-horse.png"
    assert facts["forwards"] == {"mask": 18, "place": 0, "decode": 30}
    assert "does not know: medow" in facts["notices"][0]
    assert {*tmp_path.iterdir()} == before
    done = run("remove", "photo.png", "--mask", "own.png", "--dry-run")
    assert "Would remove what the mask covers from photo.png" in done.stderr
    assert "mask 0, place 22, decode 30." in done.stderr


def test_what_is_not_found_fails_with_a_hint_and_no_file(run: Run) -> None:
    done = run("remove", EXAMPLES / "horse_park.jpg", "--ref", "bus", *FEW, "-o", "out.png", "--json")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert facts["error"].startswith("The model does not see bus")
    assert "--mask" in facts["hint"]
    assert not Path("out.png").exists()


@pytest.mark.parametrize("flags", [[], ["--place", "meadow"], ["--ref", "horse", "--mask-invert"]])
def test_wrong_command_lines_end_with_code_2(run: Run, flags: list[str]) -> None:
    assert run("remove", "photo.png", *flags).exit_code == 2


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_rerun_gives_the_same_bytes(run: Run, checkpoint: Path, suffix: str) -> None:
    model = ["--model", checkpoint, "--device", "cpu"]
    mask = ["--mask", "own.png"]
    done = run("remove", "photo.png", "--ref", "horse", *mask, *FEW[:-2], *model, "-o", f"out.{suffix}")
    assert done.exit_code == 0, done.output
    done = run("rerun", f"out.{suffix}", *mask, *model)
    assert done.exit_code == 0, done.output
    assert Path(f"out-rerun.{suffix}").read_bytes() == Path(f"out.{suffix}").read_bytes()


def test_rerun_finds_the_same_object(run: Run, tmp_path: Path) -> None:
    photo = EXAMPLES / "horse_park.jpg"
    done = run("remove", photo, "--ref", "horse", *FEW, "-o", "out.png")
    assert done.exit_code == 0, done.output
    done = run("rerun", "out.png", photo)
    assert done.exit_code == 0, done.output
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
    done = run("rerun", "out.png", photo, "--place", "meadow", "-o", "meadow.png")
    assert done.exit_code == 0, done.output
    stored = read_settings("meadow.png")
    assert stored is not None
    assert (stored["ref"], stored["place"], stored["seed"]) == ("horse", "meadow", 3)
