"""images/zoom.py: which part of a picture an edit works on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import box_mask
from PIL import Image

from diffedit_cli.images.canvas import Fit, fit
from diffedit_cli.images.zoom import around, close_in, part_round


def test_around_by_hand():
    assert around(box_mask((100, 80), (40, 30, 50, 36)), 1) == (35, 23, 55, 43)  # 20 = 2 * 10, centre 45, 33
    assert around(box_mask((100, 80), (40, 30, 50, 36)), 30) == (30, 18, 60, 48)
    assert around(box_mask((100, 80), (0, 70, 10, 80)), 1) == (0, 60, 20, 80)  # shifted from the border
    assert around(box_mask((100, 80), (10, 0, 70, 80)), 1) == (0, 0, 100, 80)  # cut to the picture
    assert around(Image.new("L", (100, 80)), 1) == (0, 0, 100, 80)
    assert around(box_mask((2000, 10), (900, 4, 1100, 6)), 100) == (500, 0, 1500, 10)  # 100 * 100 pixels


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_part_holds_the_mask_and_lies_in_the_picture(data):
    width, height = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    least = data.draw(st.integers(1, 120))
    x, y, right, bottom = around(box_mask((width, height), box), least)
    assert 0 <= x <= box[0] < box[2] <= right <= width
    assert 0 <= y <= box[1] < box[3] <= bottom <= height
    assert right - x >= min(least, width)
    assert bottom - y >= min(least, height)


def test_a_part_is_not_blown_up():
    part = part_round(box_mask((640, 640), (300, 300, 350, 350)), 128, 8)
    assert part.region == (261, 261, 389, 389)  # 100 pixels would do, but the canvas has 128
    assert part.scale == 1
    assert part_round(box_mask((640, 640), (100, 100, 400, 400)), 128, 8).region == (0, 0, 600, 600)
    assert not part_round(box_mask((640, 640), (100, 100, 500, 400)), 128, 8).is_part


class Scene:
    """A thing in a picture, and where a first look sees it. views: what was looked at, and how."""

    def __init__(self, size: int, box: tuple[int, int, int, int], hot: tuple[int, int, int, int]) -> None:
        self.size, self.box, self.hot = size, box, hot
        self.views: list[tuple[str, Fit]] = []

    def hottest(self, view: Fit) -> Image.Image:
        self.views.append(("hottest", view))
        return box_mask((self.size, self.size), self.hot)

    def look(self, view: Fit) -> Image.Image:
        """What is outside the view cannot be seen."""
        self.views.append(("look", view))
        (a, b, c, d), (left, top, right, bottom) = self.box, view.region
        return box_mask((self.size, self.size), (max(a, left), max(b, top), min(c, right), min(d, bottom)))

    def close_in(self, side: int = 64) -> Fit:
        return close_in(fit((self.size, self.size), side, 8), side, 8, self.hottest, self.look)


def test_closing_in_looks_at_the_whole_first_and_then_at_parts():
    scene = Scene(1024, (500, 500, 600, 600), hot=(400, 400, 640, 640))
    part = scene.close_in()
    assert [(how, view.region) for how, view in scene.views] == [
        ("hottest", (0, 0, 1024, 1024)),
        ("look", (280, 280, 760, 760)),  # twice what is hottest
        ("look", (450, 450, 650, 650)),  # twice what is seen there
    ]
    assert scene.views[0][1].content == (128, 128)  # twice as large as an edit would see it
    assert part == scene.views[-1][1]


def test_a_part_that_cuts_the_thing_is_made_larger_again():
    scene = Scene(1024, (300, 300, 700, 700), hot=(320, 320, 480, 480))
    assert scene.close_in().region == (105, 105, 885, 885)
    assert [view.region[0] for _, view in scene.views] == [0, 240, 170, 105]
    scene = Scene(1024, (100, 100, 900, 900), hot=(320, 320, 480, 480))
    assert not scene.close_in().is_part


def test_a_part_moves_to_where_the_thing_is():
    scene = Scene(1024, (450, 430, 800, 530), hot=(400, 400, 500, 500))
    left, top, right, bottom = scene.close_in().region
    assert left <= 450 < 800 <= right
    assert top <= 430 < 530 <= bottom


def test_what_was_looked_at_last_is_used():
    """The looks are few, and none is made whose outcome nobody waits for."""
    scene = Scene(4096, (1000, 1000, 3000, 3000), hot=(1000, 1000, 1100, 1100))
    part = scene.close_in()
    assert len(scene.views) == 5
    assert part != scene.views[-1][1]


@pytest.mark.parametrize("side", [64, 200])
def test_a_small_picture_is_not_blown_up(side: int):
    scene = Scene(64, (1, 1, 3, 3), hot=(1, 1, 3, 3))
    assert scene.close_in(side) == fit((64, 64), side, 8)
    assert scene.views[0][1].content == (side, side)
