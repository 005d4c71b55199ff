"""video.py: every kind of film is written, opened by other programs, and never left half-done."""

import gc
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
