"""merge.py and core/align.py: composed pairs whose truth is known."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor
from typer.testing import CliRunner

from diffedit_cli import DiffeditError, Masks, MergeConfig, Picture, load_image, merge_images
from diffedit_cli.cli.app import app
from diffedit_cli.cli.merge import outcome
from diffedit_cli.core.align import fit_colours, likeness, place, recolour, register
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.images.read import read_settings

WIDTH, HEIGHT = 320, 240
BALL = (180, 90, 250, 160)


def landscape(seed: int = 1) -> Tensor:
    """Clouds of three sizes, (1 3 HEIGHT WIDTH) in [0, 1]."""
    clouds = [
        weight
        * F.interpolate(
            draw_noise((3, HEIGHT // cell, WIDTH // cell), [seed + cell]), (HEIGHT, WIDTH), mode="bicubic"
        )
        for cell, weight in ((40, 1.0), (16, 0.5), (4, 0.25))
    ]
    return sum(clouds, torch.zeros(())).mul(0.7).sigmoid()


def image_of(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].permute(1, 2, 0).mul(255).round().byte().numpy())


def picture_of(image: Image.Image, kind: str = "PNG", **options: int) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return load_image(buffer.getvalue())


def with_ball(pixels: Tensor, colour: str) -> Image.Image:
    image = image_of(pixels)
    ImageDraw.Draw(image).ellipse(BALL, colour)
    return image


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def returned(image: Image.Image, shift: tuple[float, float], zoom: float, quality: int = 85) -> Picture:
    """A picture as an instruction editor returns it: moved, zoomed, recoloured, and compressed."""
    moved = torch.tensor([zoom, zoom, shift[0] * 2 / WIDTH, shift[1] * 2 / HEIGHT], dtype=torch.float64)
    pixels = place(pixels_of(image), moved, HEIGHT, WIDTH)
    cast = torch.tensor([1.05, 0.97, 0.94]).view(1, 3, 1, 1)
    return picture_of(image_of((pixels * cast + 0.01).clamp(0, 1)), "JPEG", quality=quality)


@pytest.mark.parametrize(
    ("shift", "zoom"), [((0, 0), 0.0), ((5.3, -7.6), 0.0), ((-8, 3), 0.02), ((2, 2), -0.015)]
)
def test_one_change_is_taken_and_nothing_else(shift: tuple[float, float], zoom: float) -> None:
    before, after = with_ball(landscape(), "crimson"), with_ball(landscape(), "gold")
    original = picture_of(before)
    result = merge_images(original, returned(after, shift, zoom), MergeConfig(grow=0))
    assert result.changed_outside == 0
    true = np.array(before) != np.array(after)
    found = np.array(result.mask) > 127
    both = (true.any(2) & found).sum() / (true.any(2) | found).sum()
    assert both > 0.8
    inside = np.asarray(result.image, float)[105:145, 195:235]
    assert np.abs(inside - np.asarray(after, float)[105:145, 195:235]).mean() < 6  # in the original's colours
    # a point of the edited picture lies at zoom * (where it was) + shift, measured from the middle
    assert result.zoom == pytest.approx((1 + zoom, 1 + zoom), abs=2 * 0.3 / HEIGHT)
    assert result.shift == pytest.approx(shift, abs=0.3)


def test_a_result_of_another_size_comes_back_at_the_original_s() -> None:
    before, after = with_ball(landscape(), "crimson"), with_ball(landscape(), "gold").resize((480, 360))
    result = merge_images(picture_of(before), picture_of(after, "JPEG", quality=85))
    assert result.image.size == before.size
    assert result.changed_outside == 0
    assert 0.04 < result.coverage < 0.1


def test_pictures_that_do_not_match_are_refused() -> None:
    original = picture_of(with_ball(landscape(), "crimson"))
    for seed in (2, 3, 4, 5):
        with pytest.raises(DiffeditError, match=r"differs from the original in|does not match the original"):
            merge_images(original, picture_of(image_of(landscape(100 * seed))))
    with pytest.raises(DiffeditError, match="No part of"):
        merge_images(original, picture_of(with_ball(landscape(), "crimson"), "JPEG", quality=90))
    with pytest.raises(DiffeditError, match="not the shape"):
        merge_images(original, picture_of(image_of(landscape()).crop((0, 0, 200, 240))))


def test_a_smooth_picture_is_not_taken_for_the_same_scene() -> None:
    original = picture_of(with_ball(landscape(), "crimson"))
    smooth = original.rgb.resize((6, 4), Image.Resampling.BOX).resize(original.rgb.size)
    with pytest.raises(DiffeditError, match="does not match the original"):
        merge_images(original, picture_of(smooth))


def test_lines_do_not_hold_the_placement_at_a_wrong_one() -> None:
    y = torch.arange(HEIGHT).view(1, 1, -1, 1)
    lines = ((y % 16 < 4).float() * 0.6 + 0.2).expand(1, 3, HEIGHT, WIDTH)
    road = 0.75 * lines + 0.25 * landscape()
    shift = (0, 7.5)
    result = merge_images(
        picture_of(with_ball(road, "crimson")), returned(with_ball(road, "gold"), shift, 0.0)
    )
    assert result.shift == pytest.approx(shift, abs=0.3)


def test_likeness() -> None:
    one, other = (0.5 + 0.1 * draw_noise((3, HEIGHT, WIDTH), [seed]) for seed in (1, 2))
    flat, everywhere = torch.full_like(one, 0.5), torch.ones(1, 1, HEIGHT, WIDTH)
    assert likeness(one, one, everywhere) == pytest.approx(1)
    assert likeness(one, 1 - one, everywhere) < -0.9
    assert abs(likeness(one, other, everywhere)) < 0.1
    assert abs(likeness(one, flat, everywhere)) < 0.2
    assert likeness(flat, flat + 0.1, everywhere) == pytest.approx(1)  # nothing speaks against it
    left = everywhere.clone()
    left[..., WIDTH // 2 :] = 0
    half = torch.cat([one[..., : WIDTH // 2], other[..., WIDTH // 2 :]], -1)
    assert likeness(one, half, left) > 0.9


def test_masks_add_and_keep() -> None:
    original = picture_of(with_ball(landscape(), "crimson"))
    edited = picture_of(with_ball(landscape(), "gold"))
    corner = Image.new("L", original.rgb.size)
    corner.paste(255, (0, 0, 20, 20))
    ball = Image.new("L", original.rgb.size)
    ball.paste(255, (150, 60, 280, 190))
    added = merge_images(original, edited, mask=Masks(add=corner))
    assert added.mask.crop((0, 0, 20, 20)).getextrema() == (255, 255)
    kept = merge_images(original, edited, mask=Masks(add=corner, subtract=ball))
    assert kept.mask.crop((150, 60, 280, 190)).getextrema() == (0, 0)
    given = merge_images(original, edited, mask=Masks(use=ball))
    assert given.mask.tobytes() == ball.tobytes()
    assert set(given.given) == {"edited", "edited_sha256", "mask_sha256"}


def test_a_higher_threshold_takes_less() -> None:
    original, edited = (
        picture_of(with_ball(landscape(), "#808080")),
        picture_of(with_ball(landscape(), "#a08080")),
    )
    low, high = (merge_images(original, edited, MergeConfig(threshold=t)).coverage for t in (0.01, 0.06))
    assert high < low


def test_registration_and_colours_by_hand() -> None:
    fixed = landscape()
    moved = place(fixed, torch.tensor([0.0, 0.0, 4 * 2 / WIDTH, 0.0], dtype=torch.float64), HEIGHT, WIDTH)
    assert torch.allclose(moved[..., :-8], fixed[..., 4:-4], atol=1e-4)  # a shift by whole pixels is exact
    assert register(fixed, moved) * WIDTH / 2 == pytest.approx([0, 0, -4, 0], abs=0.05)
    dim = 0.9 * fixed + 0.03
    assert torch.allclose(recolour(dim, fit_colours(fixed, dim)), fixed, atol=0.01)


def test_no_shift_is_never_minus_zero() -> None:
    original = picture_of(with_ball(landscape(), "crimson"))
    result = merge_images(original, returned(with_ball(landscape(), "gold"), (0, 0), 0.0), MergeConfig())
    assert "a shift of +0.0, +0.0 pixels" in outcome(replace(result, shift=(-0.04, -0.0)))
    assert "a shift of -0.1, +0.1 pixels" in outcome(replace(result, shift=(-0.06, 0.06)))


def test_the_command(tmp_path: Path) -> None:
    with_ball(landscape(), "crimson").save(tmp_path / "before.png")
    with_ball(landscape(), "gold").save(tmp_path / "after.png")
    before, after, out = (str(tmp_path / name) for name in ("before.png", "after.png", "out.png"))
    done = CliRunner().invoke(app, ["merge", before, after, "-o", out, "--grid", str(tmp_path / "grid.png")])
    assert done.exit_code == 0, done.output
    stored = read_settings(out)
    assert stored is not None
    assert (stored["command"], stored["edited"], stored["input"]) == ("merge", "after.png", "before.png")
    again = CliRunner().invoke(app, ["merge", before, before, "-o", str(tmp_path / "none.png")])
    assert (again.exit_code, (tmp_path / "none.png").exists()) == (1, False)


def test_a_merge_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_ball(landscape(), "crimson").save("before.png")
    with_ball(landscape(), "gold").save("after.png")

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, [*words], env={"COLUMNS": "300"})

    assert run("merge", "before.png", "after.png", "-o", "out.png", "--grow", "3").exit_code == 0
    done = run("rerun", "out.png")
    assert done.exit_code == 0, done.output
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
    done = run("rerun", "out.png", "before.png", "after.png", "--grow", "0", "-o", "small.png")
    assert done.exit_code == 0, done.output
    stored = read_settings("small.png")
    assert stored is not None
    assert stored["grow"] == 0
    Path("after.png").rename("moved.png")
    assert "after.png, from which out.png was made, was not found" in run("rerun", "out.png").output
    assert run("rerun", "out.png", "before.png", "moved.png", "-o", "moved-rerun.png").exit_code == 0
    assert "two inputs" in run("rerun", "out.png", "a", "b", "c").output
