"""Grey in a user's mask is the strength of its place (differential diffusion)."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import box_mask, noise, opened
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from diffedit_cli import EditConfig, MaskConfig, Masks, animate_edit, edit_image, load_mask
from diffedit_cli.cli.app import app
from diffedit_cli.core.ddim import begun
from diffedit_cli.core.diffedit import Areas, DiffEdit
from diffedit_cli.images.write import save_image
from diffedit_cli.models import DiffusersDenoiser

Run = Callable[..., Any]
TEXTS = EditConfig(ref="horse", query="zebra", seed=3, steps=10, strength=0.8, zoom=False)
BLEND = replace(TEXTS, mask=MaskConfig(grey="blend"))


def ramp(width: int = 40, height: int = 30) -> Image.Image:
    """Black on the left, white on the right."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def changes(result: Any) -> np.ndarray:
    before, after = (np.asarray(image, float) for image in (result.picture.rgb, result.image))
    return np.abs(after - before).mean(2)


# ----------------------------------------------------------------------------------------------- the core


def test_grey_is_redrawn_in_its_share_of_the_steps_by_hand() -> None:
    mask = torch.tensor([0, 0.2, 0.25, 0.5, 0.6, 1]).view(1, 1, 1, 6)
    taken = [[int(x) for x in begun(mask, left, 4).flatten()] for left in (4, 3, 2, 1)]
    assert taken == [
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 1, 1, 1, 1, 1],
    ]


def test_a_flat_grey_is_an_edit_of_less_strength(model: DiffusersDenoiser, pixels: Tensor) -> None:
    """8 steps at half grey: the last 4, as at half the strength."""
    whole = torch.ones(1, 1, 16, 16)
    grey = DiffEdit(model, pixels[:1]).edit(TEXTS, [3], Areas(whole / 2, is_grey=True))
    half = DiffEdit(model, pixels[:1]).edit(replace(TEXTS, strength=0.4), [3], Areas(whole))
    assert torch.equal(grey.pixels, half.pixels)


def test_a_mask_of_0_and_1_means_the_same_either_way(model: DiffusersDenoiser, pixels: Tensor) -> None:
    half = torch.zeros(1, 1, 16, 16)
    half[..., 8:] = 1
    edited = [
        DiffEdit(model, pixels[:1]).edit(TEXTS, [3], Areas(half, is_grey=grey)) for grey in (False, True)
    ]
    assert torch.equal(edited[0].pixels, edited[1].pixels)


# --------------------------------------------------------------------------------------------- the picture


def test_strength_rises_along_a_ramp_and_nothing_changes_at_black(model: DiffusersDenoiser) -> None:
    config = replace(TEXTS, steps=12, strength=1.0, keep_detail=False)
    results = [edit_image(model, opened(noise(40, 30, seed=n)), config, mask=ramp()) for n in range(3)]
    bands = np.mean([changes(result).reshape(30, 4, 10).mean((0, 2)) for result in results], 0)
    assert (np.diff(bands) > 0).all(), bands
    for result in results:
        assert result.changed_outside == 0
        assert not changes(result)[np.asarray(result.mask) == 0].any()
        assert result.mask.tobytes() == ramp().tobytes()


def test_what_is_redrawn_is_not_mixed_with_the_picture(model: DiffusersDenoiser) -> None:
    """Where a place is redrawn at half the strength the result shows that, and not half of it."""
    picture, flat = opened(noise(40, 30)), np.full((30, 40), 0.5)
    config = replace(TEXTS, keep_detail=False)
    grey = edit_image(model, picture, config, mask=flat)
    half = edit_image(model, picture, replace(config, strength=0.4), mask=np.ones((30, 40), bool))
    assert grey.image.tobytes() == half.image.tobytes()
    assert grey.image.tobytes() != edit_image(model, picture, BLEND, mask=flat).image.tobytes()


def test_a_binary_mask_is_no_grey_one_whatever_its_size(model: DiffusersDenoiser) -> None:
    """Scaling gives it grey rims, which mean what they always did."""
    small = np.zeros((15, 20), np.uint8)
    small[4:11, 5:13] = 255
    for mask in (box_mask((40, 30), (5, 5, 21, 21)), load_mask(Image.fromarray(small), (40, 30))):
        picture = opened(noise(40, 30))
        one, other = (edit_image(model, picture, config, mask=mask) for config in (TEXTS, BLEND))
        assert one.image.tobytes() == other.image.tobytes()
    assert not Masks.of(mask, picture).is_grey
    assert {*mask.tobytes()} - {0, 255}


def test_a_grey_area_that_is_added_or_kept_out_counts(model: DiffusersDenoiser) -> None:
    picture = opened(noise(40, 30))
    for masks in (Masks(add=ramp()), Masks(subtract=ramp())):
        one, other = (edit_image(model, picture, config, mask=masks) for config in (TEXTS, BLEND))
        assert one.image.tobytes() != other.image.tobytes()
        assert one.mask.tobytes() == other.mask.tobytes()
        assert one.changed_outside == other.changed_outside == 0


def test_all_but_a_grey_mask(model: DiffusersDenoiser) -> None:
    config = replace(TEXTS, mask=MaskConfig(invert=True))
    result = edit_image(model, opened(noise(40, 30)), config, mask=ramp())
    assert {*result.mask.tobytes()} == {0, 255}


def test_a_film_of_a_grey_mask_ends_in_its_edit(model: DiffusersDenoiser) -> None:
    result, frames = animate_edit(model, opened(noise(40, 30)), replace(TEXTS, steps=4), 4, mask=ramp())
    shown = [np.asarray(frame) for frame in frames]
    assert (shown[0] == np.asarray(result.picture.rgb)).all()
    assert (shown[-1] == np.asarray(result.image)).all()
    outside = np.asarray(result.mask) == 0
    assert all((frame[outside] == shown[0][outside]).all() for frame in shown)


# --------------------------------------------------------------------------------------- stored settings


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    ramp().save("ramp.png")

    def invoke(*words: Any) -> Any:
        done = CliRunner().invoke(app, [*map(str, words), "--model", str(checkpoint), "--device", "cpu"])
        assert done.exit_code == 0, done.output
        return done

    return invoke


def test_results_of_grey_masks_are_made_again(run: Run) -> None:
    words = ["edit", "photo.png", "--query", "zebra", "--mask", "ramp.png", "--seed", "3", "--steps", "6"]
    run(*words, "-o", "strength.png")
    run(*words, "--mask-grey", "blend", "-o", "blend.png")
    older = Image.open("blend.png")
    stored = json.loads(older.info["diffedit"])
    assert stored.pop("mask_grey") == "blend"
    save_image("older.png", older, settings=stored)  # as a version wrote it that only blended
    for name, made in (
        ("strength.png", "strength.png"),
        ("blend.png", "blend.png"),
        ("older.png", "blend.png"),
    ):
        run("rerun", name, "photo.png", "--mask", "ramp.png", "-o", "again.png", "--overwrite")
        assert Image.open("again.png").tobytes() == Image.open(made).tobytes()
    assert Image.open("strength.png").tobytes() != Image.open("blend.png").tobytes()
