"""images/sheets.py: pictures to look at."""

import numpy as np
from pictures import WHITE, box_mask, noise, opened, same
from PIL import Image

from diffedit_cli.images.sheets import cutout, grid, heat_to_image, overlay


def test_heat_overlay_and_cutout():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    colours = np.asarray(heat_to_image(ramp))[0].astype(int)
    assert colours[0].tolist() == [0, 0, 4]
    assert colours[255].tolist() == [252, 255, 164]
    assert (np.diff(colours @ [299, 587, 114]) >= 0).all()  # brighter is hotter
    for ground in ((0, 0, 0), WHITE, (255, 0, 170)):
        picture = opened(Image.new("RGB", (80, 60), ground))
        mask = box_mask((80, 60), (20, 20, 60, 40))
        shown = overlay(picture, mask)
        assert {(0, 0, 0), WHITE} <= set(shown.get_flattened_data())
        assert shown.getpixel((2, 2)) == ground
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
