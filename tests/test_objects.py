"""--per-object: each separate piece of the mask is edited on its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import box_mask, noise, opened
from PIL import Image, ImageChops
from typer.testing import CliRunner

from diffedit_cli import DiffeditError, EditConfig, MaskConfig, Masks, Session, edit_image
from diffedit_cli.api import animate_edit
from diffedit_cli.cli.app import app
from diffedit_cli.core.mask import number_pieces, spread
from diffedit_cli.errors import SettingError
from diffedit_cli.images.pieces import pieces
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import queries_of

Run = Callable[..., Any]
LARGE, SMALL = (24, 4, 38, 26), (2, 10, 12, 18)
TEXTS = EditConfig(ref="horse", query="zebra", seed=3, steps=3, mask=MaskConfig(samples=2))
EACH = replace(TEXTS, per_object=True, next_queries=("cow",))


def boxes(*places: tuple[int, int, int, int], size: tuple[int, int] = (40, 30)) -> Image.Image:
    mask = Image.new("L", size)
    for place in places:
        mask.paste(255, place)
    return mask


# ---------------------------------------------------------------------------------------------- pieces


def test_pieces_are_numbered_and_numbers_spread_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]).float()[None, None]
    numbers = number_pieces(mask)[0, 0]
    assert numbers.tolist() == [[2, 2, 0, 0, 10], [0, 0, 0, 0, 10], [11, 0, 0, 0, 0]]
    within = torch.tensor([[1, 1, 1, 0, 1], [0, 0, 0, 0, 1], [1, 1, 0, 1, 1]]).float()[None, None]
    grown = spread(numbers[None, None], within)[0, 0]
    assert grown.tolist() == [[2, 2, 2, 0, 10], [0, 0, 0, 0, 10], [11, 11, 0, 10, 10]]


def test_a_mask_is_cut_into_its_pieces_the_largest_first() -> None:
    first, second = pieces(boxes(SMALL, LARGE))
    assert (first.getbbox(), second.getbbox()) == (LARGE, SMALL)
    assert ImageChops.lighter(first, second).tobytes() == boxes(SMALL, LARGE).tobytes()


def test_rooms_that_meet_are_parted_and_keep_their_greys() -> None:
    found, area = boxes((4, 4, 12, 12), (20, 4, 26, 12)), box_mask((40, 30), (1, 1, 39, 15), 200)
    first, second = pieces(found, area)
    assert ImageChops.lighter(first, second).tobytes() == area.tobytes()
    assert ImageChops.darker(first, second).getbbox() is None
    assert first.getbbox()[2] == second.getbbox()[0] == pytest.approx(16, abs=1)
    large = (mask.resize((4000, 3000), Image.Resampling.NEAREST) for mask in (found, area))
    assert pieces(*large)[0].getbbox()[:2] == (100, 100)


@pytest.mark.parametrize("places", [[], [(2 * x, y, 2 * x + 1, y + 1) for x in range(9) for y in (0, 9)]])
def test_nothing_and_dozens_of_pieces_are_refused(places: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(DiffeditError, match=f"has {len(places)} separate pieces"):
        pieces(boxes(*places))


def test_the_last_query_goes_for_the_rest() -> None:
    assert queries_of(EACH, 4) == ["zebra", "cow", "cow", "cow"]
    assert queries_of(EACH, 1) == queries_of(TEXTS, 1) == ["zebra"]


# ---------------------------------------------------------------------------------------------- edits


def test_each_object_is_one_edit_after_the_other(model: DiffusersDenoiser) -> None:
    picture, config = opened(noise(40, 30)), replace(TEXTS, zoom=False)
    result = edit_image(model, picture, replace(EACH, zoom=False), mask=boxes(SMALL, LARGE))
    first = edit_image(model, picture, config, mask=boxes(LARGE))
    so_far = replace(picture, rgb=first.image)
    second = edit_image(model, so_far, replace(config, query="cow"), mask=boxes(SMALL))
    assert result.image.tobytes() == second.image.tobytes()
    assert result.mask.tobytes() == boxes(SMALL, LARGE).tobytes()
    assert result.changed_outside == 0
    assert result.run.forwards == first.run.forwards + second.run.forwards
    assert [(one["query"], one["box"]) for one in result.objects] == [("zebra", LARGE), ("cow", SMALL)]
    assert result.facts()["objects"][1]["coverage"] == pytest.approx(80 / 1200)
    assert "objects" not in first.facts()


def test_a_found_mask_is_cut_up_within_its_room(model: DiffusersDenoiser) -> None:
    picture = opened(noise(60, 60))
    config = replace(EACH, zoom=False, mask=MaskConfig(samples=2, threshold=0.8, refine=0.0))
    plain, result = (edit_image(model, picture, replace(config, per_object=x)) for x in (False, True))
    assert len(result.objects) > 1
    assert not (np.asarray(result.mask) > np.asarray(plain.mask)).any()
    assert result.heat is not None
    assert result.heat.tobytes() == plain.heat.tobytes()
    assert (result.recognised, result.changed_outside) == (plain.recognised, 0)
    changed = (np.asarray(result.image) != np.asarray(picture.rgb)).any(2)
    assert not changed[np.asarray(result.mask) == 0].any()


def test_each_object_is_seen_from_near(model: DiffusersDenoiser) -> None:
    places = [(10, 10, 60, 60), (200, 150, 240, 190)]
    picture, mask = opened(noise(300, 200)), boxes(*places, size=(300, 200))
    near, far = (edit_image(model, picture, replace(EACH, zoom=zoom), mask=mask) for zoom in (None, False))
    assert near.image.tobytes() != far.image.tobytes()
    assert not [notice for notice in near.notices if "zoom" in notice]
    part = edit_image(model, picture, replace(TEXTS, zoom=True), mask=boxes(places[0], size=(300, 200)))
    box = (10, 10, 60, 60)
    assert near.image.crop(box).tobytes() == part.image.crop(box).tobytes()


def test_queries_without_an_object_are_noted(model: DiffusersDenoiser) -> None:
    config = replace(EACH, next_queries=("cow", "dog", "fox"))
    result = edit_image(model, opened(noise(40, 30)), config, mask=boxes(SMALL, LARGE))
    assert any("2 separate pieces" in notice and notice.endswith("dog, fox.") for notice in result.notices)


def test_areas_and_greys_of_the_user_count(model: DiffusersDenoiser) -> None:
    picture, ramp = opened(noise(40, 30)), Image.linear_gradient("L").resize((40, 30))
    grey = ImageChops.multiply(boxes(SMALL, LARGE), ramp)
    one, other = (
        edit_image(model, picture, replace(EACH, mask=MaskConfig(grey=kind)), mask=grey)
        for kind in ("strength", "blend")
    )
    assert one.image.tobytes() != other.image.tobytes()
    kept = edit_image(model, picture, EACH, mask=Masks(boxes(SMALL, LARGE), subtract=boxes(SMALL)))
    assert [each["box"] for each in kept.objects] == [LARGE]


def test_pictures_of_a_session_are_each_done(model: DiffusersDenoiser) -> None:
    pictures = [opened(noise(40, 30, seed=n)) for n in (1, 2)]
    both = Session(model, *pictures).edit(EACH)
    alone = [edit_image(model, picture, EACH) for picture in pictures]
    assert [one.image.tobytes() for one in both] == [one.image.tobytes() for one in alone]


def test_what_cannot_be_done_object_by_object_is_refused(model: DiffusersDenoiser) -> None:
    with pytest.raises(SettingError, match="--per-object cannot be used with --mask-invert"):
        replace(EACH, mask=MaskConfig(invert=True))
    with pytest.raises(SettingError, match="A film cannot be made with --per-object"):
        animate_edit(model, opened(noise(40, 30)), EACH, 3)


# ---------------------------------------------------------------------------------- the command line


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    boxes(SMALL, LARGE).save("own.png")

    def invoke(*words: Any, code: int = 0) -> Any:
        given = [*map(str, words), "--model", str(checkpoint), "--device", "cpu"]
        done = CliRunner().invoke(app, given, env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})
        assert done.exit_code == code, done.output
        return done

    return invoke


OBJECTS = ["edit", "photo.png", "--ref", "horse", "--per-object", "--steps", "2", "--mask-samples", "1"]


def test_a_result_of_several_objects_is_made_again(run: Run) -> None:
    words = [*OBJECTS, "--query", "zebra", "--query", "cow", "--mask", "own.png", "--seed", "3", "--json"]
    facts = json.loads(run(*words).stdout)
    assert facts["output"] == "photo-zebra-cow.png"
    assert [one["query"] for one in facts["objects"]] == ["zebra", "cow"]
    settings = facts["settings"]
    assert (settings["query"], settings["next_queries"], settings["per_object"]) == ("zebra", ["cow"], True)
    again = ["rerun", "photo-zebra-cow.png", "photo.png", "--mask", "own.png", "--json"]
    assert json.loads(run(*again, "-o", "again.png").stdout)["settings"] == settings
    assert Path("again.png").read_bytes() == Path("photo-zebra-cow.png").read_bytes()
    other = json.loads(run(*again, "-o", "dogs.png", "--query", "dog").stdout)
    assert [one["query"] for one in other["objects"]] == ["dog", "dog"]


def test_objects_with_several_seeds_and_a_search(run: Run) -> None:
    lines = run(*OBJECTS, "--query", "zebra", "--seeds", "2", "-o", "out", "--json").stdout.splitlines()
    assert len(lines) == 2
    assert all(json.loads(line)["objects"] for line in lines)
    told = run(*OBJECTS, "--query", "zebra", "--query", "cow", "--mask", "own.png", "-o", "one.png").stderr
    assert "2 objects were edited." in told
    assert "for each object" in run(*OBJECTS, "--query", "zebra", "--dry-run").stderr


def test_what_does_not_go_with_objects_is_refused_first(run: Run) -> None:
    for flags, words in (
        (["--mask-invert"], "--mask-invert"),
        (["--animate", "film.gif"], "A film cannot be made with --per-object"),
    ):
        done = run(*OBJECTS, "--query", "zebra", *flags, code=2)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
