"""Bad, odd and big pictures: what each gives, how long it takes, and how much memory.

    pip download --no-deps --no-binary pillow pillow==13.0.0
    python -m benchmarks.robustness pillow-13.0.0.tar.gz

Every picture of Pillow's own test corpus, seeded mutations of small valid files, eight orientations in four
formats, every small file written in every format and read back, and pictures of the most pixels that are
read. Each must give a picture, or an error that is an ImageError of one sentence. Each file of the corpus and
each big picture is read in a process of its own, whose peak memory the system reports. Appends a line to
results.jsonl, and writes the tables of docs/robustness.md.
"""

import json
import os
import random
import re
import signal
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from PIL.ExifTags import Base

from benchmarks.report import markdown, record, write_block
from diffedit_cli.errors import ImageError
from diffedit_cli.images.read import MAX_PIXELS, load_image
from diffedit_cli.images.write import WRITE_FORMATS, is_lossless, save_image

PAGE = Path(__file__).parent.parent / "docs" / "robustness.md"
MOST_SECONDS = 30  # after that a process counts as hung
MUTATIONS_A_PROCESS = 1000


@dataclass(frozen=True)
class Reading:
    """What reading one file gave: `picture`, `refused`, or what it should not be; seconds; peak bytes."""

    name: str
    outcome: str
    message: str
    seconds: float
    bytes: int


def read(source: Path | bytes) -> tuple[str, str]:
    """The outcome and, of an error, its message."""
    try:
        picture = load_image(source)
    except ImageError as error:
        return ("refused" if error.message.count(". ") == 0 else "several sentences"), str(error)
    except BaseException as error:
        return f"raised {type(error).__name__}", str(error)
    return ("picture" if picture.rgb.mode == "RGB" else "wrong mode"), ""


def in_a_process(name: str, work: Callable[[], tuple[str, str]]) -> Reading:
    """Do the work in a child of its own and report what the system says of it."""
    inlet, outlet = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(inlet)
        signal.alarm(MOST_SECONDS)
        with os.fdopen(outlet, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    outcome, message = json.loads(text) if status == 0 else (f"killed by signal {status & 127}", "")
    return Reading(name, outcome, message, time.perf_counter() - start, usage.ru_maxrss * 1024)


def corpus(archive: Path, folder: Path) -> Iterator[Reading]:
    """Each file under Tests/images of Pillow's source archive."""
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.isfile() and "/Tests/images/" in m.name]
        tar.extractall(folder, members, filter="data")
    for member in members:
        path = folder / member.name
        yield in_a_process(member.name.split("/Tests/images/")[1], lambda path=path: read(path))


def small_files(folder: Path) -> list[Path]:
    """A small valid file of each format and of several modes."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (14, 19, 4), np.uint8))
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    modes = {"a.jpg": "RGB", "cmyk.jpg": "CMYK", "a.png": "RGBA", "p.png": "P", "a.webp": "RGBA"}
    modes |= {"a.tiff": "RGB", "f.tiff": "F", "lab.tiff": "LAB", "a.bmp": "RGB", "a.gif": "P"}
    modes |= {"a.avif": "RGBA", "a.jp2": "RGB"}
    for name, mode in modes.items():
        shown = image.convert("RGB").convert(mode) if mode != "RGBA" else image
        shown.save(
            folder / name, **({} if name.endswith((".bmp", ".gif", ".jp2")) else {"exif": exif.tobytes()})
        )
    return [folder / name for name in modes]


def mutate(data: bytes, dice: random.Random) -> bytes:
    """A file with one, two or eight bytes changed, often near its beginning, or cut short."""
    broken = bytearray(data)
    for _ in range(dice.choice((1, 2, 8))):
        place = dice.randrange(min(len(broken), dice.choice((64, 10**6))))
        broken[place] = dice.choice((0, 255, dice.randrange(256)))
    return bytes(broken[: dice.randrange(1, len(broken))] if dice.random() < 0.1 else broken)


def mutations(folder: Path, count: int) -> Iterator[Reading]:
    """`count` mutations, some in each process; the slowest of a process stands for it."""
    seeds = [path.read_bytes() for path in small_files(folder)]
    for first in range(0, count, MUTATIONS_A_PROCESS):

        def work(first: int = first) -> tuple[str, str]:
            outcomes: Counter[str] = Counter()
            for number in range(first, min(first + MUTATIONS_A_PROCESS, count)):
                signal.alarm(MOST_SECONDS)
                outcomes[read(mutate(seeds[number % len(seeds)], random.Random(number)))[0]] += 1
            return "counted", json.dumps(outcomes)

        yield in_a_process(f"mutations from {first}", work)


def read_back(folder: Path) -> dict[str, list[int]]:
    """Of each format that is written: how many of the small files came back as they were, and of how many.

    Of a lossless one every pixel must be the same, of JPEG nearly. JPEG and BMP hold no transparency.
    """
    found: dict[str, list[int]] = {}
    pictures = [load_image(path) for path in [*small_files(folder), *compressed_tiffs(folder)]]
    for suffix in WRITE_FORMATS:
        target = folder / f"back{suffix}"
        shown = [one for one in pictures if one.alpha is None or suffix not in (".jpg", ".jpeg", ".bmp")]
        good = 0
        for picture in shown:
            save_image(target, picture.rgb, picture=picture, overwrite=True)
            again = load_image(target)
            most = 0 if is_lossless(target) else 6
            good += again.icc == picture.icc and mean_difference(again.rgb, picture.rgb) <= most
        found[suffix] = [good, len(shown)]
    return found


def compressed_tiffs(folder: Path) -> list[Path]:
    """TIFFs whose compression must not pass into what is written."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (14, 19, 3), np.uint8))
    paths = [folder / f"{name}.tiff" for name in ("jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits")]
    for path in paths:
        image.save(path, compression=path.stem)
    return paths


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, int) - np.asarray(other)).mean())


def orientations(folder: Path) -> int:
    """How many of eight orientations in four formats come upright."""
    upright = Image.new("RGB", (64, 32))
    upright.paste((255, 255, 255), (0, 0, 32, 16))
    turns = [None, *(getattr(Image.Transpose, name) for name in TURNS)]
    good = 0
    for suffix in ("jpg", "png", "webp", "tiff"):
        for orientation, turn in enumerate(turns, 1):
            exif = Image.Exif()
            exif[Base.Orientation] = orientation
            path = folder / f"turned-{orientation}.{suffix}"
            (upright if turn is None else upright.transpose(turn)).save(path, exif=exif.tobytes())
            shown = load_image(path).rgb
            good += shown.size == upright.size and mean_difference(shown, upright) < 8
    return good


# How a picture has to be stored so that orientation 2, 3, ... shows it upright: the inverse of each turn.
TURNS = [
    "FLIP_LEFT_RIGHT",
    "ROTATE_180",
    "FLIP_TOP_BOTTOM",
    "TRANSPOSE",
    "ROTATE_90",
    "TRANSVERSE",
    "ROTATE_270",
]


def big_pictures(folder: Path) -> Iterator[Reading]:
    """Pictures of 12,000 x 9,000, the most that is read, lying on their side, in every format and mode."""
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    for name, mode in (
        ("rgb.jpg", "RGB"),
        ("cmyk.jpg", "CMYK"),
        ("rgb.png", "RGB"),
        ("rgba.png", "RGBA"),
        ("16 bit.png", "I;16"),
        ("rgb.tiff", "RGB"),
        ("rgba.tiff", "RGBA"),
        ("grey and alpha.tiff", "LA"),
        ("float.tiff", "F"),
        ("palette.gif", "P"),
        ("rgb.bmp", "RGB"),
    ):
        path = folder / name
        work = lambda path=path, mode=mode: save_big(path, mode, exif.tobytes())  # noqa: E731
        in_a_process(name, work)  # in a process of its own too: this one has to stay small
        yield in_a_process(name, lambda path=path: read(path))
        path.unlink()


def save_big(path: Path, mode: str, exif: bytes) -> tuple[str, str]:
    options = {} if path.suffix in (".bmp", ".gif") else {"exif": exif}
    image = Image.new(mode, (12_000, MAX_PIXELS // 12_000))
    image.save(path, **options, **({"compress_level": 1} if path.suffix == ".png" else {}))
    return "written", ""


def summary(readings: list[Reading]) -> dict[str, Any]:
    """Outcomes, and the slowest and the largest by name."""
    slow, large = max(readings, key=lambda r: r.seconds), max(readings, key=lambda r: r.bytes)
    return {
        "files": len(readings),
        "outcomes": dict(Counter(reading.outcome for reading in readings)),
        "slowest": [slow.name, round(slow.seconds, 2)],
        "largest": [large.name, round(large.bytes / 1e9, 3)],
    }


def one_of_each(readings: list[Reading]) -> list[Reading]:
    """The dearest of those that give the same, with how many more there are in its name."""
    groups: dict[str, list[Reading]] = {}
    for reading in sorted(readings, key=lambda r: (r.outcome, -r.seconds, r.name)):
        told = re.sub(rf"\S*{re.escape(Path(reading.name).name)}", "It", reading.message)
        groups.setdefault(told or reading.name, []).append(replace(reading, message=told))
    return [
        replace(first, name=first.name + (f" and {len(rest)} more" if rest else ""))
        for first, *rest in groups.values()
    ]


def by_name(readings: list[Reading]) -> list[tuple[str, str, float, float]]:
    """Of each its name, what it gives, seconds, and 10^9 bytes."""
    return [(r.name, r.message or r.outcome, round(r.seconds, 2), round(r.bytes / 1e9, 3)) for r in readings]


def listed(rows: list[tuple[str, str, float, float]]) -> str:
    cells = [(f"`{name}`", told, f"{s:.2f}", f"{1000 * gb:.0f}") for name, told, s, gb in rows]
    return markdown(["file", "gives", "seconds", "MB at the peak"], cells)


def write_page(line: dict[str, Any]) -> None:
    """The tables of docs/robustness.md."""
    found = {
        "Pillow's own test pictures": line["pillow_corpus"],
        "of these, named crash, oob, bomb or truncated": line["named_crash_oob_bomb_truncated"],
        "mutations, 20,000 of each of twelve small valid files": line["mutations"],
    }
    rows: list[list[str]] = []
    for name, one in found.items():
        read, refused = (one["outcomes"].get(outcome, 0) for outcome in ("picture", "refused"))
        counts = one["files"], read, refused, one["files"] - read - refused
        rows.append([name, *(f"{count:,}" for count in counts)])
    upright = line["orientations_upright"]
    turned = ["eight orientations as JPEG, PNG, WebP and TIFF", "32", f"{upright} upright", "0"]
    rows.append([*turned, str(32 - upright)])
    for suffix, (good, count) in line["read_back"].items():
        written = [f"small files, written as {suffix} and read back", str(count), f"{good} the same", "0"]
        rows.append([*written, str(count - good)])
    write_block(PAGE, "outcomes", markdown(["", "files", "read", "refused", "anything else"], rows))
    seconds, size = (line["mutations"][worst][1] for worst in ("slowest", "largest"))
    told = "A process that reads a thousand mutations one after another takes at most"
    write_block(PAGE, "worst", f"{listed(line['dearest'])}\n\n{told} {seconds:.1f} s\nand {size:.2f} GB.")
    write_block(PAGE, "named", listed(line["named"]))
    big = sorted(line["big"].items(), key=lambda item: -item[1][1])
    tall = [
        [Path(name).stem, Path(name).suffix[1:].upper(), f"{s:.1f}", f"{gb:.2f}"] for name, (_, s, gb) in big
    ]
    write_block(PAGE, "big", markdown(["picture", "format", "seconds", "GB at the peak"], tall))


def main(archive: Annotated[Path, typer.Argument()], count: int = 50_000) -> None:
    """Read everything; print the worst; record the figures (seconds, and 10^9 bytes)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line: dict[str, Any] = {"corpus": archive.name}
        line["orientations_upright"] = orientations(folder)
        line["read_back"] = read_back(folder)
        readings = list(corpus(archive, folder))
        line["pillow_corpus"] = summary(readings)
        bad = [r for r in readings if any(w in r.name.lower() for w in ("crash", "oob", "bomb", "trunc"))]
        line["named_crash_oob_bomb_truncated"] = summary(bad)
        line["dearest"] = by_name(sorted(readings, key=lambda r: -max(r.seconds / 5, r.bytes / 1e9))[:12])
        line["named"] = by_name(one_of_each(bad))
        big = list(big_pictures(folder))
        line["big"] = {r.name: [r.outcome, round(r.seconds, 2), round(r.bytes / 1e9, 3)] for r in big}
        parts = list(mutations(folder, count))
        outcomes: Counter[str] = Counter()
        for part in parts:
            outcomes.update(json.loads(part.message) if part.outcome == "counted" else {part.outcome: 1})
        line["mutations"] = {**summary(parts), "files": count, "outcomes": dict(outcomes)}
    print(json.dumps(line, indent=1))
    record("robustness", **line)
    write_page(line)


if __name__ == "__main__":
    typer.run(main)
