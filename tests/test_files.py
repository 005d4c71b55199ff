"""images/read.py, write.py and what they use: hand cases, then bad input, then faults while writing."""

import contextlib
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    box_mask,
    encoded,
    ink_profile,
    noise,
    opened,
    same,
    swapped_profile,
)
from PIL import Image, ImageChops, ImageDraw, ImageFilter, PngImagePlugin
from PIL.ExifTags import IFD, Base

from benchmarks.robustness import read_back
from diffedit_cli.errors import DiffeditError, ImageError, SettingError
from diffedit_cli.images import pixels
from diffedit_cli.images import write as writing
from diffedit_cli.images.colour import to_srgb
from diffedit_cli.images.masks import Masks, load_mask
from diffedit_cli.images.read import Picture, load_image, read_settings
from diffedit_cli.images.sheets import cutout
from diffedit_cli.images.write import (
    WRITE_FORMATS,
    check_target,
    is_lossless,
    losses,
    save_image,
)

pytestmark = pytest.mark.filterwarnings(  # what Pillow says of odd files
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)
SETTINGS = {
    "query": 'a "zebra", Steps: 3: diffedit: "x"',
    "steps": 25,
    "mask_strength": [0.5],
    "ref": "Füllen 🐎",
}
PARAMETERS = "a zebra\nNegative prompt: blur\nSteps: 25, Sampler: DDIM, CFG scale: 7.5, Seed: 4"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_upright(kind, orientation):
    upright = Image.new("RGB", (64, 32))
    for colour, corner in zip((RED, GREEN, BLUE, WHITE), ((0, 0), (32, 0), (0, 16), (32, 16)), strict=True):
        upright.paste(colour, (*corner, corner[0] + 32, corner[1] + 16))
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = upright.transpose(pixels.TURNS[inverse]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make] = orientation, "Maker"
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"subsampling": 0}}.get(kind, {})
    picture = opened(stored, kind, exif=exif.tobytes(), **options)
    assert picture.rgb.size == (64, 32)
    assert np.abs(np.asarray(picture.rgb, int) - np.asarray(upright, int)).max() <= (
        3 if kind == "JPEG" else 0
    )
    kept = Image.Exif()
    kept.load(picture.exif or b"")
    assert Base.Orientation not in kept
    assert kept[Base.Make] == "Maker"


def exif_with_thumbnail() -> bytes:
    main = struct.pack("<HHHI4sI", 1, Base.Make, 2, 4, b"abc\0", 26)
    entries = ((0x0103, 3, 1, 6), (0x0201, 4, 1, 68), (0x0202, 4, 1, 5))
    small = struct.pack("<H", 3) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"Exif\0\0II*\0\x08\0\0\0" + main + small + b"THUMB"


def test_exif_is_kept_without_thumbnail_and_old_layout():
    picture = opened(noise(8, 8), "JPEG", exif=exif_with_thumbnail())
    assert picture.exif is not None
    assert b"abc" in picture.exif
    assert b"THUMB" not in picture.exif
    exif = Image.Exif()
    exif[IFD.GPSInfo] = {1: "N", 2: (51.0, 30.0, 0.0)}
    exif[IFD.Exif] = {Base.ExposureTime: 0.5, Base.UserComment: b"ASCII\0\0\0mine"}
    picture = opened(noise(8, 8), "TIFF", exif=exif.tobytes())
    kept = Image.Exif()
    kept.load(picture.exif or b"")
    assert kept.get_ifd(IFD.GPSInfo) == {1: "N", 2: (51.0, 30.0, 0.0)}
    assert kept.get_ifd(IFD.Exif) == {Base.ExposureTime: 0.5, Base.UserComment: b"ASCII\0\0\0mine"}
    assert 256 not in kept  # the width of the TIFF itself


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_levels(kind):
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16)[None].repeat(2, 0)
    picture = opened(Image.fromarray(ramp), kind)
    levels = np.unique(np.asarray(picture.rgb)[..., 0])
    assert len(levels) >= 250
    assert np.abs(np.asarray(picture.rgb)[..., 0] - ramp / 257).max() <= 0.5


def test_deep_grey_is_scaled_by_its_nominal_range_or_its_own():
    def levels(values: np.ndarray) -> tuple[list[int], tuple[str, ...]]:
        picture = opened(Image.fromarray(values[None]), "TIFF")
        return np.asarray(picture.rgb)[0, :, 0].tolist(), picture.notices

    assert levels(np.array([0, 0.5, 1], np.float32)) == ([0, 128, 255], ())
    assert levels(np.array([0, 100, 255], np.float32)) == ([0, 100, 255], ())
    assert levels(np.array([0, 25700, 65535], np.int32)) == ([0, 100, 255], ())
    assert levels(np.array([np.nan, np.inf, 1], np.float32)) == ([0, 0, 255], ())
    grey, (notice,) = levels(np.array([-100, 0, 100], np.int32))
    assert grey == [0, 128, 255]
    assert "from -100 to 100" in notice


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (37, 53), (301, 2)])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *((mode, "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F", "I")),
        *((mode, "JPEG") for mode in ("L", "RGB", "CMYK")),
        *((mode, "BMP") for mode in ("1", "L", "P", "RGB")),
        *((mode, "GIF") for mode in ("L", "P", "RGB")),
        *((mode, "WEBP") for mode in ("RGB", "RGBA")),
    ],
)
def test_every_mode_comes_back_at_its_own_size(tmp_path, size, mode, kind):
    image = noise(*size, bands=4)
    if mode == "P":
        image = image.convert("RGB").quantize(9)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert("RGBA" if mode == "RGBA" else "RGB").convert(mode)
    picture = opened(image, kind)
    assert picture.rgb.mode == "RGB"
    assert picture.rgb.size == size
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA"))
    save_image(tmp_path / "out.png", picture.rgb, picture=picture)
    again = load_image(tmp_path / "out.png")
    assert same(again.rgb, picture.rgb)
    assert again.alpha is picture.alpha is None or same(again.alpha, picture.alpha)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_own_profile(kind):
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    picture = opened(cyan, kind, icc_profile=ink_profile())
    red, green, blue = picture.rgb.getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 40
    assert picture.icc is None
    assert picture.notices == ("stdin was converted from CMYK to sRGB by its colour profile.",)
    plain = opened(cyan, kind)
    assert plain.rgb.getpixel((8, 8))[0] < 40
    assert plain.notices == ("stdin was converted from CMYK to sRGB.",)


def test_lab_and_palette_transparency():
    lab = opened(Image.new("LAB", (3, 3), (128, 128, 128)), "TIFF")
    assert all(abs(value - 119) < 4 for value in lab.rgb.getpixel((1, 1)))
    assert "LAB" in lab.notices[0]
    assert lab.alpha is None  # though LAB has a band that is called A
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        picture = opened(palette, kind, transparency=1)
        assert picture.rgb.getpixel((0, 0)) == RED
        assert picture.alpha is not None
        assert picture.alpha.tobytes() == bytes([255, 0])
    keyed = opened(Image.fromarray(np.array([[0, 500]], np.uint16)), "PNG", transparency=500)
    assert keyed.alpha is not None
    assert keyed.alpha.tobytes() == bytes([255, 0])


def test_first_of_several_frames_with_a_notice(tmp_path):
    frames = [Image.new("RGB", (9, 9), (20 * value, 0, 0)) for value in range(12)]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        path = tmp_path / f"horse.{kind.lower()}"
        frames[0].save(path, kind, save_all=True, append_images=frames[1:])
        picture = load_image(path)
        assert picture.notices == (f"horse.{kind.lower()} has 12 frames; only the first is used.",)
        assert picture.rgb.getpixel((4, 4))[0] <= 1


def test_name_and_hash_of_path_bytes_and_stream(tmp_path):
    data = encoded(noise(5, 5))
    (tmp_path / "a.png").write_bytes(data)
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        piped = load_image(pipe)
    pictures = [load_image(tmp_path / "a.png"), load_image(data), piped]
    assert [picture.name for picture in pictures] == ["a.png", "stdin", "stdin"]
    assert {picture.sha256 for picture in pictures} == {hashlib.sha256(data).hexdigest()}


# ---------------------------------------------------------------------------------------------------- masks


def test_masks_of_every_kind():
    size = (40, 20)
    mask = box_mask(size, (0, 0, 20, 20))
    assert same(load_mask(encoded(mask), size), mask)
    assert same(load_mask(encoded(mask.convert("1")), size), mask)
    assert same(load_mask(encoded(mask.point([0, *[1] * 255])), size), mask)  # labels 0 and 1
    black = Image.merge("LA", (Image.new("L", size), mask))
    photo = noise(*size).convert("RGBA")
    photo.putalpha(mask)
    assert same(load_mask(encoded(black), size), mask)
    assert same(load_mask(encoded(photo), size), mask)
    deep = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    assert same(load_mask(encoded(deep), size), mask)
    small = load_mask(encoded(mask.resize((4, 2), Image.Resampling.NEAREST)), size)
    assert small.size == size
    assert small.getpixel((2, 10)) == 255
    assert small.getpixel((38, 10)) == 0
    turned = Image.Exif()
    turned[Base.Orientation] = 6
    assert load_mask(encoded(mask, exif=turned.tobytes()), (20, 40)).getpixel((10, 2)) == 255


@pytest.mark.parametrize(
    ("mask", "size"), [((96, 64), (333, 222)), ((64, 43), (1000, 667)), ((3, 1), (1000, 500))]
)
def test_a_mask_may_be_rounded(mask, size):
    assert load_mask(encoded(Image.new("L", mask, 9)), size).size == size


@pytest.mark.parametrize(("mask", "size"), [((20, 40), (40, 20)), ((512, 512), (512, 500)), ((2, 1), (1, 9))])
def test_a_mask_of_another_shape_is_refused(mask, size):
    with pytest.raises(ImageError, match="not the shape"):
        load_mask(encoded(Image.new("L", mask)), size)


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\xff\0IDAT"


READ_AND_TELL = """
import re, sys, time
from pathlib import Path
from diffedit_cli.images.read import load_image
start = time.process_time()
load_image(sys.argv[1])
kilobytes = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(time.process_time() - start, int(kilobytes) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="its peak memory is not told here")
def test_the_largest_picture_takes_little_time_and_memory(tmp_path):
    """12,000 x 9,000 on its side, in a process of its own: 5 s and 1 GB at most."""
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    Image.new("RGB", (12_000, 9_000), RED).save(tmp_path / "large.jpg", exif=exif.tobytes())
    command = [sys.executable, "-c", READ_AND_TELL, str(tmp_path / "large.jpg")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, memory = map(float, told.split())
    assert seconds < 5
    assert memory < 1e9


@pytest.mark.parametrize("size", [(10_400, 10_400), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_from_the_header(size):
    with pytest.raises(ImageError, match="108 million"):
        load_image(png_header(*size))
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b",\0\0\0\0\xff\xff\xff\xff\0\2"
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 99999), (257, 99999)))
    tiff += struct.pack("<HHIII", 262, 3, 1, 1, 0)
    bmp = b"BM" + struct.pack("<IIIIiiHHII", 54, 0, 54, 40, 99999, 99999, 1, 24, 0, 0) + bytes(16)
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff\x3f\0" * 2
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65500, 65500, 3) + b"\1\x11\0\2\x11\1\3\x11\1"
    for bomb in (gif, tiff, bmp, webp, jpeg):
        with pytest.raises(ImageError):
            load_image(bomb)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "WebP"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "WebP"),
        ("a.png", b"", "PNG"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "JPEG"),
        ("a.ico", encoded(Image.new("RGB", (16, 16)), "ICO"), "WebP"),
        ("a.png", encoded(noise(99, 99))[:-4000], "Fetch it again"),
        ("a.jpg", encoded(noise(99, 99), "JPEG")[:4000], "Fetch it again"),
        ("a.webp", encoded(noise(99, 99), "WEBP")[:400], "a.webp"),
        ("a.gif", encoded(noise(99, 99), "GIF")[:2000], "Fetch it again"),
        ("a.bmp", encoded(noise(99, 99), "BMP")[:2000], "Fetch it again"),
        ("a.tiff", encoded(noise(99, 99), "TIFF")[:9], "a.tiff"),
    ],
)
def test_bad_files_give_one_sentence_with_the_name(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / name)
    assert caught.value.message.startswith(str(tmp_path / name))
    assert caught.value.message.count(". ") == 0
    assert words in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageError, match=r"no\.png does not exist\."):
        load_image(tmp_path / "no.png")
    with pytest.raises(ImageError, match="is a directory"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be opened"):
        load_image("a\0.png")


def seeds() -> Iterable[bytes]:
    rgba = noise(19, 14, 4)
    rgb = rgba.convert("RGB")
    exif = Image.Exif()
    exif[Base.Orientation], exif[IFD.Exif] = 6, {Base.UserComment: b"UNICODE\0\0x"}
    profile, tags = swapped_profile(), exif.tobytes()
    yield encoded(rgb, "JPEG", exif=tags, icc_profile=profile)
    yield encoded(rgb.convert("CMYK"), "JPEG", progressive=True)
    yield encoded(rgba, "PNG", exif=tags, icc_profile=profile)
    yield encoded(rgb.quantize(9), "PNG", transparency=1)
    yield encoded(rgba, "WEBP", exif=tags)
    yield encoded(rgb, "TIFF", exif=tags)
    yield encoded(rgb.convert("F"), "TIFF")
    yield encoded(rgb, "BMP")
    yield encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])


def test_mutations_give_a_picture_or_an_image_error():
    draw, fine = random.Random(0), 0
    for data in seeds():
        for _ in range(50):
            broken = bytearray(data)
            for _ in range(draw.choice((1, 2, 8))):
                broken[draw.randrange(min(len(broken), draw.choice((64, 10**6))))] = draw.choice(
                    (0, 255, draw.randrange(256))
                )
            for read in (load_image, read_settings):
                try:
                    value = read(bytes(broken))
                    if isinstance(value, Picture):
                        fine += 1
                        assert value.rgb.mode == "RGB"
                        assert value.alpha is None or value.alpha.size == value.rgb.size
                except ImageError:
                    pass
    assert fine > 50


def cut_short(data: bytes) -> Iterable[bytes]:
    return (data[:end] for end in range(0, len(data), 64))


def repeated(data: bytes) -> Iterable[bytes]:
    """Parts of 16 bytes left out, doubled, and changed to zeros."""
    for start in range(0, len(data), 128):
        before, part, after = data[:start], data[start : start + 16], data[start + 16 :]
        yield from (before + after, before + part + part + after, before + bytes(len(part)) + after)


def sizes_in_the_header(data: bytes) -> Iterable[bytes]:
    """The picture's width and height, wherever they stand as two bytes, made 0, one more, and huge."""
    for order in ("big", "little"):
        for side in (19, 14):
            if (place := data.find(side.to_bytes(2, order))) < 0:
                continue
            for other in (0, side + 1, 65535):
                yield data[:place] + other.to_bytes(2, order) + data[place + 2 :]


@pytest.mark.parametrize("nasty", [cut_short, repeated, sizes_in_the_header])
def test_nasty_files_give_a_picture_or_one_sentence(nasty):
    said: list[str] = []
    for data in seeds():
        for broken in nasty(data):
            try:
                assert load_image(broken).rgb.mode == "RGB"
            except ImageError as error:
                said.append(error.message)
    assert len(said) > 20
    assert not [message for message in said if not message.startswith("stdin ") or ". " in message]


def test_png_chunks_that_lie():
    """Lengths and checksums that are not those of the chunk, and chunks that must not be there."""
    data = encoded(noise(19, 14))
    place = data.index(b"IDAT")
    for broken in (
        data[: place - 4] + b"\x7f\xff\xff\xff" + data[place:],
        data[: place - 4] + b"\0\0\0\0" + data[place:],
        data[: place + 8] + bytes(4) + data[place + 12 :],
        data[: place - 4] + 2 * data[8:33] + data[place - 4 :],  # three headers
        data[: place - 4] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))) + data[place - 4 :],
        data[: place - 4] + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**7))) + data[place - 4 :],
    ):
        with contextlib.suppress(ImageError):
            assert load_image(broken).rgb.size == (19, 14)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# ------------------------------------------------------------------------------------------------- writing


def test_alpha_and_hidden_colour_come_back(tmp_path):
    picture = opened(noise(31, 17, 4))
    for suffix in ("png", "webp", "tiff"):
        save_image(tmp_path / f"out.{suffix}", picture.rgb, picture=picture)
        again = load_image(tmp_path / f"out.{suffix}")
        assert same(again.alpha, picture.alpha)
        assert same(again.rgb, picture.rgb)
    for suffix in ("jpg", "bmp"):
        with pytest.raises(SettingError, match="transparency"):
            save_image(tmp_path / f"out.{suffix}", picture.rgb, picture=picture)
        with pytest.raises(SettingError, match="transparency"):
            check_target(tmp_path / f"out.{suffix}", overwrite=False, picture=picture)
        with pytest.raises(SettingError, match="transparency"):
            save_image(tmp_path / f"out.{suffix}", cutout(picture, Image.new("L", (31, 17), 9)))
    opaque = opened(picture.rgb.convert("RGBA"))
    save_image(tmp_path / "opaque.jpg", opaque.rgb, picture=opaque)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "opaque.jpg",
        "out.png",
        "out.tiff",
        "out.webp",
    ]


@pytest.mark.parametrize("suffix", ["png", "PNG", "webp", "tiff", "tif", "bmp"])
def test_lossless_formats_are_lossless(tmp_path, suffix):
    image = noise(33, 21)
    save_image(tmp_path / f"out.{suffix}", image)
    assert same(load_image(tmp_path / f"out.{suffix}").rgb, image)


def test_jpeg_is_of_high_quality(tmp_path):
    save_image(tmp_path / "out.jpg", noise(64, 64))
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.layer[0][1:3] == image.layer[1][1:3]  # 4:4:4
        assert max(image.quantization[0]) <= 12


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("parameters", ["", PARAMETERS])
def test_settings_come_back(tmp_path, suffix, parameters):
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make], exif[Base.XResolution] = 6, "Maker", 300.0
    picture = opened(noise(20, 10), "JPEG", exif=exif.tobytes())
    path = tmp_path / f"out.{suffix}"
    save_image(path, picture.rgb, picture=picture, settings=SETTINGS, parameters=parameters)
    assert read_settings(path) == SETTINGS
    assert read_settings(path.read_bytes()) == SETTINGS
    again = load_image(path)
    assert again.rgb.size == (10, 20)
    kept = Image.Exif()
    kept.load(again.exif or b"")
    assert kept[Base.Make] == "Maker"
    assert b"diffedit" not in (again.exif or b"")  # what this run stored does not pass into the next one
    with Image.open(path) as image:
        if suffix == "png":
            assert image.info.get("parameters", "") == parameters
            assert json.loads(image.info["diffedit"]) == SETTINGS
        else:
            comment = image.getexif().get_ifd(IFD.Exif)[Base.UserComment]
            text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
            assert text.startswith(parameters)
            assert all(part.count(":") == 1 for part in text.splitlines()[-1].split(","))


def test_no_settings_no_trace(tmp_path):
    assert read_settings(encoded(noise(4, 4))) is None
    assert read_settings(encoded(noise(4, 4), "JPEG")) is None
    for suffix in WRITE_FORMATS:
        save_image(tmp_path / f"out{suffix}", noise(9, 9))
        data = (tmp_path / f"out{suffix}").read_bytes()
        assert b"diffedit" not in data
        assert b"d\0i\0f\0f" not in data
        assert read_settings(data) is None
    for junk in ("[1]", "{", "null", "[" * 100_000):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("diffedit", junk)
        assert read_settings(encoded(noise(4, 4), pnginfo=chunks)) is None
    with pytest.raises(ImageError):
        read_settings(b"no picture")


def test_long_settings_and_long_exif(tmp_path):
    exif = Image.Exif()
    exif[IFD.Exif] = {Base.MakerNote: bytes(60_000)}
    picture = opened(noise(9, 9), "JPEG", exif=exif.tobytes())
    save_image(tmp_path / "a.jpg", picture.rgb, picture=picture, settings={"query": "x" * 9000})
    assert read_settings(tmp_path / "a.jpg") == {"query": "x" * 9000}
    with pytest.raises(ImageError, match="cannot be stored as JPEG"):
        save_image(tmp_path / "b.jpg", picture.rgb, settings={"query": "x" * 90_000})
    save_image(tmp_path / "b.png", picture.rgb, settings={"query": "x" * 90_000})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.png"]


def test_to_a_stream_as_png():
    stream = io.BytesIO()
    save_image(stream, noise(9, 9), settings=SETTINGS)
    assert same(load_image(stream.getvalue()).rgb, noise(9, 9))
    assert read_settings(stream.getvalue()) == SETTINGS


def test_targets_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "sub.png").mkdir()
    os.symlink("nowhere", tmp_path / "link.png")
    for name, words in (
        ("a.gif", r"Use one of \.png, \.jpg"),
        ("a", "Use one of"),
        ("no/a.png", r"folder of .*a\.png does not exist"),
        ("old.png/a.png", r"folder of .*a\.png does not exist"),
        ("old.png", "already exists"),
        ("link.png", "already exists"),
        ("sub.png", "is a folder"),
    ):
        for attempt in (
            check_target,
            lambda path, overwrite: save_image(path, noise(4, 4), overwrite=overwrite),
        ):
            with pytest.raises(DiffeditError, match=words):
                attempt(tmp_path / name, overwrite=False)
    assert (tmp_path / "old.png").read_bytes() == b"old"
    save_image(tmp_path / "old.png", noise(4, 4), overwrite=True)
    assert load_image(tmp_path / "old.png").rgb.size == (4, 4)
    for name, size in (("a.webp", (17_000, 1)), ("a.jpg", (1, 70_000))):
        with pytest.raises(SettingError, match="pixels a side"):
            save_image(tmp_path / name, Image.new("RGB", size))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the super-user may write anywhere
    with pytest.raises(ImageError, match="read-only"):
        check_target(tmp_path / "b.png", overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", ["save", "fsync", "replace", "link"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device"), SystemExit])
def test_nothing_is_left_after_a_fault(tmp_path, monkeypatch, overwrite, where, fault):
    target = tmp_path / "out.png"
    if overwrite:
        target.write_bytes(b"old")

    def fail(*arguments: Any, **_: Any) -> None:
        if where == "save":
            Path(arguments[1]).write_bytes(b"half")
        raise fault

    monkeypatch.setattr(Image.Image if where == "save" else os, where, fail)
    expected = fault if isinstance(fault, type) else ImageError
    if where not in (("link",) if overwrite else ("replace",)) and not (
        where == "link" and expected is ImageError
    ):
        with pytest.raises(expected):
            save_image(target, noise(9, 9), overwrite=overwrite)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"] * overwrite
    else:  # this call is not used; or the file system has no links, and then a name is reserved
        save_image(target, noise(9, 9), overwrite=overwrite)
        assert same(load_image(target).rgb, noise(9, 9))
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", list(WRITE_FORMATS))
def test_a_full_disk_is_one_sentence(tmp_path, suffix):
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with pytest.raises(ImageError, match=f"out{suffix} cannot be written"):
            save_image(tmp_path / f"out{suffix}", noise(700, 700))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_writers_at_once(tmp_path, overwrite):
    pictures = [noise(200, 200, seed=seed) for seed in range(4)]
    start, outcomes = threading.Barrier(4), []

    def write(image: Image.Image) -> None:
        start.wait()
        try:
            save_image(tmp_path / "out.png", image, overwrite=overwrite)
            outcomes.append("written")
        except ImageError as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=write, args=[image]) for image in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("written") == (4 if overwrite else 1)
    assert sum("out.png already exists." in outcome for outcome in outcomes) == (0 if overwrite else 3)
    assert any(same(load_image(tmp_path / "out.png").rgb, image) for image in pictures)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_input_is_never_opened_for_writing(tmp_path):
    path = tmp_path / "in.png"
    save_image(path, noise(9, 9))
    before = path.read_bytes(), path.stat().st_mtime_ns
    picture = load_image(path)
    save_image(tmp_path / "out.png", picture.rgb, picture=picture)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert path.stat().st_mode == (tmp_path / "out.png").stat().st_mode  # no private temp-file mode


# --------------------------------------------------------------------------- what a file says of its picture

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    b' tiff:Orientation="1"><dc:rights>(c) someone</dc:rights></rdf:Description></rdf:RDF></x:xmpmeta>'
)
IPTC = b"\x1c\x02\x74\0\x0b(c) someone"


def with_chunks(*chunks: tuple[bytes, bytes], image: Image.Image | None = None) -> bytes:
    """A PNG with further chunks behind its header."""
    data = encoded(image or noise(19, 14))
    return data[:33] + b"".join(chunk(kind, body) for kind, body in chunks) + data[33:]


def rich_jpeg() -> bytes:
    """A JPEG of 300 dpi with EXIF, XMP, IPTC and a comment."""
    exif = Image.Exif()
    exif[Base.Copyright] = "(c) someone"
    block = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    body = b"Photoshop 3.0\0" + block
    extra = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    options = dict(dpi=(300, 300), exif=exif.tobytes(), xmp=XMP, comment=b"by hand", extra=extra)
    return encoded(noise(19, 14), "JPEG", quality=95, **options)


@pytest.mark.parametrize("suffix", list(WRITE_FORMATS))
def test_what_a_file_says_is_kept_or_its_loss_told(tmp_path, suffix):
    picture = load_image(rich_jpeg())
    assert picture.notices == ()
    target = tmp_path / f"out{suffix}"
    save_image(target, picture.rgb, picture=picture, settings=SETTINGS)
    again = load_image(target)
    lost = " ".join(losses(target, picture))
    assert np.allclose(again.extras.dpi, (300, 300), atol=0.01)
    assert (again.extras.xmp == XMP) != ("XMP" in lost)
    assert (again.extras.iptc == IPTC) != ("IPTC" in lost)
    assert (again.extras.texts == (("Comment", "by hand"),)) != ("text Comment" in lost)
    assert (b"(c) someone" in (again.exif or b"")) != ("EXIF" in lost)
    assert is_lossless(target) == (suffix not in (".jpg", ".jpeg"))
    assert read_settings(target) == (None if suffix == ".bmp" else SETTINGS)


def test_texts_of_a_png_are_kept_and_those_of_other_tools_told(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    for key in ("Copyright", "Author", "workflow", "date:create", "parameters"):
        chunks.add_text(key, f"my {key}")
    picture = opened(noise(9, 9), pnginfo=chunks)
    assert picture.notices == ("stdin holds texts that the result does not keep: workflow.",)
    save_image(tmp_path / "a.png", picture.rgb, picture=picture, parameters="ours")
    again = load_image(tmp_path / "a.png")
    assert again.extras.texts == (("Author", "my Author"), ("Copyright", "my Copyright"))
    assert again.notices == ()


@pytest.mark.parametrize("unit", ["inch", "cm"])
def test_the_resolution_turns_with_the_picture(unit):
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.ResolutionUnit] = 6, 2 if unit == "inch" else 3
    exif[Base.XResolution], exif[Base.YResolution] = (200.0, 100.0) if unit == "inch" else (80.0, 40.0)
    for kind in ("WEBP", "TIFF"):
        picture = opened(noise(9, 5), kind, exif=exif.tobytes())
        assert picture.rgb.size == (5, 9)
        assert picture.extras.dpi == pytest.approx((100, 200) if unit == "inch" else (101.6, 203.2))
    assert opened(noise(9, 5), "TIFF").extras.dpi is None  # Pillow says 1


def test_xmp_is_turned_and_a_gain_map_is_told():
    for turned in (
        b'tiff:Orientation="6"',
        b"tiff:Orientation='6'",
        b"<tiff:Orientation>6</tiff:Orientation>",
    ):
        kept = opened(noise(9, 5), "JPEG", xmp=b"<a " + turned + b"/>").extras.xmp
        assert kept is not None
        assert b"6" not in kept
    gain = (
        b'<d xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" dc:rights="mine">'
        b"<Container:Directory><rdf:Seq>x</rdf:Seq></Container:Directory></d>"
    )
    picture = opened(noise(9, 5), "JPEG", xmp=gain)
    assert ["HDR gain map" in notice for notice in picture.notices] == [True]
    assert picture.extras.xmp is not None
    assert b"mine" in picture.extras.xmp
    assert b"hdrgm:V" not in picture.extras.xmp
    assert b"Directory" not in picture.extras.xmp
    newer = b"\xff\xe2" + struct.pack(">H", 34) + b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)
    assert "HDR gain map" in opened(noise(9, 5), "JPEG", extra=newer).notices[0]
    credentials = with_chunks((b"caBX", b"jumb"))
    assert "content credentials" in load_image(credentials).notices[0]


P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
USUAL = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "given", "expected"),
    [
        ([(b"gAMA", struct.pack(">I", 100_000))], (128, 128, 128), (188, 188, 188)),  # half the light
        ([(b"cHRM", P3)], (234, 51, 35), (255, 0, 0)),  # sRGB's red in P3
        ([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3)], (255, 255, 255), (255, 255, 255)),
        ([(b"cICP", bytes([12, 13, 0, 1]))], (234, 51, 35), (255, 0, 0)),
        ([(b"cICP", bytes([1, 8, 0, 1])), (b"gAMA", struct.pack(">I", 45455))], (128,) * 3, (188,) * 3),
    ],
)
def test_colours_given_in_numbers_become_a_profile(tmp_path, chunks, given, expected):
    picture = load_image(with_chunks(*chunks, image=Image.new("RGB", (4, 4), given)))
    assert picture.rgb.getpixel((0, 0)) == given
    assert "describes its colours without a profile" in picture.notices[0]
    assert np.abs(np.subtract(to_srgb(picture.rgb, picture.icc).getpixel((0, 0)), expected)).max() <= 1
    for suffix in (".png", ".jpg", ".webp", ".tiff"):
        save_image(tmp_path / f"a{suffix}", picture.rgb, picture=picture)
        assert load_image(tmp_path / f"a{suffix}").icc == picture.icc
    save_image(tmp_path / "a.bmp", picture.rgb, picture=picture)
    assert np.abs(np.subtract(load_image(tmp_path / "a.bmp").rgb.getpixel((0, 0)), expected)).max() <= 1
    assert "converted to sRGB" in losses(tmp_path / "a.bmp", picture)[0]


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", USUAL)],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],  # sRGB goes before it
        [(b"gAMA", struct.pack(">I", 0))],
        [(b"cHRM", bytes(32))],
        [(b"cHRM", USUAL[:8] * 4)],  # one colour
        [(b"cICP", bytes([1, 13, 0, 1]))],
    ],
)
def test_the_usual_colours_and_nonsense_make_no_profile(tmp_path, chunks):
    picture = load_image(with_chunks(*chunks))
    assert (picture.icc, picture.notices) == (None, ())
    save_image(tmp_path / "a.png", picture.rgb, picture=picture)
    assert ((b"sRGB", b"\0") in load_image(tmp_path / "a.png").extras.chunks) == (chunks[0][0] == b"sRGB")


def test_hdr_values_are_told_and_stay_hdr_in_a_png(tmp_path):
    picture = load_image(with_chunks((b"cICP", bytes([9, 16, 0, 1]))))
    assert "HDR (PQ)" in picture.notices[0]
    save_image(tmp_path / "a.png", picture.rgb, picture=picture)
    assert load_image(tmp_path / "a.png").extras.chunks == ((b"cICP", bytes([9, 16, 0, 1])),)


def long_profile(length: int = 1_100_000) -> bytes:
    """The swapped profile with one more tag, of this length."""
    icc = swapped_profile()
    (count,) = struct.unpack(">I", icc[128:132])
    body = icc[132 + 12 * count :]
    table = b"".join(
        struct.pack(">4sII", name, start + 12, size)
        for name, start, size in struct.iter_unpack(">4sII", icc[132 : 132 + 12 * count])
    )
    table += struct.pack(">4sII", b"zzzz", 132 + 12 * (count + 1) + len(body), length)
    data = icc[4:128] + struct.pack(">I", count + 1) + table + body + b"text" + bytes(length - 4)
    return struct.pack(">I", len(data) + 4) + data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_long_profile_is_applied(tmp_path, kind):
    options: dict[str, Any] = {"WEBP": {"lossless": True}}.get(kind, {})
    picture = opened(Image.new("RGB", (8, 8), RED), kind, icc_profile=long_profile(), **options)
    assert picture.icc is None
    assert "converted to sRGB" in picture.notices[0]
    assert np.abs(np.subtract(picture.rgb.getpixel((4, 4)), GREEN)).max() <= 3
    save_image(tmp_path / "a.png", picture.rgb, picture=picture, settings=SETTINGS)
    assert read_settings(tmp_path / "a.png") == SETTINGS
    assert same(load_image(tmp_path / "a.png").rgb, picture.rgb)


def test_long_texts_are_left_out_wherever_they_are():
    long = b"abcdefghij" * 110_000
    packed = zlib.compress(long)
    texts = [
        (b"zTXt", b"workflow\0\0" + packed),
        (b"iTXt", b"workflow\0\1\0\0\0" + packed),
        (b"iTXt", b"workflow\0\0\0\0\0" + long),
        (b"tEXt", b"workflow\0" + long),
    ]
    for text in texts:
        data = with_chunks(text)
        behind = encoded(noise(19, 14))[:-12] + chunk(*text) + chunk(b"IEND", b"")
        for one in (data, behind):
            picture = load_image(one)
            assert same(picture.rgb, noise(19, 14))
            assert picture.notices == ("stdin has a text of more than 1 MB, which was left out.",)
            assert read_settings(one) is None
    bomb = [(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 200  # 200 MB, each within its bound
    assert same(load_image(with_chunks(*bomb)).rgb, noise(19, 14))
    huge = with_chunks((b"iCCP", b"a\0\0" + zlib.compress(bytes(10**7))))
    assert load_image(huge).notices == ("stdin has a colour profile of more than 1 MB, which was left out.",)


def test_a_comment_does_not_hide_the_settings(tmp_path):
    picture = opened(noise(9, 9), "JPEG", comment=b"Created with GIMP")
    save_image(tmp_path / "a.jpg", picture.rgb, picture=picture, settings=SETTINGS)
    assert read_settings(tmp_path / "a.jpg") == SETTINGS
    assert load_image(tmp_path / "a.jpg").extras.texts == (("Comment", "Created with GIMP"),)


def test_a_webp_of_few_bytes_is_refused_before_it_is_decoded():
    bomb = bytes.fromhex("524946461a000000574542505650384c0d0000002f") + struct.pack("<I", 11999 | 8998 << 14)
    for data in (bomb + bytes(9), b"RIFF\x16\0\0\0WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xdf\x2e\0" * 2):
        start = time.process_time()
        with pytest.raises(ImageError, match="50 million"):
            load_image(data)
        assert time.process_time() - start < 0.5


def test_long_exif_of_a_tiff_is_left_out(tmp_path):
    """A million fractions, which Pillow would make Python's numbers of."""
    data = bytearray(encoded(noise(8, 8), "TIFF"))
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    entries = [bytes(data[place + 2 + 12 * i : place + 14 + 12 * i]) for i in range(count)]
    new, number = len(data), 1_000_000
    exif = new + 2 + 12 * (count + 1) + 4
    entries.append(struct.pack("<HHII", 34665, 4, 1, exif))
    data += struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)
    data += struct.pack("<HHHIII", 1, 33434, 5, number, exif + 18, 0) + struct.pack("<II", 1, 3) * number
    data[4:8] = struct.pack("<I", new)
    start = time.process_time()
    picture = load_image(bytes(data))
    assert read_settings(bytes(data)) is None
    assert time.process_time() - start < 1
    assert same(picture.rgb, noise(8, 8))
    assert picture.notices == ("stdin has a block of EXIF of more than 1 MB, which was left out.",)


# ------------------------------------------------------------------------------------------- further formats


def test_avif_and_jpeg_2000_are_read(tmp_path):
    smooth = noise(4, 4).resize((64, 48), Image.Resampling.BICUBIC)
    for kind, options in (("AVIF", {"quality": 95}), ("JPEG2000", {})):
        picture = opened(smooth, kind, **options)
        assert picture.rgb.size == (64, 48)
        assert np.abs(np.asarray(picture.rgb, int) - np.asarray(smooth, int)).mean() < 2
        picture = opened(noise(31, 17, 4), kind, **options)
        assert picture.alpha is not None
    assert opened(smooth, "AVIF", icc_profile=swapped_profile()).icc == swapped_profile()
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    assert opened(smooth, "AVIF", exif=exif.tobytes()).rgb.size == (48, 64)
    data = encoded(smooth, "JPEG2000")
    icc, at = swapped_profile(), data.index(b"colr")
    box = struct.pack(">I4s3B", 11 + len(icc), b"colr", 2, 0, 0) + icc
    grown = data[: at - 4] + box + data[at + 11 :]
    header = grown.index(b"jp2h")
    (length,) = struct.unpack_from(">I", grown, header - 4)
    grown = grown[: header - 4] + struct.pack(">I", length + len(box) - 15) + grown[header:]
    assert load_image(grown).icc == icc
    data = encoded(smooth, "AVIF").replace(b"nclx\0\1\0\r", b"nclx\0\x0c\0\r")  # Display P3
    assert "describes its colours without a profile" in load_image(data).notices[0]


def heic(image: Image.Image, **options: Any) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch):
    smooth = noise(4, 4).resize((64, 48), Image.Resampling.BICUBIC)
    picture = load_image(heic(smooth, quality=95))
    assert picture.rgb.size == (64, 48)
    assert np.abs(np.asarray(picture.rgb, int) - np.asarray(smooth, int)).mean() < 4
    assert "HEIF" not in Image.OPEN  # the caller's Pillow stays as it was
    with pytest.raises(ImageError):
        load_image(heic(smooth)[:200])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"is HEIC.*pip install 'diffedit-cli\[heic\]'"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


# -------------------------------------------------------------------------------------- pictures from Python


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
        ("CMYK", "JPEG"),
        ("I;16", "TIFF"),
        ("1", "PNG"),
        ("RGB", "TIFF"),
    ],
)
def test_a_pil_image_is_read_as_its_file_is(mode, kind):
    image = noise(21, 13, 4)
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    image = deep if mode == "I;16" else image.convert("RGB").convert(mode) if mode != "RGBA" else image
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make] = 6, "Maker"
    data = encoded(image, kind, **({} if kind == "GIF" else {"exif": exif.tobytes()}))
    expected, given = load_image(data), Image.open(io.BytesIO(data))
    picture = load_image(given)
    assert same(picture.rgb, expected.rgb)
    assert picture.alpha is expected.alpha is None or same(picture.alpha, expected.alpha)
    assert picture.exif == expected.exif
    assert picture.name == "image"
    assert same(given, Image.open(io.BytesIO(data)))  # still open, and as it was
    assert load_image(given).sha256 == picture.sha256


def test_arrays_are_pictures():
    for bands in (1, 3, 4):
        image = noise(9, 5, bands)
        picture = load_image(np.asarray(image))
        assert picture.rgb.size == (9, 5)
        assert same(picture.rgb, image.convert("RGB"))
        assert (picture.alpha is not None) == (bands == 4)
    for wrong in (
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ):
        with pytest.raises(ImageError, match="not a picture"):
            load_image(wrong)
    data = encoded(noise(9, 5))
    for same_bytes in (bytearray(data), memoryview(data), io.BytesIO(data)):
        assert same(load_image(same_bytes).rgb, noise(9, 5))
    for wrong in (None, 5, io.StringIO("x"), [1]):
        with pytest.raises(ImageError, match="is not a picture"):
            load_image(wrong)
    with pytest.raises(ImageError, match="108 million"):
        load_image(Image.new("1", (10_400, 10_400)))


def test_threads_leave_the_warning_filters_alone():
    data, before = encoded(noise(9, 9), "JPEG"), list(warnings.filters)
    jobs = [threading.Thread(target=lambda: [load_image(data) for _ in range(50)]) for _ in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert list(warnings.filters) == before


# --------------------------------------------------------------------------------- every file, read back


def inputs() -> Iterable[tuple[str, bytes]]:
    """Files whose way of encoding Pillow would go on with."""
    rgb, rgba = noise(33, 21), noise(33, 21, 4)
    for compression in ("jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"TIFF {compression}", encoded(rgb, "TIFF", compression=compression)
    yield "group 4", encoded(rgb.convert("1"), "TIFF", compression="group4")
    yield "JPEG", encoded(rgb, "JPEG", comment=b"mine", progressive=True)
    yield "CMYK", encoded(rgb.convert("CMYK"), "JPEG")
    yield "GIF", encoded(rgb.quantize(9), "GIF", transparency=1, comment=b"mine")
    yield "keyed PNG", encoded(rgb, "PNG", transparency=(1, 2, 3), gamma=1)
    yield "RGBA", encoded(rgba)
    yield "APNG", encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)], loop=3)
    yield "WEBP", encoded(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)])
    yield "16 bits", encoded(Image.fromarray(np.arange(693, dtype=np.uint16).reshape(21, 33) * 90), "TIFF")


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITE_FORMATS if is_lossless(f"a{suffix}")])
@pytest.mark.parametrize("name", [name for name, _ in inputs()])
def test_a_lossless_file_holds_what_was_written(tmp_path, suffix, name):
    picture, target = load_image(dict(inputs())[name]), tmp_path / f"out{suffix}"
    if suffix == ".bmp" and picture.alpha is not None:
        return
    save_image(target, picture.rgb, picture=picture, settings=SETTINGS)
    again = load_image(target)
    assert same(again.rgb, picture.rgb)
    alphas = (one.alpha or Image.new("L", one.rgb.size, 255) for one in (again, picture))
    assert same(*alphas)  # a WebP leaves out one that is opaque throughout


def test_nothing_of_an_images_info_reaches_the_file(tmp_path):
    data = encoded(noise(33, 21), "TIFF", compression="jpeg", description="secret")
    for suffix in WRITE_FORMATS:
        image = Image.open(io.BytesIO(data))
        image.info |= {
            "comment": b"secret",
            "transparency": (1, 2, 3),
            "icc_profile": b"secret",
            "gamma": 1.0,
        }
        save_image(tmp_path / f"a{suffix}", image)
        again = load_image(tmp_path / f"a{suffix}")
        assert b"secret" not in (tmp_path / f"a{suffix}").read_bytes()
        assert again.alpha is None
        assert again.icc is None
        if is_lossless(f"a{suffix}"):
            assert same(again.rgb, load_image(data).rgb)
        assert image.info["comment"] == b"secret"  # the caller's image is as it was


# ------------------------------------------------------------------------------------ names, modes and links


def test_overwriting_keeps_the_mode_and_follows_links(tmp_path):
    real, folder = tmp_path / "real.png", tmp_path / "elsewhere"
    folder.mkdir()
    save_image(real, noise(9, 9))
    real.chmod(0o600)
    save_image(real, noise(9, 9, seed=1), overwrite=True)
    assert real.stat().st_mode & 0o777 == 0o600
    link = folder / "link.png"
    link.symlink_to(real)
    save_image(link, noise(9, 9, seed=2), overwrite=True)
    assert link.is_symlink()
    assert same(load_image(real).rgb, noise(9, 9, seed=2))
    assert real.stat().st_mode & 0o777 == 0o600
    broken = folder / "broken.png"
    broken.symlink_to(folder / "gone" / "a.png")
    with pytest.raises(ImageError, match="does not exist"):
        check_target(broken, overwrite=True)
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        save_image(folder / "pipe.png", noise(9, 9), overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["broken.png", "link.png", "pipe.png"]


def test_what_a_killed_run_left_is_swept_and_a_living_ones_is_not(tmp_path):
    old = time.time() - 3600
    dead, young = tmp_path / ".diffedit-0123.part", tmp_path / ".diffedit-4567.part"
    for part in (dead, young):
        part.write_bytes(b"half")
    os.utime(dead, (old, old))
    with writing.atomic_path(tmp_path / "film.png", overwrite=False) as alive:
        os.utime(alive, (old, old))
        writing.sweep.cache_clear()
        save_image(tmp_path / "a.png", noise(9, 9))
        assert not dead.exists()
        assert young.exists()
        assert alive.exists()
        alive.write_bytes(b"whole")
    assert (tmp_path / "film.png").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".diffedit-4567.part", "a.png", "film.png"]


KILLED = """
import os, signal, sys
from pathlib import Path
from diffedit_cli.images.write import atomic_path
with atomic_path(Path(sys.argv[1]), overwrite=False) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_9_the_next_run_sweeps(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.png")], check=False)
    (left,) = tmp_path.iterdir()
    os.utime(left, (time.time() - 3600,) * 2)
    writing.sweep.cache_clear()
    save_image(tmp_path / "a.png", noise(9, 9))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path):
    for long in ("a" * 252 + ".png", "🐎" * 80 + ".png"):
        with pytest.raises(ImageError, match="too long"):
            check_target(tmp_path / long, overwrite=False)


# ---------------------------------------------------------------------------------------- masks people bring


def disc(size: tuple[int, int] = (64, 64), value: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((18, 18, 46, 46), fill=value)
    return mask


def red_brush() -> Image.Image:
    red = Image.new("RGB", (64, 64))
    red.paste((255, 0, 0), mask=disc())
    return red


def voc() -> Image.Image:
    palette = Image.new("P", (64, 64))
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.paste(1, mask=disc())
    return palette


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (disc(), ""),
        (disc().convert("1"), ""),
        (np.asarray(disc()) > 0, ""),
        (np.asarray(disc()) / 255, ""),
        (np.asarray(disc())[..., None] > 0, ""),
        (np.asarray(disc()).astype(np.int64), ""),
        (np.asarray(disc().convert("RGB")), ""),
        (disc(value=1), ""),
        (disc(value=17), "levels 0 and 17 only"),
        (np.asarray(disc(value=17)).astype(np.int32), "levels 0 and 17 only"),
        (Image.fromarray(np.asarray(disc(value=17)).astype(np.uint16)), "levels 0 and 17 only"),
        (ImageChops.lighter(disc(value=200), Image.new("L", (64, 64), 90)), "levels 90 and 200 only"),
        (ImageChops.add(disc(value=3), disc(value=2).crop((0, 0, 64, 30)).resize((64, 64))), "labels"),
        (red_brush(), ""),
        (voc(), ""),
        (disc().convert("RGB").convert("CMYK"), ""),
    ],
)
def test_a_mask_is_what_its_maker_meant(given, words):
    """Labels, palettes, brushes, arrays: all are the same disc."""
    picture = opened(noise(64, 64))
    masks = Masks.of(given, picture)
    assert masks.use is not None
    inside = np.asarray(masks.use)[np.asarray(disc()) > 0]
    assert inside.min() == 255
    if "labels" not in words:
        assert same(masks.use, disc())
    assert [words in notice for notice in masks.notices] == [True] * bool(words)
    assert Masks.of(masks, picture) == masks  # as it is


def test_a_hole_in_the_picture_is_edited(tmp_path):
    """What ComfyUI, A1111 and InvokeAI save: the picture, transparent where it is to be edited."""
    smooth = noise(5, 5).resize((64, 64), Image.Resampling.BICUBIC)
    picture = opened(smooth)
    hole = smooth.convert("RGBA")
    hole.putalpha(ImageChops.invert(disc()))
    for size in ((64, 64), (128, 128)):
        notices: list[str] = []
        large = hole.resize(size, Image.Resampling.NEAREST)
        mask = load_mask(encoded(large), (64, 64), picture, notices)
        assert np.abs(np.asarray(mask, int) - np.asarray(disc())).mean() < 3
        assert "the hole is edited" in notices[0]
    assert same(load_mask(encoded(hole), (64, 64)), ImageChops.invert(disc()))  # without the picture
    notices = []
    cut = cutout(picture, disc())  # as `diffedit mask --cutout` writes it: the part itself
    assert same(load_mask(encoded(cut), (64, 64), picture, notices), disc())
    assert "that part is edited" in notices[0]
    other = noise(64, 64, 3, seed=9).convert("RGBA")
    other.putalpha(disc())
    notices = []
    assert same(load_mask(encoded(other), (64, 64), picture, notices), disc())
    assert notices == []


def test_dust_is_dropped_and_soft_edges_stay():
    dusty = Image.new("L", (896, 896))
    dusty.paste(255, (400, 400, 480, 480))
    clean = dusty.copy()
    dusty.putpixel((5, 5), 3)
    dusty.putpixel((890, 5), 1)
    assert same(load_mask(dusty, dusty.size), clean)
    noisy = ImageChops.lighter(clean, noise(896, 896, 1).point([level & 1 for level in range(256)]))
    cleaned = load_mask(noisy, noisy.size)
    assert cleaned.getbbox() is not None
    left, top, right, bottom = cleaned.getbbox()
    assert min(left, top, 896 - right, 896 - bottom) > 360
    soft = clean.filter(ImageFilter.GaussianBlur(9))
    assert 0 < min(level for level in soft.tobytes() if level) < 8
    assert same(load_mask(soft, soft.size), soft)  # bit for bit, and so are the hashes of older results


def test_a_dim_mask_gets_a_notice_and_floats_are_taken_as_they_are():
    ramp = Image.fromarray(np.linspace(0, 100, 64 * 64).astype(np.uint8).reshape(64, 64))
    notices: list[str] = []
    assert same(load_mask(ramp, (64, 64), None, notices), ramp)
    assert "brightest level is 100" in notices[0]
    half = Masks.of((np.asarray(disc()) > 0) * 0.5, opened(noise(64, 64)))
    assert half.use is not None
    assert half.use.getextrema() == (0, 128)
    assert half.notices == ()


def test_a_soft_brush_in_colour_is_soft_and_a_photo_is_no_mask():
    soft = disc().filter(ImageFilter.GaussianBlur(4))
    green = Image.merge("RGB", (Image.new("L", (64, 64)), soft, Image.new("L", (64, 64))))
    for data in (encoded(green), encoded(green, "JPEG", quality=90)):
        read, top = np.asarray(load_mask(data, (64, 64)), float), soft.getextrema()[1]
        assert np.abs(read - np.asarray(soft, float) * 255 / top).mean() < 6
    with pytest.raises(ImageError, match="picture in colours, not a mask"):
        load_mask(encoded(noise(6, 6).resize((64, 64), Image.Resampling.BICUBIC)), (64, 64))
    classes = red_brush()
    classes.paste((0, 128, 0), (2, 2, 8, 8))
    notices: list[str] = []
    mask = load_mask(classes, (64, 64), None, notices)
    assert mask.getpixel((4, 4)) == mask.getpixel((32, 32)) == 255
    assert mask.getpixel((60, 60)) == 0
    assert "3 colours" in notices[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.full((64, 64), 2.0), "out of range"),
        (np.full((64, 64), np.nan), "out of range"),
        (np.full((64, 64), 300), "out of range"),
        (np.full((64, 64), -1), "out of range"),
        (np.zeros((64, 64, 3)), "the shape"),
        (np.zeros((32, 64), bool), "not the shape of the picture"),
        (Image.new("1", (20, 64)), "not the shape of the picture"),
        ("no.png", "does not exist"),
    ],
)
def test_a_mask_that_cannot_be_is_refused_at_the_border(given, words):
    with pytest.raises(ImageError, match=words):
        Masks.of(given, opened(noise(64, 64)))


def test_the_benchmark_reads_back_every_format(tmp_path):
    found = read_back(tmp_path)
    assert set(found) == {*WRITE_FORMATS}
    assert all(good == count > 8 for good, count in found.values())
