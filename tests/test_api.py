"""api.py and the package's front door: what a Python program gets."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd_parsers
import torch
from pictures import alike, ink_profile, noise, opened, swapped_profile
from PIL import Image, ImageChops

import diffedit_cli
from diffedit_cli import (
    EditConfig,
    GenerateConfig,
    GuidanceConfig,
    InterpolateConfig,
    MaskConfig,
    Picture,
    animate_edit,
    edit_image,
    edit_images,
    generate_image,
    interpolate_frames,
    load_image,
    make_mask,
)
from diffedit_cli.compare import compare
from diffedit_cli.core.text2image import count_frames
from diffedit_cli.errors import DiffeditError, SettingError
from diffedit_cli.generation import resolve_interpolation
from diffedit_cli.images import canvas, sheets
from diffedit_cli.images.masks import Masks
from diffedit_cli.images.paste import full_mask
from diffedit_cli.images.read import read_settings
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.results import EditResult, Meter, covered
from diffedit_cli.settings import build, filled_in, keys

QUICK = EditConfig(ref="horse", query="zebra", steps=4, seed=7, mask=MaskConfig(samples=2))


def picture(width: int = 45, height: int = 37, kind: str = "PNG") -> Picture:
    small = Image.fromarray(np.random.default_rng(3).integers(0, 256, (6, 7, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return load_image(buffer.getvalue())


def left_half(size: tuple[int, int] = (45, 37)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def differ(a: Image.Image, b: Image.Image) -> np.ndarray:
    """Where two pictures are not the same, as booleans."""
    return (np.asarray(a.convert("RGB")) != np.asarray(b.convert("RGB"))).any(2)


# --------------------------------------------------------------------------------------- the front door


def test_every_public_name_can_be_imported() -> None:
    for name in diffedit_cli.__all__:
        assert getattr(diffedit_cli, name).__name__ == name
    assert set(diffedit_cli.__all__) <= set(dir(diffedit_cli))
    with pytest.raises(AttributeError, match="no_such_name"):
        diffedit_cli.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["EditConfig", "DiffeditError"])
def test_settings_and_errors_alone_load_no_torch(name: str) -> None:
    script = (
        f"import sys\nfrom diffedit_cli import {name}\nprint({{'torch', 'PIL', 'numpy'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---------------------------------------------------------------------------------------------- an edit


@pytest.mark.parametrize("size", [(45, 37), (8, 64), (100, 20), (32, 32), (3, 3), (1, 1)])
def test_an_edit_stays_within_its_mask_at_any_size(model: DiffusersDenoiser, size: tuple[int, int]) -> None:
    before = picture(*size)
    result = edit_image(model, before, QUICK)
    assert result.image.mode == "RGB"
    assert result.mask.mode == "L"
    assert result.heat is not None
    assert result.heat.mode == "L"
    assert result.image.size == result.mask.size == result.heat.size == size
    mask = np.asarray(result.mask)
    changed = differ(before.rgb, result.image)
    assert not changed[mask == 0].any()
    assert result.changed_outside == 0
    assert result.coverage == pytest.approx((mask > 0).mean())


def test_a_cmyk_picture_with_a_profile_comes_through(model: DiffusersDenoiser, tmp_path: Path) -> None:
    """It is edited as its profile shows it, and is an RGB picture then."""
    before = opened(noise(45, 37).convert("CMYK"), "JPEG", icc_profile=ink_profile())
    result = edit_image(model, before, QUICK, mask=left_half())
    assert any("CMYK to sRGB by its colour profile" in notice for notice in result.notices)
    assert differ(before.rgb, result.image).any()
    assert not differ(before.rgb, result.image)[np.asarray(result.mask) == 0].any()
    result.save(tmp_path / "out.jpg")
    after = load_image(tmp_path / "out.jpg")
    assert (after.rgb.mode, after.icc) == ("RGB", None)


def test_nothing_that_is_handed_in_is_changed(model: DiffusersDenoiser) -> None:
    given, mask = picture(), left_half()
    pixels, area = given.rgb.tobytes(), mask.tobytes()
    result = edit_image(model, given, QUICK, mask=Masks(mask, mask, mask))
    result.image.paste(0, (0, 0, 45, 37))
    assert given.rgb.tobytes() == pixels
    assert mask.tobytes() == area


def test_a_mask_is_edited_as_it_is(model: DiffusersDenoiser) -> None:
    mask = left_half()
    mask.putpixel((44, 36), 255)  # one pixel far off is edited too
    result = edit_image(model, picture(), QUICK, mask=mask)
    assert result.heat is None
    assert result.mask.tobytes() == mask.tobytes()
    changed = differ(result.picture.rgb, result.image)
    assert changed[36, 44]
    assert changed[:, :22].mean() > 0.9


@pytest.mark.parametrize("own", [False, True])
def test_areas_are_added_then_kept_out(model: DiffusersDenoiser, own: bool) -> None:
    left = left_half()
    both = Image.new("L", left.size, 255)
    use = Image.new("L", left.size) if own else None
    result = edit_image(model, picture(), QUICK, mask=Masks(use, both, left))
    assert np.asarray(result.mask)[:, :22].max() == 0
    assert np.asarray(result.mask)[:, 22:].min() == 255
    changed = differ(result.picture.rgb, result.image)
    assert not changed[:, :22].any()
    assert changed[:, 22:].mean() > 0.9


def test_the_mask_alone_is_that_of_an_edit_without_room(model: DiffusersDenoiser) -> None:
    tight = replace(QUICK, room=0.0)
    found, edited = make_mask(model, picture(), QUICK), edit_image(model, picture(), tight)
    assert edited.heat is not None
    assert found.mask.tobytes() == edited.mask.tobytes()
    assert found.heat.tobytes() == edited.heat.tobytes()
    assert found.coverage == edited.coverage
    other = make_mask(model, picture(), replace(QUICK, mask=MaskConfig(samples=2, threshold=0.9)))
    assert other.coverage < found.coverage
    wide = edit_image(model, picture(), replace(QUICK, room=0.4))
    assert found.coverage < wide.coverage
    assert (np.asarray(found.mask) <= np.asarray(wide.mask)).all()
    assert wide.changed_outside == 0


def test_the_config_comes_back_with_all_that_was_chosen(model: DiffusersDenoiser) -> None:
    config = replace(QUICK, seed=None)
    first, second = (make_mask(model, picture(), config) for _ in range(2))
    assert config.seed is None
    assert first.config.seed != second.config.seed
    assert replace(first.config, seed=None, size=None, zoom=None) == filled_in(config, model.own_defaults)
    assert (first.config.size, first.config.zoom) == (model.size, False)
    again = make_mask(model, picture(), first.config)
    assert again.mask.tobytes() == first.mask.tobytes()


def speck(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A given mask that covers little."""
    mask = Image.new("L", size)
    mask.paste(255, (100, 40, 110, 48))
    return mask


@pytest.mark.parametrize("zoom", [None, True])
def test_a_small_mask_is_edited_in_the_part_round_it(model: DiffusersDenoiser, zoom: bool | None) -> None:
    source = picture(160, 120)
    config = replace(QUICK, zoom=zoom, size=32)
    near = edit_image(model, source, config, mask=speck())
    whole = edit_image(model, source, replace(config, zoom=False), mask=speck())
    assert (near.config.zoom, whole.config.zoom) == (True, False)
    assert ("round it" in " ".join(near.notices)) == (zoom is None)
    assert near.changed_outside == whole.changed_outside == 0
    assert near.image.tobytes() != whole.image.tobytes()
    region = 89, 28, 121, 60  # 32 pixels round the middle of the mask: the working size
    part = replace(source, rgb=source.rgb.crop(region))
    alone = edit_image(model, part, replace(config, zoom=False), mask=speck().crop(region))
    assert alike(near.image.crop(region), alone.image)


def test_all_but_a_thing_is_no_small_thing(model: DiffusersDenoiser) -> None:
    rest = replace(QUICK, size=32, zoom=True, mask=MaskConfig(samples=2, invert=True))
    assert edit_image(model, picture(160, 120), rest).config.zoom is False
    given = edit_image(model, picture(160, 120), rest, mask=ImageChops.invert(speck()))
    assert given.config.zoom is True  # the speck is what is left of it


def test_a_mask_that_a_part_cuts_is_softened_there() -> None:
    everywhere, config = torch.ones(1, 1, 4, 4), EditConfig(size=32, mask=MaskConfig(feather=4))
    part = np.asarray(
        full_mask(everywhere, config.mask.feather, canvas.fit((100, 100), 32, 8, (0, 40, 32, 72)), 8), int
    )
    line = part[40:72, 16]
    assert line[0] < 60 < 200 < line[8] <= line.max() == 255
    assert np.abs(np.diff(line)).max() < 60
    assert part[56, 0] == 255  # here the picture ends
    assert part[:40].max() == part[72:].max() == part[:, 32:].max() == 0
    whole = full_mask(everywhere, config.mask.feather, canvas.fit((32, 32), 32, 8), 8)
    assert whole.getextrema() == (255, 255)


def test_nothing_is_zoomed_in_on_in_a_small_picture(model: DiffusersDenoiser, unet_rows: list[int]) -> None:
    source = picture(40, 32)
    plain = edit_image(model, source, replace(QUICK, zoom=False, size=32))
    forwards = sum(unet_rows)
    auto = edit_image(model, source, replace(QUICK, size=32))
    assert sum(unet_rows) == 2 * forwards
    assert auto.image.tobytes() == plain.image.tobytes()
    asked = edit_image(model, source, replace(QUICK, size=64, zoom=True))
    assert any("nothing to zoom in on" in notice for notice in asked.notices)


def test_the_working_size_changes_the_work_and_not_the_result(model: DiffusersDenoiser) -> None:
    small, large = (edit_image(model, picture(), replace(QUICK, size=side)) for side in (32, 64))
    assert small.image.size == large.image.size == (45, 37)
    assert differ(small.image, large.image).any()


def test_a_result_is_saved_with_its_settings(model: DiffusersDenoiser, tmp_path: Path) -> None:
    made = {
        "mask": make_mask(model, picture(), QUICK),
        "edit": edit_image(model, picture(), QUICK),
        "generate": generate_image(model, GenerateConfig(prompt="a horse", steps=2, seed=1)),
    }
    for command, result in made.items():
        path, buffer = tmp_path / f"{command}.png", io.BytesIO()
        result.save(path)
        result.save(buffer)
        assert path.read_bytes() == buffer.getvalue()
        stored = read_settings(path)
        assert stored == result.settings() == json.loads(json.dumps(result.facts()))["settings"]
        assert stored is not None
        assert stored["command"] == command
        schema = type(result.config)
        assert build(schema, {key: stored[key] for key, *_ in keys(schema)}) == result.config
        assert ("input_sha256" in stored) == (command != "generate")
        with pytest.raises(DiffeditError, match="already exists"):
            result.save(path)
        result.save(path, overwrite=True, metadata=False)
        assert read_settings(path) is None
        with Image.open(path) as image:
            assert not {"parameters", "diffedit"} & set(image.info)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_other_tools_read_the_parameters(model: DiffusersDenoiser, tmp_path: Path, suffix: str) -> None:
    config = GenerateConfig(prompt="a horse, wet", negative_prompt="dull", steps=3, seed=11)
    generate_image(model, config).save(tmp_path / f"out.{suffix}")
    read = sd_parsers.ParserManager().parse(tmp_path / f"out.{suffix}")
    assert read is not None
    (sampler,) = read.samplers
    assert sampler.name == "DDIM"
    assert sampler.parameters == {"steps": "3", "cfg_scale": "7.5", "seed": "11"}
    assert [prompt.value for prompt in sampler.prompts] == ["a horse, wet"]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["dull"]
    assert read.metadata["Size"] == "32x32"


def test_a_run_costs_what_the_network_saw(model: DiffusersDenoiser, unet_rows: list[int]) -> None:
    run = edit_image(model, picture(), QUICK).run
    assert run.forwards == sum(unet_rows) == 3 * 2 + 3 + 2 * 3
    assert 0 < run.network_seconds < run.seconds
    meter = Meter(model)
    assert meter.stop().forwards == 0


def test_pictures_edited_together_are_those_edited_alone(
    model: DiffusersDenoiser, unet_rows: list[int]
) -> None:
    """Eight of one shape and two of another; the seed is one for all, and the batch changes nothing."""
    pictures = [picture(45 + i, 37 + i) for i in range(8)] + [picture(30, 60), picture(30, 60)]
    results = list(edit_images(model, pictures, replace(QUICK, seed=None), ["zebra", "donkey"]))
    assert len(results) == 20
    seeds = {result.config.seed for result in results if isinstance(result, EditResult)}
    assert len(seeds) == 1
    forwards, unet_rows[:] = len(unet_rows), []
    for number in (0, 7, 14, 19):
        result = results[number]
        assert isinstance(result, EditResult)
        assert result.picture is pictures[number // 2]
        alone = edit_image(model, result.picture, result.config)
        assert alike(alone.image, result.image)
        both, either = (np.asarray(one.mask) > 127 for one in (alone, result))
        assert (both & either).sum() >= 0.95 * (both | either).sum()
        assert result.config == alone.config
        assert result.changed_outside == 0
    assert forwards / 20 < len(unet_rows) / 4 / 2


def test_the_number_of_threads_changes_nothing_that_is_seen(model: DiffusersDenoiser) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(edit_image(model, picture(), QUICK))
    finally:
        torch.set_num_threads(before)
    one, two = results
    assert alike(one.image, two.image)
    masks = np.asarray(one.mask) > 127, np.asarray(two.mask) > 127
    assert (masks[0] & masks[1]).sum() >= 0.95 * (masks[0] | masks[1]).sum()


def test_queries_share_the_encoding_of_their_picture(model: DiffusersDenoiser, unet_rows: list[int]) -> None:
    results = list(edit_images(model, [picture()] * 2, QUICK, ["zebra", "donkey"]))
    runs = {result.run for result in results if isinstance(result, EditResult)}
    assert sorted((run.results, run.forwards) for run in runs) == [(2, 2 * (6 + 6)), (2, 2 * (6 + 3 + 6))]
    assert sum(run.forwards for run in runs) == sum(unet_rows)


def test_one_bad_edit_does_not_end_the_others(model: DiffusersDenoiser) -> None:
    first, second = picture(), replace(picture(), name="second")
    results = list(edit_images(model, [first, second], QUICK, ["zebra", QUICK.ref, "donkey"]))
    assert [isinstance(result, DiffeditError) for result in results] == [False, True, False] * 2
    said = [result.config.query for result in results if isinstance(result, EditResult)]
    assert said == ["zebra", "donkey"] * 2


def test_a_mask_is_for_one_picture(model: DiffusersDenoiser) -> None:
    both = list(edit_images(model, [picture()], QUICK, ["zebra", "donkey"], mask=left_half()))
    for result in both:
        assert isinstance(result, EditResult)
        assert result.mask.tobytes() == left_half().tobytes()
    with pytest.raises(SettingError, match="one picture"):
        list(edit_images(model, [picture()] * 2, QUICK, mask=left_half()))


def test_progress_ends_at_its_total(model: DiffusersDenoiser) -> None:
    told: list[tuple[str, int, int]] = []
    edit_image(model, picture(), QUICK, report=lambda *step: told.append(step))
    assert [stage for stage, done, total in told if done == total] == ["mask", "invert", "decode"]
    assert [stage for stage, done, _ in told if done == 0] == ["mask", "invert", "decode"]
    for stage in ("mask", "invert", "decode"):
        counts = [done for name, done, _ in told if name == stage]
        assert counts == sorted(set(counts))


def test_what_a_report_raises_ends_the_run(model: DiffusersDenoiser, unet_rows: list[int]) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "decode" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit_image(model, picture(), QUICK, report=stop)
    assert sum(unet_rows) == 3 * 2 + 3 + 2 * 1
    assert edit_image(model, picture(), QUICK).image.tobytes()  # the model is as good as before


@pytest.mark.parametrize("query", ["horse", "HORSE", " horse "])
def test_texts_that_are_the_same_are_refused(model: DiffusersDenoiser, query: str) -> None:
    for function in (edit_image, make_mask):
        with pytest.raises(DiffeditError, match="same"):
            function(model, picture(), replace(QUICK, query=query))


def test_an_edit_needs_a_query_or_a_mask(model: DiffusersDenoiser) -> None:
    with pytest.raises(SettingError, match="--query"):
        edit_image(model, picture(), replace(QUICK, query=""))
    edit_image(model, picture(), replace(QUICK, query=""), mask=left_half())


@pytest.mark.parametrize(("level", "word"), [(0, "next to nothing"), (255, "beyond")])
def test_a_mask_of_nearly_nothing_or_all_is_noted(model: DiffusersDenoiser, level: int, word: str) -> None:
    mask = Image.new("L", (45, 37), level)
    assert [word in notice for notice in edit_image(model, picture(), QUICK, mask=mask).notices] == [True]
    assert edit_image(model, picture(), QUICK, mask=left_half()).notices == ()


def test_what_was_noted_of_the_input_is_passed_on(model: DiffusersDenoiser) -> None:
    given = replace(picture(), notices=("It is odd.",))
    assert edit_image(model, given, QUICK, mask=left_half()).notices == ("It is odd.",)
    assert "It is odd." in make_mask(model, given, QUICK).notices


def test_words_beyond_the_window_are_noted(model: DiffusersDenoiser) -> None:
    (notice,) = generate_image(model, GenerateConfig(prompt="horse " * 90, steps=1)).notices
    assert "ignored" in notice


def test_results_are_one_line_in_python_and_pictures_in_a_notebook(model: DiffusersDenoiser) -> None:
    """With a colour profile and transparency, as a screen shows them."""
    clear = picture().rgb.convert("RGBA")
    clear.putalpha(left_half())
    given = opened(clear, icc_profile=swapped_profile())
    tiles = {"query": ["zebra"], "steps": [2, 3], "seed": [1]}
    results = {
        "EditResult(horse to zebra, mask ": edit_image(model, given, QUICK),
        "MaskResult(mask of horse, ": make_mask(model, given, QUICK),
        "Generated('a horse', seed 1, 32x32)": generate_image(
            model, GenerateConfig(prompt="a horse", steps=1, seed=1)
        ),
        "Comparison(steps 2; steps 3, ": compare(model, given, tiles, mask=left_half()),
    }
    for begin, result in results.items():
        assert repr(result).startswith(begin)
        assert len(repr(result)) < 100
        assert "\n" not in repr(result)
        with Image.open(io.BytesIO(result._repr_png_())) as shown:
            assert shown.format == "PNG"
            assert shown.mode in ("L", "RGB")
    edited = results["EditResult(horse to zebra, mask "]
    with Image.open(io.BytesIO(edited._repr_png_())) as shown:
        assert shown.size == given.rgb.size
        assert shown.getpixel((44, 3)) == (225, 225, 225)  # clear


def test_a_search_takes_no_mask_to_use(model: DiffusersDenoiser) -> None:
    with pytest.raises(SettingError, match="takes no mask"):
        make_mask(model, picture(), QUICK, mask=left_half())


def test_a_result_says_in_which_batch_it_was_made(model: DiffusersDenoiser) -> None:
    several = list(edit_images(model, [picture(45, 37), picture(46, 37), picture(8, 64)], QUICK))
    places = [result.together for result in several if isinstance(result, EditResult)]
    assert places == [(0, 2), (1, 2), (0, 1)]
    alone = edit_image(model, picture(), QUICK)
    assert "together" not in alone.settings()


def test_masks_by_hand() -> None:
    left, none = left_half((4, 1)), Image.new("L", (4, 1))
    grey = Image.new("L", (4, 1), 128)
    assert list(Masks(add=left, subtract=None).mend(none).tobytes()) == [255, 255, 0, 0]
    assert list(Masks(add=left, subtract=None).mend(grey).tobytes()) == [255, 255, 128, 128]
    assert list(Masks(add=None, subtract=left).mend(grey).tobytes()) == [0, 0, 128, 128]
    assert list(Masks(add=left, subtract=left).mend(none).tobytes()) == [0, 0, 0, 0]
    assert [covered(image) for image in (none, left, grey)] == [0, 0.5, 1]


# --------------------------------------------------------------------------------- pictures from texts


def test_a_picture_has_the_size_that_was_asked_for(model: DiffusersDenoiser) -> None:
    config = GenerateConfig(prompt="a horse", steps=2, seed=1)
    assert generate_image(model, config).image.size == (32, 32)
    result = generate_image(model, replace(config, width=48, height=36))
    assert result.image.size == (48, 36)
    assert (result.config.width, result.config.height) == (48, 36)
    with pytest.raises(SettingError, match="--height 34"):
        generate_image(model, replace(config, height=34))
    with pytest.raises(SettingError, match="no prompt"):
        generate_image(model, replace(config, prompt=""))


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a zebra"}, {"seed": 2}, {"negative_prompt": "a zebra"}, {"guidance": GuidanceConfig(2)}],
    ids=lambda change: next(iter(change)),
)
def test_a_picture_hangs_on_its_settings(model: DiffusersDenoiser, change: dict[str, Any]) -> None:
    config = GenerateConfig(prompt="a horse", steps=3, seed=1)
    configs = config, config, replace(config, **change)
    first, again, other = (generate_image(model, each).image for each in configs)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("loop", [False, True])
def test_frames_come_one_by_one(model: DiffusersDenoiser, unet_rows: list[int], loop: bool) -> None:
    config = InterpolateConfig(prompts=("a horse", "a zebra"), frames=9, steps=2, seed=(3,), loop=loop)
    frames = interpolate_frames(model, config)
    assert unet_rows == []
    first = next(frames)
    assert 0 < sum(unet_rows) < 9 * 2 * 2
    rest = list(frames)
    assert 1 + len(rest) == count_frames(config)
    assert {(frame.mode, frame.size) for frame in [first, *rest]} == {("RGB", (32, 32))}
    alone = generate_image(model, GenerateConfig(prompt="a horse", steps=2, seed=3)).image
    assert alike(first, alone)


def test_a_film_has_a_seed_for_each_prompt_and_a_size(model: DiffusersDenoiser) -> None:
    config = InterpolateConfig(prompts=("a", "b", "c"))
    done = resolve_interpolation(model, config)
    assert len(done.seed) == 3
    assert len(set(done.seed)) == 1
    assert (done.width, done.height) == (32, 32)
    assert resolve_interpolation(model, done) == done
    assert resolve_interpolation(model, config).seed != done.seed


def test_frames_are_drawn_from_an_init_of_any_size(model: DiffusersDenoiser) -> None:
    config = InterpolateConfig(prompts=("a horse", "a zebra"), frames=2, steps=4, seed=(3,), strength=0.25)
    plain = list(interpolate_frames(model, config))
    drawn = list(interpolate_frames(model, config, init=picture(90, 37)))
    assert all(frame.size == (32, 32) for frame in drawn)
    assert all(differ(a, b).any() for a, b in zip(plain, drawn, strict=True))


def test_an_init_is_drawn_as_a_screen_shows_it(model: DiffusersDenoiser) -> None:
    """The profile and the transparency of a picture count: both of these look alike, a green half on grey."""
    config = InterpolateConfig(prompts=("a horse", "a zebra"), frames=2, steps=4, seed=(3,), strength=0.25)
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    clear.paste((255, 0, 255, 0), (0, 0, 16, 32))
    plain = Image.new("RGB", (32, 32), (0, 255, 0))
    plain.paste((225, 225, 225), (0, 0, 16, 32))
    given = opened(clear, icc_profile=swapped_profile()), opened(plain)
    green, same = (np.asarray(sheets.shown(one)).astype(int) for one in given)
    assert np.abs(green - same).max() <= 1
    one, other = (list(interpolate_frames(model, config, init=init)) for init in given)
    hidden = list(interpolate_frames(model, config, init=opened(clear.convert("RGB"))))
    for frame, alike_frame, wrong in zip(one, other, hidden, strict=True):
        assert alike(frame, alike_frame)
        assert not alike(frame, wrong)


# ------------------------------------------------------------------------------------- films and guidance


def test_the_film_of_an_edit_begins_and_ends_exactly(model: DiffusersDenoiser) -> None:
    given = picture(150, 90)  # larger than the working size: what scaling loses comes back too
    result, frames = animate_edit(model, given, QUICK, 7, mask=left_half((150, 90)))
    shown = list(frames)
    assert len(shown) == 7
    assert shown[0].tobytes() == given.rgb.tobytes()
    assert shown[-1].tobytes() == result.image.tobytes()
    assert (
        result.image.tobytes() == edit_image(model, given, QUICK, mask=left_half((150, 90))).image.tobytes()
    )
    for frame in shown:
        assert not differ(given.rgb, frame)[:, 75:].any()
    assert all(differ(a, b).any() for a, b in pairwise(shown))


def test_cfg_plus_plus_with_few_steps_is_noted(model: DiffusersDenoiser) -> None:
    weak, strong = (GuidanceConfig(method=method) for method in ("cfg++", "cfg"))
    area = left_half()
    told = [
        edit_image(model, picture(), replace(QUICK, guidance=weak, steps=steps), mask=area).notices
        for steps in (19, 20)
    ]
    assert [sum("cfg++" in notice for notice in notices) for notices in told] == [1, 0]
    assert edit_image(model, picture(), replace(QUICK, guidance=strong), mask=area).notices == ()
    drawn = generate_image(model, GenerateConfig(prompt="a horse", steps=2, guidance=weak))
    assert any("--steps 20 or more" in notice for notice in drawn.notices)


# ----------------------------------------------------------------------------------- the embedded model


FAR = Path(__file__).parents[1] / "examples/horse_far.jpg"
SMALL = EditConfig(ref="horse", query="zebra", seed=1, steps=3, mask=MaskConfig(samples=4))


@pytest.fixture(scope="module")
def embedded() -> DiffusersDenoiser:
    return load_model("embedded", device="cpu")


@pytest.mark.slow
def test_the_embedded_model_zooms_in_on_a_small_horse_by_itself(embedded: DiffusersDenoiser) -> None:
    far, before = make_mask(embedded, load_image(FAR), SMALL), embedded.forwards
    assert far.config.zoom is True
    assert 0.005 < far.coverage < 0.05
    assert any("round it" in notice for notice in far.notices)
    assert make_mask(embedded, load_image(FAR.with_name("horse_park.jpg")), SMALL).config.zoom is False
    whole = make_mask(embedded, load_image(FAR), replace(SMALL, zoom=False))
    assert whole.coverage > 2 * far.coverage
    assert embedded.forwards - before == 2 * 3 * 4  # neither has looked
    edited = edit_image(embedded, load_image(FAR), replace(far.config, room=0.0))
    assert edited.mask.tobytes() == far.mask.tobytes()
    assert edited.changed_outside == 0


@pytest.mark.slow
def test_pictures_of_a_batch_zoom_each_for_itself(embedded: DiffusersDenoiser) -> None:
    far = load_image(FAR)
    turned = replace(far, rgb=far.rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    plain = replace(far, rgb=load_image(FAR.with_name("horse_park.jpg")).rgb.resize(far.rgb.size))
    results = [*edit_images(embedded, [far, plain, turned], SMALL)]
    zoomed = []
    for source, result in zip([far, plain, turned], results, strict=True):
        assert isinstance(result, EditResult)
        assert result.picture is source
        alone = edit_image(embedded, source, SMALL)
        assert result.config == alone.config
        assert alike(alone.image, result.image)
        zoomed.append(result.config.zoom)
    assert zoomed == [True, False, True]
    boxes = [result.mask.getbbox() for result in results if isinstance(result, EditResult)]
    assert boxes[0] != boxes[2]


def test_the_embedded_model_turns_a_horse_into_a_zebra_and_nothing_else() -> None:
    folder = Path(__file__).parent.parent / "examples"
    given = load_image(folder / "horse_park.jpg")
    config = EditConfig(ref="horse", query="zebra", steps=10, seed=0, mask=MaskConfig(samples=4))
    result = edit_image(load_model("embedded", device="cpu"), given, config)
    assert 0.02 < result.coverage < 0.5
    assert result.notices == ()
    changed = differ(given.rgb, result.image)
    mask = np.asarray(result.mask)
    assert not changed[mask == 0].any()
    before, after = (np.asarray(image, float)[mask == 255] for image in (given.rgb, result.image))
    assert np.ptp(after, axis=1).mean() < 0.6 * np.ptp(before, axis=1).mean()  # brown turns black and white
