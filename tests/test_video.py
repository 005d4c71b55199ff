"""video.py: every kind of film is written, opened by other programs, and never left half-done."""

import gc
import itertools
import re
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from diffedit_cli.errors import DiffeditError, ImageError, SettingError
from diffedit_cli.images.video import check_film, frame_path, next_missing, read_film_settings, write_frames
from diffedit_cli.images.write import save_image

SETTINGS = {"prompts": ["a horse", "a zebra, Füllen"], "seed": [1, 2], "guidance_scale": None}


def film(count: int = 5, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    """A light square that moves to the right over a blue ramp."""
    frames: list[Image.Image] = []
    for number in range(count):
        ramp = np.linspace(0, 255, size[0]).astype(np.uint8)
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[..., 2] = ramp
        pixels[8:20, 4 * number : 4 * number + 12] = (250, 200, 40)
        frames.append(Image.fromarray(pixels))
    return frames


def decoded(path: Path) -> list[Image.Image]:
    """The frames of a film of any kind, by other programs."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as opened:
            return [frame.to_image() for frame in opened.decode(video=0)]
    if path.is_dir():
        return [Image.open(file).convert("RGB") for file in sorted(path.iterdir())]
    with Image.open(path) as image:
        count = getattr(image, "n_frames", 1)
        shown: list[Image.Image] = []
        for number in range(count):
            image.seek(number)
            shown.append(image.convert("RGB"))
        return shown


def interrupted(frames: list[Image.Image], error: BaseException) -> Iterator[Image.Image]:
    yield from frames
    raise error


def distance(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


@pytest.mark.parametrize(
    ("name", "tolerance"), [("f.mp4", 8.0), ("f.gif", 8.0), ("f.webp", 5.0), ("frames", 0.0)]
)
def test_what_goes_in_comes_out(tmp_path: Path, name: str, tolerance: float) -> None:
    frames = film()
    write_frames(frames, tmp_path / name, fps=10, settings=SETTINGS)
    shown = decoded(tmp_path / name)
    assert len(shown) == len(frames)
    for number, (before, after) in enumerate(zip(frames, shown, strict=True)):
        assert after.size == before.size
        assert distance(before, after) <= tolerance
        nearest = min(range(len(frames)), key=lambda other: distance(frames[other], shown[number]))
        assert nearest == number
    assert read_film_settings(tmp_path / name) == SETTINGS
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["f.mp4", "f.gif", "f.webp", "frames"])
def test_no_settings_no_trace(tmp_path: Path, name: str) -> None:
    write_frames(film(2), tmp_path / name, fps=10)
    assert read_film_settings(tmp_path / name) is None


@pytest.mark.parametrize(("size", "even"), [((48, 32), (48, 32)), ((47, 33), (48, 34)), ((33, 48), (34, 48))])
def test_mp4_is_what_browsers_play(tmp_path: Path, size: tuple[int, int], even: tuple[int, int]) -> None:
    frames = film(6, size)
    write_frames(frames, tmp_path / "f.mp4", fps=24)
    with av.open(str(tmp_path / "f.mp4")) as opened:
        stream = opened.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == even
        assert stream.average_rate == 24
        assert stream.duration is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(6 / 24)
        shown = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(shown) == 6
    for frame, pixels in zip(frames, shown, strict=True):
        own = np.asarray(frame)
        assert np.abs(pixels[: size[1], : size[0]].astype(float) - own).mean() < 8
        assert np.abs(pixels[-1, : size[0]].astype(float) - own[-1]).mean() < 12  # the edge, not black
    content = (tmp_path / "f.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is loaded


@pytest.mark.parametrize("fps", [1, 12, 24, 30, 120])
def test_a_gif_takes_its_time(tmp_path: Path, fps: int) -> None:
    write_frames(film(7), tmp_path / "f.gif", fps=fps)
    with Image.open(tmp_path / "f.gif") as image:
        total = 0
        for number in range(7):
            image.seek(number)
            total += image.info["duration"]
    assert total == pytest.approx(7000 / fps, abs=5)


@pytest.mark.parametrize("name", ["f.gif", "f.webp"])
@pytest.mark.parametrize("loop", [True, False])
def test_a_loop_runs_for_ever_and_the_rest_once(tmp_path: Path, name: str, loop: bool) -> None:
    write_frames(film(3), tmp_path / name, fps=10, loop=loop)
    with Image.open(tmp_path / name) as image:
        assert image.info.get("loop") == (0 if loop else {"f.gif": None, "f.webp": 1}[name])


def test_what_is_still_stays_still_in_a_gif(tmp_path: Path) -> None:
    write_frames(film(), tmp_path / "f.gif", fps=10)
    shown = [np.asarray(frame) for frame in decoded(tmp_path / "f.gif")]
    assert all((frame[24:] == shown[0][24:]).all() for frame in shown)


@pytest.mark.slow
def test_mp4_frames_are_never_held_together(tmp_path: Path) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def frames() -> Iterator[Image.Image]:
        nonlocal most
        for frame in film(20):
            own = frame.copy()
            alive.append(weakref.ref(own))
            yield own
            del own
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))

    write_frames(frames(), tmp_path / "f.mp4", fps=10)
    assert len(alive) == 20
    assert most <= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DiffeditError("no"), OSError(28, "No space left")])
@pytest.mark.parametrize("name", ["f.mp4", "f.gif", "f.webp"])
@pytest.mark.parametrize("old", [b"", b"an old film"])
def test_a_fault_leaves_no_half_film(tmp_path: Path, name: str, error: BaseException, old: bytes) -> None:
    if old:
        (tmp_path / name).write_bytes(old)
    with pytest.raises((KeyboardInterrupt, DiffeditError)):
        write_frames(interrupted(film(3), error), tmp_path / name, fps=10, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ([name] if old else [])
    if old:
        assert (tmp_path / name).read_bytes() == old


def test_a_folder_keeps_its_finished_frames_and_goes_on(tmp_path: Path) -> None:
    frames, folder = film(6), tmp_path / "frames"
    assert next_missing(folder) == 0
    with pytest.raises(KeyboardInterrupt):
        write_frames(interrupted(frames[:3], KeyboardInterrupt()), folder, fps=10)
    assert next_missing(folder) == 3
    write_frames(frames[3:], folder, fps=10, first=3)
    assert next_missing(folder) == 6
    assert sorted(path.name for path in folder.iterdir()) == [f"frame_{n:04d}.png" for n in range(6)]
    assert all(distance(*pair) == 0 for pair in zip(frames, decoded(folder), strict=True))


def test_a_damaged_frame_is_missing(tmp_path: Path) -> None:
    write_frames(film(4), tmp_path / "frames", fps=10)
    path = frame_path(tmp_path / "frames", 2)
    path.write_bytes(path.read_bytes()[:-40])
    assert next_missing(tmp_path / "frames") == 2


def test_frames_of_a_longer_run_go_and_other_files_stay(tmp_path: Path) -> None:
    write_frames(film(6), tmp_path / "frames", fps=10)
    (tmp_path / "frames" / "notes.txt").write_text("mine")
    write_frames(film(2), tmp_path / "frames", fps=10, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [
        "frame_0000.png",
        "frame_0001.png",
        "notes.txt",
    ]


@pytest.mark.parametrize(
    ("name", "fps", "kind", "words"),
    [
        ("f.avi", 10, SettingError, ".mp4, .gif, .webp"),
        ("f.mp4", 0, SettingError, "--fps 0"),
        ("f.mp4", 121, SettingError, "--fps 121"),
        ("none/f.mp4", 10, ImageError, "does not exist"),
        ("none/frames", 10, ImageError, "does not exist"),
        ("old.gif", 10, ImageError, "--overwrite"),
        ("old", 10, ImageError, "--overwrite"),
    ],
)
def test_a_film_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str, fps: int, kind: type[Exception], words: str
) -> None:
    (tmp_path / "old.gif").write_bytes(b"old")
    write_frames(film(2), tmp_path / "old", fps=10)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(kind, match=words):
        check_film(tmp_path / name, fps=fps, overwrite=False)
    with pytest.raises(kind, match=words):
        write_frames(film(2), tmp_path / name, fps=fps)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_without_frames_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    check_film(tmp_path, fps=10, overwrite=False)
    write_frames(film(2), tmp_path, fps=10)
    assert next_missing(tmp_path) == 2


@pytest.mark.parametrize("name", ["f.mp4", "f.gif", "f.webp", "frames"])
@pytest.mark.parametrize(
    ("frames", "words"), [([], "no frames"), ([*film(2), *film(1, (32, 32))], r"\(32, 32\)")]
)
def test_no_frames_and_mixed_sizes_are_refused(
    tmp_path: Path, name: str, frames: list[Image.Image], words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        write_frames(frames, tmp_path / name, fps=10)
    assert name == "frames" or not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["f.mp4", "f.gif", "f.webp", "frames"])
def test_a_film_of_one_frame(tmp_path: Path, name: str) -> None:
    write_frames(film(1), tmp_path / name, fps=10)
    assert len(decoded(tmp_path / name)) == 1


def test_a_file_that_is_no_film(tmp_path: Path) -> None:
    for name in ("f.mp4", "f.gif"):
        (tmp_path / name).write_bytes(b"no film")
        with pytest.raises(ImageError, match=name):
            read_film_settings(tmp_path / name)


def test_settings_of_a_folder_that_other_programs_made(tmp_path: Path) -> None:
    save_image(frame_path(tmp_path, 0), film(1)[0])
    assert read_film_settings(tmp_path) is None


def test_frames_of_any_mode_become_rgb(tmp_path: Path) -> None:
    grey: list[Any] = [frame.convert("L") for frame in film(2)]
    write_frames(grey, tmp_path / "f.mp4", fps=10)
    pixels = np.asarray(decoded(tmp_path / "f.mp4")[0], int)
    assert np.abs(pixels - pixels[..., :1]).max() <= 4


# ------------------------------------------------------------------------------------------ folders of frames


def test_frames_of_another_film_are_not_gone_on_with(tmp_path: Path) -> None:
    """After a crash: two frames of one film, and the rest of an older one."""
    folder = tmp_path / "frames"
    write_frames(film(6), folder, fps=10, settings={**SETTINGS, "seed": [9]})
    for number, frame in enumerate(film(2)):
        save_image(frame_path(folder, number), frame, settings=SETTINGS, overwrite=True)
    assert next_missing(folder) == 2
    save_image(frame_path(folder, 2), film(1)[0], settings={**SETTINGS, "diffedit": "9"}, overwrite=True)
    assert next_missing(folder) == 3  # a newer version went on with it


@pytest.mark.parametrize("first", [None, 2])
def test_older_frames_go_with_the_first_new_one(tmp_path: Path, first: int | None) -> None:
    folder = tmp_path / "frames"
    write_frames(film(6), folder, fps=10)
    with pytest.raises(KeyboardInterrupt):
        write_frames(interrupted(film(1), KeyboardInterrupt()), folder, fps=10, overwrite=True, first=first)
    assert next_missing(folder) == (first or 0) + 1
    assert len(list(folder.iterdir())) == (first or 0) + 1


def test_of_six_films_into_one_new_folder_one_succeeds(tmp_path: Path) -> None:
    start, outcomes, refused = threading.Barrier(6), [], []

    def write(number: int) -> None:
        def slow() -> Iterator[Image.Image]:
            for value in range(4):
                start.wait() if value == 0 else time.sleep(0.01)
                yield Image.new("RGB", (8, 8), (number, value, 0))

        try:
            write_frames(slow(), tmp_path / "frames", fps=10, settings={"number": number})
            outcomes.append(number)
        except ImageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = outcomes
    assert all(
        re.search(r"already exists|holds frames|is a folder|not a regular", words) for words in refused
    )
    assert next_missing(tmp_path / "frames") == 4
    assert [frame.getpixel((0, 0)) for frame in decoded(tmp_path / "frames")] == [
        (winner, value, 0) for value in range(4)
    ]


@pytest.mark.parametrize(("name", "side"), [("f.mp4", 16_385), ("f.webp", 16_384), ("f.gif", 65_536)])
def test_a_film_larger_than_its_codec_is_refused(tmp_path: Path, name: str, side: int) -> None:
    for size in ((side, 8), (8, side)):
        with pytest.raises(SettingError, match=f"{side - 1} pixels a side"):
            check_film(tmp_path / name, fps=10, overwrite=False, size=size)
        with pytest.raises(SettingError, match="pixels a side"):
            write_frames([Image.new("RGB", size)] * 2, tmp_path / name, fps=10)
    check_film(tmp_path / name, fps=10, overwrite=False, size=(side - 1, 8))
    check_film(tmp_path / "frames", fps=10, overwrite=False, size=(side, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "side"), [("f.mp4", 16_384), ("f.webp", 16_383), ("f.gif", 65_535)])
def test_a_film_as_large_as_its_codec_allows_is_written(tmp_path: Path, name: str, side: int) -> None:
    write_frames([Image.new("RGB", (side, 2), (value, 0, 0)) for value in (9, 99)], tmp_path / name, fps=10)
    assert [frame.size for frame in decoded(tmp_path / name)] == [(side, 2)] * 2


# ------------------------------------------------------------------------------------------------------- gifs


def smooth_film(count: int = 6, size: tuple[int, int] = (96, 64)) -> list[Image.Image]:
    """A soft sky over which a soft ball moves: far more than 256 colours, and a still lower half."""
    ramps = np.linspace(0, 1, size[1])[:, None], np.linspace(0, 1, size[0])[None]
    down, across = np.broadcast_arrays(*ramps)
    ground = np.stack([120 + 90 * down, 150 + 60 * across, 250 - 80 * down * across], 2)
    frames: list[Image.Image] = []
    for number in range(count):
        y, x = np.mgrid[: size[1], : size[0]]
        ball = np.exp(-((x - 12 * number - 15) ** 2 + (y - 16) ** 2) / 60)[..., None]
        ball[32:] = 0
        frames.append(Image.fromarray((ground * (1 - ball) + ball * (230, 90, 40)).round().astype(np.uint8)))
    return frames


def signal_to_noise(first: Image.Image, second: Image.Image) -> float:
    """PSNR in decibels."""
    error = (np.asarray(first, float) - np.asarray(second, float)) ** 2
    return float(10 * np.log10(255**2 / error.mean()))


def test_a_gif_looks_like_its_frames_and_does_not_flicker(tmp_path: Path) -> None:
    frames = smooth_film()
    write_frames(frames, tmp_path / "f.gif", fps=10)
    shown = decoded(tmp_path / "f.gif")
    assert (
        min(signal_to_noise(*pair) for pair in zip(frames, shown, strict=True)) > 35
    )  # about 31 with a mesh
    for before, after in itertools.pairwise(shown):
        assert (np.asarray(before)[32:] == np.asarray(after)[32:]).all()


def test_a_slow_fade_is_followed(tmp_path: Path) -> None:
    """Each step is hardly to be seen, but all together are."""
    frames = [Image.fromarray(np.asarray(smooth_film(1)[0]) - np.uint8(value)) for value in range(0, 60, 3)]
    write_frames(frames, tmp_path / "f.gif", fps=10)
    shown = decoded(tmp_path / "f.gif")
    for frame, one in zip(frames, shown, strict=True):
        assert (
            abs(float(np.asarray(frame, float).mean() - np.asarray(one, float).mean())) < 10
        )  # and 58 if none was


def test_few_colours_stay_exact_in_a_gif(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (255, 3), dtype=np.uint8)
    frames = [Image.fromarray(np.roll(colours, shift, 0).reshape(15, 17, 3)) for shift in (0, 40, 80)]
    write_frames(frames, tmp_path / "f.gif", fps=10)
    assert all(distance(*pair) == 0 for pair in zip(frames, decoded(tmp_path / "f.gif"), strict=True))
