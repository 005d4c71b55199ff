"""images/files.py, metadata.py, colour.py: hand cases, then bad input, then faults while writing."""

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
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD, Base

from diffedit_cli.errors import DiffeditError, ImageError, SettingError
from diffedit_cli.images import pixels
from diffedit_cli.images.masks import load_mask
from diffedit_cli.images.read import Picture, load_image, read_settings
from diffedit_cli.images.sheets import cutout
from diffedit_cli.images.write import WRITE_FORMATS, check_target, save_image

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
    assert caught.value.message.startswith(name)
    assert caught.value.message.count(". ") == 0
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageError, match=r"^no\.png does not exist\."):
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
        ("a.gif", r"Known are: \.png, \.jpg"),
        ("a", "Known are"),
        ("no/a.png", "folder of a.png does not exist"),
        ("old.png/a.png", "folder of a.png does not exist"),
        ("old.png", "exists already"),
        ("link.png", "exists already"),
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
    assert outcomes.count("out.png exists already.") == (0 if overwrite else 3)
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
