"""images/sheets.py: pictures to look at."""

import numpy as np
from pictures import GREEN, RED, WHITE, box_mask, noise, opened, same, swapped_profile
from PIL import Image

from diffedit_cli.generation import interpolate_frames
from diffedit_cli.images.read import load_image
from diffedit_cli.images.sheets import cutout, grid, heat_to_image, overlay, shown
from diffedit_cli.images.write import save_image
from diffedit_cli.settings import InterpolateConfig


def test_heat_overlay_and_cutout():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    colours = np.asarray(heat_to_image(ramp))[0].astype(int)
    assert colours[0].tolist() == [0, 0, 4]
    assert colours[255].tolist() == [252, 255, 164]
    assert (np.diff(colours @ [299, 587, 114]) >= 0).all()  # brighter is hotter
    for ground in ((0, 0, 0), WHITE, (255, 0, 170)):
        picture = opened(Image.new("RGB", (80, 60), ground))
        mask = box_mask((80, 60), (20, 20, 60, 40))
        tinted = overlay(picture, mask)
        assert {(0, 0, 0), WHITE} <= set(tinted.get_flattened_data())
        assert tinted.getpixel((2, 2)) == ground
        assert same(overlay(picture, Image.new("L", (80, 60))), picture.rgb)
    picture = opened(noise(80, 60, 4))
    cut = cutout(picture, mask)
    assert cut.mode == "RGBA"
    assert cut.getpixel((0, 0)) == (0, 0, 0, 0)
    assert cut.getpixel((30, 30))[3] == picture.alpha.getpixel((30, 30))


def test_grid_has_a_cell_for_each():
    cells = [
        ("input", noise(64, 48)),
        ("a mask with quite a long label of several words", Image.new("L", (640, 480), 99)),
    ]
    one = grid(cells, side=200)
    two = grid(cells, [*cells, ("third", noise(9, 9, 4))], side=200)
    assert one.mode == two.mode == "RGB"
    assert one.width >= 400
    assert two.width > one.width
    assert two.height > 1.8 * one.height
    assert grid([("x", noise(1, 1))]).size


def seen(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(image.getpixel(place)[:3], colour)).max() <= 3)


def test_what_is_made_of_a_picture_has_its_colours_and_transparency(tmp_path):
    """A red that its profile calls green, half of it transparent."""
    rgba = Image.new("RGBA", (64, 48), (*RED, 255))
    rgba.paste((*RED, 0), (0, 0, 32, 48))
    picture = opened(rgba, icc_profile=swapped_profile())
    mask = box_mask((64, 48), (8, 8, 56, 40))
    flat = shown(picture)
    assert flat.mode == "RGB"
    assert seen(flat, (60, 4), GREEN)
    assert seen(flat, (4, 4), (225, 225, 225))
    over = overlay(picture, mask)
    assert seen(over, (60, 4), GREEN)
    assert seen(over, (4, 4), (225, 225, 225))
    cut = cutout(picture, mask)
    cut.save(tmp_path / "pillow.png")
    save_image(tmp_path / "ours.png", cut, picture=picture)
    for name in ("pillow.png", "ours.png"):
        again = load_image(tmp_path / name)
        assert again.icc == picture.icc
        assert seen(shown(again), (50, 20), GREEN)
        assert again.alpha is not None
        assert again.alpha.getpixel((20, 20)) == again.alpha.getpixel((60, 4)) == 0


def test_a_film_from_a_picture_starts_from_its_colours(model):
    """`interpolate --init` of a picture with a profile draws what it draws of the same picture in sRGB."""
    smooth = noise(4, 4, 4).resize((32, 32), Image.Resampling.BICUBIC)
    tagged = opened(smooth, icc_profile=swapped_profile())
    plain = load_image(shown(tagged))
    config = InterpolateConfig(prompts=("a", "b"), frames=2, steps=2, seed=(1,), strength=0.5)
    drawn = [[*interpolate_frames(model, config, init=init)] for init in (tagged, plain)]
    assert all(same(*pair) for pair in zip(*drawn, strict=True))
    other = load_image(Image.merge("RGB", tagged.rgb.split()))
    assert not same(drawn[0][0], next(interpolate_frames(model, config, init=other)))
