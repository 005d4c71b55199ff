"""images/canvas.py: the working copy and the paste, colour profiles both ways."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import GREEN, RED, box_mask, grey_profile, noise, opened, same, swapped_profile
from PIL import Image

from diffedit_cli.errors import NumericError
from diffedit_cli.images import canvas, pixels
from diffedit_cli.images.canvas import fit, mask_to_cells, mask_to_full, pixels_to_image, to_pixels
from diffedit_cli.images.paste import add_difference, changed_outside, paste
from diffedit_cli.images.read import load_image
from diffedit_cli.images.write import save_image


def test_fit_by_hand():
    assert fit((512, 512), 512, 64) == canvas.Fit(
        (512, 512), (0, 0, 512, 512), (512, 512), (512, 512), (0, 0)
    )
    assert fit((400, 100), 200, 64) == canvas.Fit(
        (400, 100), (0, 0, 400, 100), (400, 100), (448, 128), (24, 14)
    )
    assert fit((1, 1), 256, 64).content == (256, 256)
    assert fit((1, 5000), 256, 64) == canvas.Fit((1, 5000), (0, 0, 1, 5000), (1, 1024), (64, 1024), (31, 0))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(32, 1024), st.sampled_from([1, 8, 64]))
def test_fit_never_squashes(width, height, side, multiple):
    f = fit((width, height), side, multiple)
    across, down = f.content[0] / width, f.content[1] / height
    scale = max(f.content) / max(width, height)
    assert abs(f.content[0] - width * scale) <= 1
    assert abs(f.content[1] - height * scale) <= 1
    assert across > 0 < down
    assert max(f.content) <= 4 * side
    assert f.content[0] * f.content[1] <= side**2 * 1.1 + max(f.content)
    for axis in (0, 1):
        assert f.canvas[axis] % multiple == 0
        assert 0 <= f.canvas[axis] - f.content[axis] < multiple
        assert 0 <= f.offset[axis] <= f.canvas[axis] - f.content[axis]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_region_is_worked_on_as_the_picture_cut_to_it(data):
    width, height = data.draw(st.integers(8, 60)), data.draw(st.integers(8, 60))
    left, top = data.draw(st.integers(0, width - 4)), data.draw(st.integers(0, height - 4))
    right, bottom = data.draw(st.integers(left + 4, width)), data.draw(st.integers(top + 4, height))
    region = left, top, right, bottom
    smooth = noise(3, 3).resize((width, height), Image.Resampling.BILINEAR)
    picture, where = opened(smooth), noise(width, height, 1, seed=1)
    part = opened(picture.rgb.crop(region))
    f, cut = fit((width, height), 32, 8, region), fit(part.rgb.size, 32, 8)
    assert (f.content, f.canvas, f.offset, f.scale) == (cut.content, cut.canvas, cut.offset, cut.scale)
    assert f.is_part == (region != (0, 0, width, height))
    x, y, end, foot = f.box
    edge = math.ceil(3 * max(1, f.scale))  # Lanczos looks three pixels over the edge
    inner = ..., slice(y + edge, max(0, foot - edge)), slice(x + edge, max(0, end - edge))
    assert torch.allclose(to_pixels(picture, f)[inner], to_pixels(part, cut)[inner], atol=3 / 255)
    assert torch.equal(mask_to_cells(where, f, 4), mask_to_cells(where.crop(region), cut, 4))
    edited = torch.rand(1, 3, f.canvas[1], f.canvas[0])
    soft = mask_to_full(edited[:, :1], f)
    assert same(soft.crop(region), mask_to_full(edited[:, :1], cut))
    result = paste(picture, edited, where, f)
    assert same(result.crop(region), paste(part, edited, where.crop(region), cut))
    inside = Image.new("L", (width, height))
    inside.paste(255, region)
    assert changed_outside(picture.rgb, result, inside) == 0
    assert (
        soft.getbbox() is None or Image.composite(Image.new("L", soft.size), soft, inside).getbbox() is None
    )


def test_cells_of_padding_are_never_in_a_mask():
    f = fit((4000, 3000), 256, 64)
    assert f.offset[0] >= 8  # a whole cell of padding
    cells = mask_to_cells(Image.new("L", (4000, 3000), 255), f, 8)[0, 0]
    left, top, right, bottom = f.box
    assert cells.sum() == ((right - 1) // 8 - left // 8 + 1) * ((bottom - 1) // 8 - top // 8 + 1)
    assert cells[:, 0].sum() == 0


def test_to_pixels_shape_range_and_padding():
    picture = opened(noise(50, 20))
    f = fit(picture.rgb.size, 64, 32)
    pixels = to_pixels(picture, f)
    assert pixels.shape == (1, 3, f.canvas[1], f.canvas[0])
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1
    left, _, _, bottom = f.box
    assert torch.equal(pixels[..., :left], pixels[..., left : left + 1].expand_as(pixels[..., :left]))
    assert torch.equal(
        pixels[..., bottom:, :], pixels[..., bottom - 1 : bottom, :].expand_as(pixels[..., bottom:, :])
    )
    exact = to_pixels(picture, canvas.Fit((50, 20), (0, 0, 50, 20), (50, 20), (50, 20), (0, 0)))
    assert same(pixels_to_image(exact), picture.rgb)


def test_hidden_colour_does_not_leak():
    shown = []
    for hidden in (RED, GREEN):
        image = Image.new("RGBA", (64, 64), (*hidden, 0))
        image.paste((10, 20, 30, 255), (16, 16, 48, 48))
        picture = opened(image)
        shown.append(to_pixels(picture, fit(picture.rgb.size, 40, 8)))
    assert torch.equal(*shown)
    assert torch.allclose(shown[0][0, :, 0, 0], torch.tensor(128 / 255))


def cells_by_loop(mask: Image.Image, f: canvas.Fit, factor: int) -> torch.Tensor:
    """Each pixel of the mask, as an area on the canvas, marks the cells that it overlaps."""
    cells = torch.zeros(1, 1, f.canvas[1] // factor, f.canvas[0] // factor)
    values = np.asarray(mask)
    for y, x in np.argwhere(values > 0).tolist():
        spans = []
        for place, axis in ((x, 0), (y, 1)):
            first = f.offset[axis] * f.size[axis] + place * f.content[axis]
            last, unit = first + f.content[axis], factor * f.size[axis]
            spans.append(slice(first // unit, -(-last // unit)))
        cells[..., spans[1], spans[0]] = cells[..., spans[1], spans[0]].clamp(min=float(values[y, x]) / 255)
    return cells


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(16, 96), st.integers(0, 99))
def test_cells_against_a_plain_loop(width, height, side, seed):
    draw = np.random.default_rng(seed)
    mask = Image.fromarray(
        (draw.random((height, width)) < 0.02).astype(np.uint8) * draw.integers(1, 256, dtype=np.uint8)
    )
    f = fit((width, height), side, 8)
    assert torch.allclose(mask_to_cells(mask, f, 8), cells_by_loop(mask, f, 8))


def test_one_pixel_of_a_big_picture_marks_its_cell():
    f = fit((4000, 3000), 256, 64)
    for x, y in ((0, 0), (3999, 2999), (1234, 567)):
        cells = mask_to_cells(box_mask((4000, 3000), (x, y, x + 1, y + 1)), f, 8)
        assert 1 <= (cells == 1).sum() <= 4
    assert mask_to_cells(Image.new("L", (4000, 3000)), f, 8).sum() == 0


def test_mask_to_full_crops_the_padding():
    f = fit((100, 50), 64, 32)
    soft = torch.zeros(1, 1, f.canvas[1], f.canvas[0])
    left, top, right, bottom = f.box
    soft[..., top:bottom, left:right] = 1
    assert mask_to_full(soft, f).getextrema() == (255, 255)
    assert mask_to_full(soft, f).size == (100, 50)
    soft[..., : (left + right) // 2] = 0
    values = np.asarray(mask_to_full(soft, f))[25]
    assert values[:45].max() == 0
    assert values[55:].min() == 255
    assert (np.diff(values.astype(int)) >= 0).all()


def test_pixels_to_image_rounds_and_refuses_nan():
    levels = torch.arange(256) / 255
    image = pixels_to_image(levels.view(1, 1, 1, 256).expand(1, 3, 1, 256) + 0.0019)
    assert np.array_equal(np.asarray(image)[0, :, 0], np.arange(256))
    assert pixels_to_image(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NumericError):
            pixels_to_image(torch.tensor([0.0, bad, 0.0]).view(1, 3, 1, 1))
        with pytest.raises(NumericError):
            mask_to_full(torch.full((1, 1, 8, 8), bad), fit((8, 8), 8, 8))


# ---------------------------------------------------------------------------------------------------- paste


@pytest.mark.parametrize("size", [(1, 1), (1, 301), (37, 53), (640, 427), (2000, 1500)])
def test_paste_leaves_the_rest_alone_bit_for_bit(size):
    picture = opened(noise(*size))
    f = fit(size, 128, 32)
    soft = torch.rand(1, 1, f.canvas[1], f.canvas[0], generator=torch.Generator().manual_seed(1))
    soft[..., : f.canvas[1] // 2, :] = 0
    for mask in (mask_to_full(soft, f), Image.new("L", size), box_mask(size, (0, 0, 1, 1))):
        result = paste(picture, torch.zeros(1, 3, f.canvas[1], f.canvas[0]), mask, f)
        kept = np.asarray(mask) == 0
        assert np.array_equal(np.asarray(result)[kept], np.asarray(picture.rgb)[kept])
        assert changed_outside(picture.rgb, result, mask) == 0
        full = np.asarray(mask) == 255
        assert (np.asarray(result)[full] == 0).all()


def test_paste_puts_the_edit_in_its_place():
    picture = opened(Image.new("RGB", (1000, 700)))
    f = fit((1000, 700), 256, 64)
    edited = to_pixels(opened(box_mask((1000, 700), (300, 200, 600, 500)).convert("RGB")), f)
    result = np.asarray(paste(picture, edited, Image.new("L", (1000, 700), 255), f))[..., 0]
    assert result[220:480, 320:580].min() > 245
    assert result[:180].max() < 10
    mask = box_mask((1000, 700), (310, 210, 590, 490))
    part = np.asarray(paste(picture, edited, mask, f))[..., 0]
    assert np.array_equal(
        part[210:490, 310:590], result[210:490, 310:590]
    )  # a part is what the whole has there


def test_paste_by_strips_is_paste_at_once(monkeypatch):
    picture, f = opened(noise(300, 200)), fit((300, 200), 64, 32)
    edited = torch.rand(1, 3, f.canvas[1], f.canvas[0])
    mask = box_mask((300, 200), (11, 13, 290, 180), 200)
    whole = paste(picture, edited, mask, f)
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 1000)
    parts = paste(picture, edited, mask, f)
    assert np.abs(np.asarray(parts, int) - np.asarray(whole, int)).max() <= 1  # Pillow's box is in float32
    assert changed_outside(picture.rgb, whole, mask) == 0


def test_paste_of_the_picture_itself_changes_nothing():
    picture = opened(noise(64, 48))
    f = canvas.Fit((64, 48), (0, 0, 64, 48), (64, 48), (96, 64), (16, 8))
    assert same(paste(picture, to_pixels(picture, f), Image.new("L", (64, 48), 255), f), picture.rgb)


def test_changed_outside_counts():
    before = noise(50, 40)
    after = before.copy()
    for x in range(7):
        after.putpixel((x, 3), tuple(value ^ 1 for value in before.getpixel((x, 3))))
    assert changed_outside(before, after, Image.new("L", (50, 40))) == 7
    assert changed_outside(before, after, box_mask((50, 40), (0, 0, 5, 5), 1)) == 2
    with pytest.raises(ValueError, match="one size"):
        changed_outside(before, after.resize((4, 4)), Image.new("L", (50, 40)))


# --------------------------------------------------------------------------------------------------- colour


def test_the_profile_is_honoured_both_ways_and_kept(tmp_path):
    picture = opened(Image.new("RGB", (32, 32), RED), icc_profile=swapped_profile())
    assert picture.icc == swapped_profile()
    assert picture.rgb.getpixel((0, 0)) == RED  # its own space
    f = fit((32, 32), 32, 8)
    seen = to_pixels(picture, f)[0, :, 16, 16]
    assert torch.allclose(seen, torch.tensor([0.0, 1.0, 0.0]), atol=0.02)  # the network sees green
    edited = torch.zeros(1, 3, 32, 32)
    edited[:, 0] = 1  # and paints red, which this space calls (0, 255, 0)
    result = paste(picture, edited, box_mask((32, 32), (0, 0, 8, 8)), f)
    assert np.abs(np.asarray(result)[0, 0].astype(int) - GREEN).max() <= 3
    assert result.getpixel((20, 20)) == RED
    for suffix in ("png", "jpg", "webp", "tiff"):
        save_image(tmp_path / f"out.{suffix}", result, picture=picture)
        assert load_image(tmp_path / f"out.{suffix}").icc == swapped_profile()


def test_a_grey_profile_is_applied_and_a_broken_or_alien_one_dropped():
    grey = opened(Image.new("L", (4, 4), 128), icc_profile=grey_profile())
    assert abs(grey.rgb.getpixel((0, 0))[0] - 188) <= 2  # half the light is sRGB 188
    assert grey.icc is None
    assert "GRAY" in grey.notices[0]
    alien = opened(Image.new("RGB", (4, 4), (9, 9, 9)), icc_profile=grey_profile())
    assert (alien.icc, alien.rgb.getpixel((0, 0))) == (None, (9, 9, 9))
    broken = opened(Image.new("RGB", (4, 4), (9, 9, 9)), icc_profile=b"no profile at all" * 9)
    assert (broken.icc, broken.rgb.getpixel((0, 0))) == (None, (9, 9, 9))


def test_a_difference_is_added_back_by_share():
    base, before, after = (Image.new("RGB", (3, 1), (n, n, n)) for n in (100, 90, 50))
    share = Image.new("L", (3, 1))
    share.putdata([0, 51, 255])
    got = np.asarray(add_difference(base, before, after, share))
    assert got[0, :, 0].tolist() == [100, 108, 140]
    assert add_difference(after, before, after, Image.new("L", (3, 1), 255)).tobytes() == before.tobytes()
