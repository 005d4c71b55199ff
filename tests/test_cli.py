"""The command line, with a tiny checkpoint in this process and, where that tells more, as a process."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import av
import numpy as np
import pytest
import torch
import typer
from commands import good
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pictures import alike
from PIL import Image, ImageCms
from safetensors.torch import save_file
from typer.testing import CliRunner

from diffedit_cli import __version__
from diffedit_cli.api import edit_image
from diffedit_cli.cli.app import app
from diffedit_cli.cli.mask import UNUSED
from diffedit_cli.cli.options import with_flags
from diffedit_cli.images.masks import load_mask
from diffedit_cli.images.read import load_image, read_settings
from diffedit_cli.images.video import read_film_settings
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import (
    FAST,
    EditConfig,
    FilmConfig,
    GenerateConfig,
    InterpolateConfig,
    MaskConfig,
    ModelConfig,
    TalkConfig,
    build,
    filled_in,
    flatten,
    keys,
    option_name,
)

REPO = Path(__file__).parent.parent
SCRIPT = Path(sys.executable).parent / "diffedit"
PLAIN = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WORDS = ["--ref", "horse", "--query", "zebra"]
QUICK = ["--mask-samples", "2", "--seed", "3"]

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """diffedit in an empty folder; `model=False` leaves the tiny checkpoint out."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: Any, model: bool = True, stdin: bytes | None = None) -> Any:
        where = ["--model", checkpoint, "--device", "cpu"] if model else []
        result = CliRunner().invoke(app, [str(a) for a in [*arguments, *where]], input=stdin, env=PLAIN)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def edit(run: Run, photo: Path) -> Run:
    """A quick edit of the photo: edit("-o", "out.png", ...)."""
    return lambda *arguments, **options: run(
        "edit", photo, *WORDS, *QUICK, "--steps", "4", *arguments, **options
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A PNG of odd sides with alpha and a colour profile."""
    save(tmp_path / "photo.png", icc_profile=SRGB)
    return tmp_path / "photo.png"


def pixels(width: int = 45, height: int = 37) -> np.ndarray:
    """RGBA: soft blobs, half of them see-through."""
    small = Image.fromarray(np.random.default_rng(3).integers(0, 256, (6, 7, 4), np.uint8), "RGBA")
    values = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    values[: height // 2, :, 3] = 255
    return values


def save(path: Path, mode: str = "RGBA", **options: Any) -> None:
    Image.fromarray(pixels()).convert(mode).save(path, **options)


def save_mask(path: Path, size: tuple[int, int] = (45, 37), white: bool = False) -> Path:
    """The left third white, or all of it."""
    image = Image.new("L", size, 255 if white else 0)
    image.paste(255, (0, 0, size[0] // 3, size[1]))
    image.save(path)
    return path


def array(path: Path | str, mode: str = "RGB") -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert(mode))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def answer(result: Any) -> dict[str, Any]:
    """The JSON on stdout: one line of it and nothing else."""
    assert result.stdout.count("\n") == 1, result.output
    return json.loads(result.stdout)


def check_refusal(result: Any, code: int, *words: str) -> None:
    """One sentence, what to do about it, no traceback, nothing on stdout."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert lines[0].count(". ") >= 1
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert result.stdout == ""


@pytest.fixture
def at_forward() -> Iterator[Callable[[int | None], list[int]]]:
    """Counts the samples of every UNet forward, whoever calls it; at the given forward comes Ctrl-C."""
    handles: list[Any] = []

    def watch(interrupt_at: int | None = None) -> list[int]:
        rows: list[int] = []

        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, UNet2DConditionModel):
                rows.append(len(inputs[0]))
                if len(rows) == interrupt_at:
                    raise KeyboardInterrupt

        handles.append(torch.nn.modules.module.register_module_forward_hook(hook))
        return rows

    yield watch
    for handle in handles:
        handle.remove()


# ------------------------------------------------------------------------------------------------ flags


def another(key: str, kind: Any, metadata: dict[str, Any], default: Any) -> Any:
    """A value that is allowed and is not the default."""
    if key == "guidance_interval":
        return "0.2:0.8"
    if bool in (kind, *get_args(kind)):
        return not default
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != default)
    if get_origin(kind) is tuple:
        of = get_args(kind)[0]
        return (0.25, 0.75) if of is float else (of(3), of(4))
    low = metadata["low"]
    if low is None:
        return "some words"
    return (
        min(int(low) + 33, int(metadata["high"]))
        if int in (kind, *get_args(kind))
        else low + (metadata["high"] - low) / 64
    )


SCHEMAS = (EditConfig, FilmConfig, GenerateConfig, InterpolateConfig, ModelConfig, TalkConfig)
FLAGS = [(schema, *item) for schema in SCHEMAS for item in keys(schema) if item[0] != "prompts"]


@pytest.mark.parametrize(
    ("schema", "key", "kind", "metadata", "default"), FLAGS, ids=[f"{f[0].__name__}-{f[1]}" for f in FLAGS]
)
def test_each_flag_sets_its_setting_and_no_other(
    schema: type, key: str, kind: Any, metadata: dict[str, Any], default: Any
) -> None:
    heard: list[Any] = []

    @with_flags(without=("prompts",), config=schema)
    def probe(*, config: Callable[..., Any]) -> None:
        extra = {"prompts": ["a", "b"]} if schema is InterpolateConfig else {}
        heard.append(config(extra))

    command = typer.Typer()
    command.command()(probe)
    value = another(key, kind, metadata, default)
    for flag in (option_name(key), *metadata["flags"]):
        values = value if isinstance(value, tuple) else (value,)
        parts = [part for one in values for part in (flag, str(one))]
        if isinstance(value, bool):
            parts = [flag if value else f"--no-{flag[2:]}"]
        good(CliRunner().invoke(command, parts, env=PLAIN))
    base = {"prompts": ("a", "b")} if schema is InterpolateConfig else {}
    assert set(map(str, heard)) == {str(build(schema, base, {key: value}))}
    assert flatten(heard[0])[key] != flatten(build(schema, base))[key]


@pytest.mark.parametrize(
    ("command", "schemas", "without"),
    [
        ("edit", (EditConfig, FilmConfig, ModelConfig, TalkConfig), ("next_queries",)),
        ("mask", (EditConfig, ModelConfig, TalkConfig), UNUSED),
        ("generate", (GenerateConfig, ModelConfig, TalkConfig), ("prompt",)),
        ("interpolate", (InterpolateConfig, ModelConfig, TalkConfig), ("prompts",)),
        ("compare", (EditConfig, ModelConfig, TalkConfig), ("next_queries",)),
    ],
)
def test_help_shows_every_flag(
    run: Run, command: str, schemas: tuple[type, ...], without: tuple[str, ...]
) -> None:
    words = set(good(run(command, "--help-all", model=False)).stdout.replace(",", " ").split())
    for key, _, metadata, _ in chain.from_iterable(map(keys, schemas)):
        flags = {option_name(key), *metadata["flags"]}
        assert flags <= words if key not in without else not flags & words, key


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["models", "--help"], []])
def test_help_names_every_command(run: Run, words: list[str]) -> None:
    shown = run(*words, model=False).output.split()
    commands = {
        "edit",
        "mask",
        "compare",
        "generate",
        "interpolate",
        "doctor",
        "models",
        "config",
        "info",
        "rerun",
    }
    assert ({"list"} if "models" in words else commands) <= set(shown)


def test_version(run: Run) -> None:
    assert good(run("--version", model=False)).stdout == f"diffedit {__version__}\n"


@pytest.mark.parametrize("code", ["from diffedit_cli.cli.app import app", "import diffedit_cli"])
def test_the_start_is_light(code: str) -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'av', 'rich.progress'}"
    call = "app(['edit', '--help'], standalone_mode=False)" if "app" in code else "dir(diffedit_cli)"
    script = f"import sys\n{code}\n{call}\nprint('found', sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("found []\n")


# ----------------------------------------------------------------------------------------------- an edit


@pytest.mark.parametrize("kind", ["photo.png", "photo.jpg", "photo.tiff"])
def test_outside_the_mask_nothing_changes(run: Run, tmp_path: Path, kind: str) -> None:
    if kind.endswith(".jpg"):  # it lies on its side
        exif = Image.Exif()
        exif[0x0112] = 6
        save(tmp_path / kind, "RGB", exif=exif, icc_profile=SRGB)
        upright = np.rot90(array(tmp_path / kind), -1)
    else:
        save(tmp_path / kind, icc_profile=SRGB)
        upright = pixels()[..., :3]
    original = files(tmp_path)
    flags = [*QUICK, "--steps", "4", "-o", "out.png", "--save-mask", "m.png", "--json"]
    facts = answer(good(run("edit", kind, *WORDS, *flags)))
    mask = array("m.png", "L")
    after = array("out.png")
    assert after.shape == upright.shape
    assert mask.shape == upright.shape[:2]
    assert (mask == 0).any()
    assert (after[mask == 0] == upright[mask == 0]).all()
    assert (after[mask == 255] != upright[mask == 255]).any()
    assert facts["changed_outside"] == 0
    assert facts["coverage"] == pytest.approx((mask > 0).mean())
    with Image.open("out.png") as image:
        assert image.info["icc_profile"] == SRGB
        assert image.mode == ("RGB" if kind.endswith(".jpg") else "RGBA")
        if image.mode == "RGBA":
            assert (np.asarray(image)[..., 3] == pixels()[..., 3]).all()
    assert files(tmp_path).items() >= original.items()  # the input is as it was


def test_the_stored_settings_make_the_same_picture(edit: Run, model: DiffusersDenoiser, photo: Path) -> None:
    flags = "--mask-threshold 0.4 --mask-strength 0.3 --mask-strength 0.6 --no-mask-fill-holes --size 40"
    more = "--inversion noise --negative-prompt dull --strength 0.7 --guidance-norm diff --guidance-scale 0.3"
    good(edit("-o", "out.png", *flags.split(), *more.split()))
    stored = read_settings("out.png")
    assert stored is not None
    known = [key for key, *_ in keys(EditConfig)]
    assert set(known) <= set(stored)
    config = build(EditConfig, {key: stored[key] for key in known})
    wanted = {"ref": "horse", "query": "zebra", "steps": 4, "seed": 3, "mask_samples": 2, "size": 40}
    wanted |= {"mask_threshold": 0.4, "mask_strength": [0.3, 0.6], "guidance_norm": "diff"}
    wanted |= {"inversion": "noise", "negative_prompt": "dull", "strength": 0.7, "guidance_scale": 0.3}
    wanted |= {"solver": "ddim", "timestep_spacing": "scheduler", "guidance_method": "cfg"}
    assert config == build(EditConfig, {**wanted, "mask_fill_holes": False, "zoom": False})
    assert (stored["diffedit"], stored["command"], stored["input"]) == (__version__, "edit", "photo.png")
    again = edit_image(model, load_image(photo), config)
    assert (np.asarray(again.image) == array("out.png")).all()


@pytest.mark.parametrize("command", ["edit", "mask", "generate"])
def test_without_metadata_no_trace(run: Run, photo: Path, command: str) -> None:
    words = ["a horse", "--steps", "1"] if command == "generate" else [photo, *WORDS, "--mask-samples", "1"]
    good(run(command, *words, "-o", "out.png", "--no-metadata"))
    assert read_settings("out.png") is None
    with Image.open("out.png") as image:
        assert not {"parameters", "diffedit"} & set(image.info)


def test_the_same_seed_gives_the_same_file(run: Run, photo: Path) -> None:
    for name, seed in (("a.png", "8"), ("b.png", "8"), ("c.png", "9")):
        words = ["edit", photo, *WORDS, "--mask-samples", "2", "--steps", "4", "--seed", seed]
        good(run(*words, "-o", name, "--inversion", "noise"))
    a, b, c = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b
    assert (array("a.png") != array("c.png")).any()
    assert a != c


@pytest.mark.parametrize("command", ["edit", "mask", "generate"])
def test_a_seed_that_was_chosen_is_told_and_repeats(run: Run, photo: Path, command: str) -> None:
    words = ["a horse"] if command == "generate" else [photo, *WORDS, "--mask-samples", "1"]
    words += ["--steps", "2"] if command != "mask" else []
    first, second = (good(run(command, *words, "-o", name)) for name in ("a.png", "b.png"))
    seed = str(read_settings("a.png")["seed"])  # type: ignore[index]
    assert f"(seed {seed})" in first.stderr
    assert f"(seed {seed})" not in second.stderr
    good(run(command, *words, "-o", "c.png", "--seed", seed))
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes()


def test_a_picture_says_where_it_is_and_what_changed(edit: Run) -> None:
    done = good(edit("-o", "out.png"))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Wrote out.png (seed 3). The mask covers ")
    assert "of the picture; outside it 0 pixels changed." in last
    assert done.stdout == ""


def test_verbose_says_what_it_cost(edit: Run, at_forward: Callable[..., list[int]]) -> None:
    rows = at_forward()
    said = good(edit("-o", "out.png", "-v")).stderr
    assert f"{sum(rows)} forward passes" in said
    assert "in the networks" in said


# ------------------------------------------------------------------------------------- several at once


def test_several_pictures_and_queries(run: Run, tmp_path: Path, at_forward: Any) -> None:
    """One load and one encoding a picture; names that do not collide; one JSON line a result."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "photo.png")
    rows = at_forward()
    flags = ["--query", "donkey", *QUICK, "--steps", "4", "-o", "out", "--save-mask", "masks", "--json"]
    done = good(run("edit", "a/photo.png", "b/photo.png", *WORDS, *flags))
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    names = ["photo-zebra.png", "photo-donkey.png", "photo-zebra-2.png", "photo-donkey-2.png"]
    assert [fact["output"] for fact in facts] == [str(Path("out") / name) for name in names]
    assert [fact["settings"]["query"] for fact in facts] == ["zebra", "donkey"] * 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(names)
    assert {p.name for p in (tmp_path / "masks").iterdir()} == set(names)
    assert sum(rows) == 2 * (2 * 6 + 3 + 2 * 6)
    assert {fact["made_together"] for fact in facts} == {2}
    planned = run("edit", "a/photo.png", "b/photo.png", *WORDS, *flags, "--dry-run", "--overwrite")
    told = answer(good(planned))
    assert told["outputs"] == [fact["output"] for fact in facts]
    assert sum(told["forwards"].values()) == sum(rows)


def test_one_bad_file_does_not_end_a_batch(run: Run, tmp_path: Path) -> None:
    save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/good-fox.png").write_bytes(b"mine")
    flags = ["--query", "fox", *QUICK, "--steps", "2", "-o", "out", "--json"]
    done = run("edit", "bad.png", "good.png", "none.png", *WORDS, *flags)
    assert done.exit_code == 3
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [fact["input"] for fact in facts if "error" in fact]
    assert failed == ["bad.png", "good.png", "none.png"]
    assert [fact["output"] for fact in facts if "output" in fact] == [str(Path("out/good-zebra.png"))]
    assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) == 3
    assert "Traceback" not in done.stderr
    assert "5 of 6 results failed" in done.stderr
    assert (tmp_path / "out/good-fox.png").read_bytes() == b"mine"
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert "the others were written" in done.stderr
    done = run("edit", "bad.png", "none.png", *WORDS, *QUICK, "--steps", "2", "-o", "out")
    assert done.exit_code == 3
    assert "2 of 2 results failed." in done.stderr


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["-o", "-"], "stdout"),
        (["-o", "out.png"], "out.png"),
        (["-o", "out", "--grid", "out"], "folder"),
        (["--mask", "photo.png"], "one picture"),
    ],
)
def test_several_results_need_several_places(run: Run, photo: Path, flags: list[str], word: str) -> None:
    before = files(photo.parent)
    check_refusal(run("edit", photo, "other.png", *WORDS, *flags, "--model", "no/such", model=False), 2, word)
    assert files(photo.parent) == before


def test_fast_goes_before_the_defaults_and_the_environment_and_after_flags(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forwards(*flags: str) -> dict[str, int]:
        return answer(good(run("edit", photo, *WORDS, *flags, "--dry-run", "--json")))["forwards"]

    steps = round(0.8 * FAST["steps"])
    guided = steps // 2  # --guidance-interval 0:0.5
    quick = {"mask": 3 * FAST["mask_samples"], "invert": steps, "decode": steps + guided}
    assert sum(quick.values()) < sum(forwards().values()) / 2
    monkeypatch.setenv("DIFFEDIT_STEPS", "50")
    assert forwards("--fast") == quick
    assert forwards()["invert"] == 40
    assert forwards("--fast", "--steps", "30")["invert"] == 24
    assert forwards("--fast", "--steps", "30")["mask"] == quick["mask"]
    assert forwards("--no-mask-evidence")["mask"] == forwards()["mask"] / 3 * 2


PAPER = (
    "--steps 50 --strength 0.8 --guidance-scale 7.5 --mask-samples 10 --mask-strength 0.5 "
    "--mask-threshold 0.5 --no-mask-evidence --mask-refine 0 --no-mask-fill-holes --room 0 "
    "--no-keep-detail --no-zoom"
)


def test_paper_stands_for_the_published_settings(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["edit", photo, *WORDS, "--seed", "3"]
    good(run(*words, *PAPER.split(), "-o", "flags.png"))
    monkeypatch.setenv("DIFFEDIT_GUIDANCE_NORM", "pred")
    monkeypatch.setenv("DIFFEDIT_SOLVER", "dpm++")
    good(run(*words, "--paper", "-o", "paper.png"))
    assert photo.with_name("paper.png").read_bytes() == photo.with_name("flags.png").read_bytes()
    facts = answer(good(run(*words, "--paper", "--room", "0.2", "--dry-run", "--json")))
    assert facts["forwards"] == {"mask": 20, "invert": 40, "decode": 80}


def test_paper_in_mask_and_compare(run: Run, photo: Path) -> None:
    found = answer(good(run("mask", photo, *WORDS, "--seed", "3", "--paper", "-o", "mask.png", "--json")))
    assert {"mask_samples": 10, "mask_refine": 0.0, "zoom": False}.items() <= found["settings"].items()
    tiles = ["--strength", "0.2,0.4", "--steps", "5", "--seed", "3"]
    facts = answer(good(run("compare", photo, *WORDS, *tiles, "--paper", "-o", "grid.png", "--json")))
    assert {"strength": 0.2, "steps": 5, "mask_strength": [0.5], "room": 0.0}.items() <= facts[
        "settings"
    ].items()
    check_refusal(run("compare", "--prompt", "a,b", "--paper"), 2, "--paper needs a picture")


@pytest.mark.parametrize("command", ["edit", "mask"])
def test_paper_and_fast_exclude_each_other(run: Run, photo: Path, command: str) -> None:
    for flags in (["--paper", "--fast"], ["--fast", "--paper"]):
        check_refusal(run(command, photo, *WORDS, *flags), 2, "--paper", "--fast")
    good(run(command, photo, *WORDS, *QUICK, "--fast", "--no-paper", "--no-zoom"))


# -------------------------------------------------------------------------------- where results come and go


def test_names_are_made_from_the_input_and_the_words(edit: Run, run: Run, tmp_path: Path) -> None:
    good(edit())
    (tmp_path / "folder").mkdir()
    words = ["--ref", "horse", "--query", "A big, red zebra!"]
    good(run("edit", "photo.png", *words, *QUICK, "--steps", "2", "-o", "folder"))
    assert set(files(tmp_path)) == {"photo.png", "photo-zebra.png", "folder/photo-a-big-red-zebra.png"}


def test_stdin_and_stdout(edit: Run, run: Run, photo: Path, tmp_path: Path) -> None:
    good(edit("-o", "out.png"))
    data = photo.read_bytes()
    done = good(run("edit", "-", *WORDS, *QUICK, "--steps", "4", "-o", "-", stdin=data))
    with Image.open(io.BytesIO(done.stdout_bytes)) as image:
        assert image.format == "PNG"
        assert (np.array(image.convert("RGB")) == array("out.png")).all()
    assert "stdout" in done.stderr
    good(run("edit", "-", *WORDS, *QUICK, "--steps", "4", stdin=data))
    assert set(files(tmp_path)) == {"photo.png", "out.png", "zebra.png"}


@pytest.mark.parametrize(
    "flags",
    [["-o", "old.png"], ["--grid", "old.png"], ["--save-mask", "old.png"], ["-o", "photo.png"]],
    ids=" ".join,
)
def test_what_exists_is_refused_unless_overwrite_is_said(edit: Run, tmp_path: Path, flags: list[str]) -> None:
    save(tmp_path / "old.png")
    before = files(tmp_path)
    check_refusal(edit(*flags, "--model", "no/such", model=False), 1, flags[-1], "--overwrite")
    assert files(tmp_path) == before
    good(edit(*flags, "--overwrite"))
    changed = {name for name, content in before.items() if files(tmp_path)[name] != content}
    assert changed == {flags[-1]}


def test_two_results_cannot_have_one_name(edit: Run, tmp_path: Path) -> None:
    check_refusal(edit("-o", "out.png", "--grid", tmp_path / "out.png"), 2, "out.png")
    assert set(files(tmp_path)) == {"photo.png"}


@pytest.mark.parametrize("flags", [["-o", "out.jpg"], ["-o", "out.bmp"]], ids=" ".join)
def test_a_format_that_would_lose_alpha_is_refused_before_the_work(
    edit: Run, tmp_path: Path, flags: list[str]
) -> None:
    check_refusal(edit(*flags, "--model", "no/such", model=False), 2, "transparency", ".webp")
    assert set(files(tmp_path)) == {"photo.png"}


def test_a_cutout_needs_a_format_with_alpha(run: Run, photo: Path, tmp_path: Path) -> None:
    flags = ["--cutout", "out.jpg", "--model", "no/such"]
    check_refusal(run("mask", photo, *WORDS, *flags, model=False), 2, "transparency", ".webp")
    assert set(files(tmp_path)) == {"photo.png"}


@pytest.mark.parametrize("kind", ["jpg", "webp", "tiff", "bmp"])
def test_other_formats_by_suffix(run: Run, tmp_path: Path, kind: str) -> None:
    save(tmp_path / "photo.jpg", "RGB")
    good(run("edit", "photo.jpg", *WORDS, *QUICK, "--steps", "2", "-o", f"out.{kind}"))
    with Image.open(f"out.{kind}") as image:
        assert image.format == {"jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "bmp": "BMP"}[kind]
        assert image.size == (45, 37)


# ------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("size", [(45, 37), (90, 74), (15, 12), (450, 370)])
def test_a_mask_of_ones_own_replaces_the_search(edit: Run, tmp_path: Path, size: tuple[int, int]) -> None:
    own = save_mask(tmp_path / "own.png", size)
    facts = answer(good(edit("-o", "out.png", "--mask", own, "--save-mask", "m.png", "--json")))
    mask, after = array("m.png", "L"), array("out.png")
    assert (mask == np.asarray(load_mask(own, (45, 37)))).all()
    assert (mask[:, :14] > 128).all()
    assert (mask[:, 18:] == 0).all()
    assert (after[mask == 0] == pixels()[..., :3][mask == 0]).all()
    assert (after[mask > 0] != pixels()[..., :3][mask > 0]).any()
    assert facts["forwards"] <= 3 + 2 * 3  # inversion and decode alone


def test_a_mask_needs_no_ref_and_no_query(run: Run, photo: Path, tmp_path: Path) -> None:
    own = save_mask(tmp_path / "own.png")
    good(run("edit", photo, "--mask", own, "--steps", "2", "-o", "out.png"))
    assert (array("out.png")[:, 15:] == pixels()[:, 15:, :3]).all()


def test_a_mask_of_another_shape_is_refused(run: Run, photo: Path, tmp_path: Path) -> None:
    own = save_mask(tmp_path / "own.png", (45, 45))
    flags = ["-o", "out.png", "--mask", own, "--model", "no/such"]
    check_refusal(run("edit", photo, *WORDS, *flags, model=False), 1, "own.png")


def test_areas_are_added_and_kept_out(edit: Run, tmp_path: Path) -> None:
    area = save_mask(tmp_path / "area.png")
    good(edit("-o", "plain.png", "--save-mask", "m.png"))
    good(edit("-o", "more.png", "--save-mask", "m1.png", "--mask-add", area))
    good(edit("-o", "less.png", "--save-mask", "m2.png", "--mask-subtract", area))
    white = array(area, "L") == 255
    found, more, less = (array(name, "L") for name in ("m.png", "m1.png", "m2.png"))
    assert (more == np.where(white, 255, found)).all()
    assert (less == np.where(white, 0, found)).all()
    assert (found[white] > 0).any()
    assert (found[white] < 255).any()
    assert (array("less.png")[white] == pixels()[..., :3][white]).all()


def test_the_inverse_of_ones_own_mask(edit: Run, tmp_path: Path) -> None:
    own = save_mask(tmp_path / "own.png")
    good(edit("-o", "out.png", "--mask", own, "--invert-mask", "--save-mask", "m.png"))
    assert (array("m.png", "L") == 255 - array(own, "L")).all()
    assert (array("out.png")[:, :15] == pixels()[:, :15, :3]).all()


def test_a_found_mask_and_its_inverse_do_not_meet(run: Run, tmp_path: Path) -> None:
    Image.fromarray(pixels(32, 32)[..., :3]).save(tmp_path / "square.png")
    flags = [*WORDS, *QUICK, "--mask-feather", "0"]
    good(run("mask", "square.png", *flags, "-o", "a.png"))
    good(run("mask", "square.png", *flags, "-o", "b.png", "--invert-mask"))
    a, b = (array(name, "L") > 0 for name in ("a.png", "b.png"))
    assert a.any()
    assert b.any()
    assert not (a & b).any()
    assert (a | b).mean() > 0.8


def test_the_mask_command_finds_what_edit_finds(run: Run, edit: Run, photo: Path) -> None:
    good(edit("-o", "out.png", "--save-mask", "m.png", "--room", 0))
    done = good(run("mask", photo, *WORDS, *QUICK))
    assert "photo-mask.png" in done.stderr
    assert (array("photo-mask.png", "L") == array("m.png", "L")).all()
    stored = read_settings("photo-mask.png")
    assert stored is not None
    assert stored["command"] == "mask"


def test_pictures_of_the_mask(run: Run, photo: Path) -> None:
    extras = ["--heatmap", "heat.png", "--overlay", "over.png", "--cutout", "cut.webp"]
    good(run("mask", photo, *WORDS, *QUICK, "-o", "m.png", *extras))
    for name, mode in {"m.png": "L", "heat.png": "RGB", "over.png": "RGB", "cut.webp": "RGBA"}.items():
        with Image.open(name) as image:
            assert (image.size, image.mode) == ((45, 37), mode)
    mask, before, cut = array("m.png", "L"), pixels(), array("cut.webp", "RGBA")
    covered = np.round(mask / 255 * before[..., 3])
    assert np.abs(cut[..., 3] - covered).max() <= 1
    assert (cut[..., :3][cut[..., 3] > 0] == before[..., :3][cut[..., 3] > 0]).all()
    assert (cut[..., :3][cut[..., 3] == 0] == 0).all()
    over = array("over.png")
    assert (over[mask == 255] != before[..., :3][mask == 255]).any()
    assert (over[mask == 0] == before[..., :3][mask == 0]).any()
    heat = array("heat.png").astype(int).sum(2)
    assert heat[mask == 255].mean() > heat[mask == 0].mean()


def test_a_grid_shows_every_stage(edit: Run, tmp_path: Path) -> None:
    own = save_mask(tmp_path / "own.png")
    good(edit("-o", "out.png", "--grid", "grid.png"))
    good(edit("-o", "own-out.png", "--grid", "own-grid.png", "--mask", own))
    with Image.open("grid.png") as four, Image.open("own-grid.png") as three:
        assert four.mode == "RGB"
        assert four.height == three.height
        assert four.width - 4 * 384 == pytest.approx(three.width - 3 * 384, abs=30)  # no search, no heat


@pytest.mark.parametrize(("white", "words"), [(True, "beyond"), (False, "next to nothing")])
def test_a_mask_of_nearly_all_or_nothing_is_noted(
    run: Run, photo: Path, tmp_path: Path, white: bool, words: str
) -> None:
    """Without advice on the search, which there is none of."""
    quick = ["edit", photo, *WORDS, "--steps", "4"]
    Image.new("L", (45, 37), 255 * white).save(tmp_path / "own.png")
    facts = answer(done := good(run(*quick, "-o", "out.png", "--mask", "own.png", "--json")))
    assert "--mask-threshold" not in done.stderr
    assert words in done.stderr
    assert any(words in notice for notice in facts["notices"])
    assert (array("out.png") == pixels()[..., :3]).all() == (not white)
    third = save_mask(tmp_path / "third.png")
    assert "Note" not in good(run(*quick, "-o", "b.png", "--mask", third)).stderr


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--inversion", "magic"], "--inversion"),
        (["--guidance-method", "magic"], "--guidance-method"),
        (["--guidance-norm", "magic"], "--guidance-norm"),
        (["--steps", "many"], "--steps"),
        (["--seed", "1.5"], "--seed"),
        (["--nope"], "--nope"),
    ],
    ids=lambda part: "".join(part),
)
def test_flags_that_cannot_be_read_are_refused(edit: Run, flags: list[str], word: str) -> None:
    done = edit(*flags, "-o", "out.png", "--model", "no/such", model=False)
    assert done.exit_code == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "flags",
    [
        ["--steps", "0"],
        ["--strength", "0"],
        ["--mask-threshold", "1.5"],
        ["--mask-threshold", "nan"],
        ["--guidance-scale", "-1"],
        ["--guidance-interval", "0.8:0.2"],
        ["--seed", "-1"],
        ["--size", "8"],
        ["-o", "out.xyz"],
        ["--query", ""],
        ["--inversion", "negative-prompt", "--negative-prompt", "x"],
    ],
    ids=" ".join,
)
def test_values_that_make_no_sense_are_refused_before_the_model_is_loaded(
    edit: Run, flags: list[str], tmp_path: Path
) -> None:
    flags = ["-o", "out.png", *flags, "--model", "no/such"]
    check_refusal(edit(*flags, model=False), 2, *(["--query"] if "" in flags else []))
    assert set(files(tmp_path)) == {"photo.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "none.png", *WORDS], ["none.png", "path"]),
        (["edit", "text.png", *WORDS], ["text.png", "JPEG"]),
        (["edit", "photo.png", *WORDS, "--mask", "none.png"], ["none.png"]),
        (["edit", "photo.png", *WORDS, "-o", "none/out.png"], ["out.png"]),
        (["edit", "photo.png", *WORDS, "--model", "nothing-here"], ["nothing-here", "embedded"]),
        (["edit", "photo.png", *WORDS, "--model", "no/such", "--offline"], ["no/such", "--offline"]),
        (["edit", "photo.png", *WORDS, "--device", "abacus"], ["abacus", "--device"]),
    ],
    ids=lambda part: " ".join(part),
)
@pytest.mark.parametrize("talk", ["", "-q", "--json", "-v"])
def test_what_fails_says_why_and_what_to_do(
    run: Run, photo: Path, tmp_path: Path, checkpoint: Path, arguments: list[str], words: list[str], talk: str
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    before = files(tmp_path)
    own = [] if "--model" in arguments else ["--model", checkpoint]
    done = run(*arguments, *own, *filter(None, [talk]), model=False)
    if talk == "--json":
        facts = answer(done)
        assert set(facts) == {"error", "hint"}
        assert facts["error"].endswith(".")
        assert all(word in " ".join(facts.values()) for word in words)
        assert f"{facts['error']} {facts['hint']}" in done.stderr
        assert done.exit_code == 1
    elif talk == "-v":
        assert "Traceback" in done.stderr
        assert done.exit_code == 1
    else:
        check_refusal(done, 1, *words)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "photo.png", "--ref", "horse", "--query", "horse"], ["are the same (horse)", "--query"]),
        (["mask", "photo.png", "--ref", "horse", "--query", "horse"], ["are the same (horse)", "--query"]),
        (["mask", "photo.png"], ["both empty", "--query"]),
    ],
)
def test_the_same_texts_are_refused_before_the_model_is_loaded(
    run: Run, photo: Path, arguments: list[str], words: list[str]
) -> None:
    check_refusal(run(*arguments, "--model", "no/such", model=False), 2, *words)


def test_texts_that_the_model_takes_for_one_are_refused(run: Run, photo: Path) -> None:
    check_refusal(run("edit", "photo.png", "--ref", "Zebra", "--query", "zebra"), 2, "(Zebra)", "--ref")


def test_no_argument_is_a_usage_error(run: Run) -> None:
    for command in ("edit", "mask", "generate", "interpolate"):
        assert run(command, model=False).exit_code == 2
    assert run("paint", model=False).exit_code == 2


# ----------------------------------------------------------------------------------------------- talking


@pytest.mark.parametrize("command", ["edit", "mask", "generate", "interpolate"])
def test_quiet_says_nothing(run: Run, photo: Path, command: str) -> None:
    words: list[Any] = {
        "generate": ["a horse", "--steps", "2", "-o", "out.png"],
        "interpolate": ["a horse", "a zebra", "--frames", "2", "--steps", "2", "-o", "out.gif"],
    }.get(command, [photo, *WORDS, "--mask-samples", "1", "-o", "out.png"])
    done = good(run(command, *words, "-q"))
    assert done.output == ""
    assert len(list(Path().glob("out.*"))) == 1


def test_json_of_an_edit_and_a_mask(edit: Run, run: Run, photo: Path) -> None:
    facts = answer(good(edit("-o", "out.png", "--json")))
    usual = {"output", "coverage", "seconds", "network_seconds", "forwards", "notices", "settings"}
    assert set(facts) == usual | {"recognised", "changed_outside"}
    assert facts["output"] == "out.png"
    assert facts["settings"] == read_settings("out.png")
    assert 0 < facts["network_seconds"] <= facts["seconds"]
    facts = answer(good(run("mask", photo, *WORDS, *QUICK, "-o", "m.png", "--json")))
    assert set(facts) == usual | {"recognised"}
    assert facts["settings"] == read_settings("m.png")
    assert facts["forwards"] == 6


@pytest.mark.parametrize("name", ["generate", "interpolate"])
def test_words_without_letters_still_give_a_name(run: Run, tmp_path: Path, name: str) -> None:
    good(run(name, *{"generate": ["?!"]}.get(name, ["?", "!", "--frames", "2"]), "--steps", "1"))
    assert {path.stem for path in tmp_path.iterdir()} == {"diffedit"}


def test_generate(run: Run, at_forward: Callable[..., list[int]]) -> None:
    rows = at_forward()
    words = ["a horse in a park", "--steps", "3", "--seed", "1", "--width", "48", "--json"]
    facts = answer(good(run("generate", *words)))
    assert facts["output"] == "a-horse-in-a-park.png"
    assert set(facts) == {"output", "seconds", "network_seconds", "forwards", "notices", "settings"}
    assert facts["forwards"] == sum(rows) == 6
    assert array(facts["output"]).shape == (32, 48, 3)
    stored = read_settings(facts["output"])
    assert stored == facts["settings"]
    config = build(GenerateConfig, {key: stored[key] for key, *_ in keys(GenerateConfig)})
    wanted = GenerateConfig(prompt="a horse in a park", steps=3, seed=1, width=48, height=32)
    assert config == filled_in(wanted, {})
    check_refusal(run("generate", "x", "--width", "33"), 2, "--width 33", "32")
    check_refusal(run("generate", ""), 2, "prompt")


def test_models_list(run: Run) -> None:
    facts = answer(good(run("models", "list", "--json", model=False)))
    assert facts["models"][0]["name"] == "embedded"
    assert facts["models"][0]["bytes"] > 1e6
    assert {"horse", "zebra"} <= set(facts["words"]["objects"])
    shown = good(run("models", "list", model=False)).stdout
    assert "embedded" in shown
    assert "zebra" in shown


def test_models_info_and_pull(run: Run) -> None:
    facts = answer(good(run("models", "info", "embedded", "--json", model=False)))
    assert (facts["kind"], facts["side"], facts["is_here"]) == ("Stable Diffusion 1.x", 128, True)
    shown = good(run("models", "info", "sdxl", model=False)).stdout
    assert "stabilityai/stable-diffusion-xl-base-1.0" in shown
    assert "6.9 GB to fetch" in shown
    assert re.search(
        r"memory +about \d+\.\d GB for a run on \w+ in \w+, \d+\.\d GB of it weights; .* free", shown
    )
    assert facts["memory"]["run"] > facts["memory"]["weights"] == facts["memory"]["kept"]
    assert answer(good(run("models", "pull", "embedded", "--json", model=False)))["path"].endswith("embedded")
    check_refusal(run("models", "pull", "someone/gone", model=False), 1, "could not be fetched", "network")
    check_refusal(run("models", "info", "sd99", model=False), 1, "There is no model sd99", "sd15")


def test_models_default(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert answer(good(run("models", "default", "--json", model=False))) == {
        "model": "embedded",
        "from": "the package",
    }
    check_refusal(run("models", "default", "sd99", model=False), 1, "There is no model sd99")
    chosen = answer(good(run("models", "default", "sd15", "--json", model=False)))
    assert chosen == {"model": "sd15", "from": str(tmp_path / "diffedit/config.toml")}
    monkeypatch.setenv("DIFFEDIT_MODEL", "sdxl")
    assert "DIFFEDIT_MODEL takes precedence" in good(run("models", "default", "sd21", model=False)).stdout


def test_doctor(run: Run) -> None:
    facts = answer(good(run("doctor", "--json", model=False)))
    assert torch.__version__.startswith(facts["torch"].split("+")[0])
    assert facts["diffedit"] == __version__
    assert "cpu" in facts["devices"]
    assert facts["embedded model"].startswith("works on ")


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--inversion", "noise"],
        ["--guidance-scale", "1"],
        ["--guidance-interval", "0.5:1"],
        ["--strength", "0.3", "--steps", "9"],
        ["--mask", "own.png"],
        ["--guidance-method", "cfg++"],
        ["--mask", "own.png", "--guidance-interval", "0:0.5"],
    ],
    ids=" ".join,
)
def test_a_dry_run_loads_nothing_and_counts_right(
    edit: Run, tmp_path: Path, at_forward: Callable[..., list[int]], flags: list[str]
) -> None:
    save_mask(tmp_path / "own.png")
    before, rows = files(tmp_path), at_forward()
    flags = ["-o", "out.png", *flags]
    told = answer(good(edit(*flags, "--dry-run", "--json", "--model", "no/such", model=False)))
    assert files(tmp_path) == before
    assert rows == []
    assert (told["model"], told["output"]) == ("no/such", "out.png")
    said = good(edit(*flags, "--dry-run", "--model", "no/such", model=False)).stderr
    facts = answer(good(edit(*flags, "--json")))
    assert sum(told["forwards"].values()) == sum(rows) == facts["forwards"]
    assert f"{sum(rows)} forward passes" in said
    assert "out.png" in said


def test_a_models_own_defaults_come_after_flags_and_variables(
    edit: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    card = {"words": {"things": ["horse", "zebra"]}, "defaults": {"strength": 1.0, "guidance_scale": 3.0}}
    (own / "diffedit.json").write_text(json.dumps(card))

    def facts(name: str, *flags: str) -> dict[str, Any]:
        where = ["--model", own, "--device", "cpu"]
        return answer(good(edit("-o", name, "--json", *flags, *where, model=False)))

    usual = facts("a.png")
    assert (usual["settings"]["strength"], usual["settings"]["guidance_scale"]) == (1.0, 3.0)
    assert sum(facts("b.png", "--dry-run")["forwards"].values()) == usual["forwards"]
    monkeypatch.setenv("DIFFEDIT_STRENGTH", "0.5")
    configured = facts("b.png", "--guidance-norm", "diff")["settings"]
    assert (configured["strength"], configured["guidance_scale"]) == (0.5, 0.15)
    assert facts("c.png", "--strength", "0.75")["settings"]["strength"] == 0.75


# ------------------------------------------------------------------------------------------------ Ctrl-C


@pytest.mark.parametrize(
    ("command", "forward"), [("edit", 1), ("edit", 4), ("edit", 7), ("mask", 1), ("generate", 2)]
)
def test_an_interrupt_leaves_nothing(
    run: Run,
    photo: Path,
    tmp_path: Path,
    at_forward: Callable[..., list[int]],
    command: str,
    forward: int,
) -> None:
    words = ["a horse"] if command == "generate" else [photo, *WORDS, *QUICK]
    words += ["--steps", "4"] if command != "mask" else []
    words += ["--save-mask", "m.png"] if command == "edit" else []
    save(tmp_path / "out.png")
    before, rows = files(tmp_path), at_forward(forward)
    done = run(command, *words, "-o", "out.png", "--overwrite")
    assert len(rows) == forward
    assert done.exit_code == 130
    assert "Traceback" not in done.stderr
    assert "Interrupted" in done.stderr
    assert files(tmp_path) == before


# ------------------------------------------------------------------------------------------------- films

FILM = ["a horse", "a zebra", "--frames", "9", "--steps", "2", "--seed", "5"]


def frames_of(folder: str) -> list[np.ndarray]:
    return [array(path) for path in sorted(Path(folder).iterdir())]


def length(name: str, fps: int) -> int:
    """Frames of a film; those of a gif or webp by the time they take, since equal ones may be one."""
    if name.endswith(".mp4"):
        with av.open(name) as film:
            return len(list(film.decode(video=0)))
    if Path(name).is_dir():
        return len(frames_of(name))
    total = 0
    with Image.open(name) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            total += image.info["duration"]
    return round(total * fps / 1000)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out"])
def test_a_film_of_each_kind(run: Run, name: str, at_forward: Callable[..., list[int]]) -> None:
    rows = at_forward()
    facts = answer(good(run("interpolate", *FILM, "--fps", "10", "-o", name, "--json")))
    assert {"output": name, "frames": 9, "forwards": sum(rows), "notices": []}.items() <= facts.items()
    assert facts["seconds"] >= facts["network_seconds"] > 0
    if name.endswith(".mp4"):
        with av.open(name) as film:
            stream = film.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (32, 32, 10)
    elif name == "out":
        assert len({frame.tobytes() for frame in frames_of(name)}) == 9
    assert length(name, fps=10) == 9
    stored = read_film_settings(Path(name))
    assert stored is not None
    assert stored["command"] == "interpolate"
    config = build(InterpolateConfig, {key: stored[key] for key, *_ in keys(InterpolateConfig)})
    assert (config.prompts, config.frames, config.seed) == (("a horse", "a zebra"), 9, (5, 5))


def test_a_film_gets_a_name_and_is_not_replaced(run: Run, tmp_path: Path) -> None:
    words = ["a horse", "a zebra", "--frames", "2", "--steps", "1"]
    good(run("interpolate", *words))
    assert set(files(tmp_path)) == {"a-horse-a-zebra.mp4"}
    again = run("interpolate", *words, "--model", "no/such", model=False)
    check_refusal(again, 1, "a-horse-a-zebra.mp4", "--overwrite")
    good(run("interpolate", *words, "--overwrite"))


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["a horse", "-o", "out.gif"], "two prompts"),
        (["a", "b", "-o", "-"], "stdout"),
        (["a", "b", "-o", "out.avi"], ".mp4"),
        (["a", "b", "-o", "out", "--resume"], "--resume"),
        (["a", "b", "c", "--seed", "1", "--seed", "2", "-o", "out"], "seed"),
        (["a", "b", "--loop", "--chain", "0.5", "-o", "out"], "--chain"),
    ],
    ids=lambda part: "".join(part),
)
def test_a_film_that_cannot_be_is_refused(run: Run, tmp_path: Path, words: list[str], word: str) -> None:
    check_refusal(run("interpolate", *words, "--model", "no/such", model=False), 2, word)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("extra", [[], ["--chain", "0.5"], ["--spacing", "even"], ["--init", "init.png"]])
def test_an_interrupted_film_goes_on_as_if_it_never_stopped(
    run: Run, tmp_path: Path, at_forward: Callable[..., list[int]], extra: list[str]
) -> None:
    save(tmp_path / "init.png", "RGB")
    film = ["a horse", "a zebra", "a cow", *FILM[2:], *extra]
    rows = at_forward()
    good(run("interpolate", *film, "-o", "whole"))
    at_forward(len(rows) - 1)  # within the second leg
    done = run("interpolate", *film, "-o", "part", "--json")
    assert done.exit_code == 130
    whole, part = frames_of("whole"), frames_of("part")
    assert len(whole) == 17
    assert 0 < len(part) < 17
    assert answer(done)["frames"] == len(part)
    assert all((a == b).all() for a, b in zip(whole, part, strict=False))
    good(run("interpolate", *film, "-o", "part", "--resume"))
    resumed = frames_of("part")
    assert len(resumed) == 17
    for a, b in zip(whole, resumed, strict=True):
        assert alike(a, b)
    good(run("interpolate", *film, "-o", "part", "--resume"))  # complete: nothing to do
    assert all((a == b).all() for a, b in zip(resumed, frames_of("part"), strict=True))


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out"])
def test_an_interrupted_film_keeps_what_is_drawn(
    run: Run, tmp_path: Path, at_forward: Callable[..., list[int]], name: str
) -> None:
    at_forward(4)
    done = run("interpolate", *FILM, "-o", name)
    assert done.exit_code == 130
    assert "4 of 9 frames" in done.stderr
    assert length(name, fps=12) == 4
    assert {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_an_interrupt_before_the_first_frame_leaves_nothing(
    run: Run, tmp_path: Path, at_forward: Callable[..., list[int]], name: str
) -> None:
    at_forward(1)
    done = run("interpolate", *FILM, "-o", name)
    assert done.exit_code == 130
    assert "Interrupted" in done.stderr
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--steps", "3"], "steps"),
        (["--seed", "6"], "seed"),
        (["--frames", "10"], "frames"),
        (["--width", "48"], "width"),
        (["--guidance-scale", "3"], "guidance_scale"),
        (["--init", "other.png"], "init"),
        (["--model", "embedded"], "model"),
        (["--dtype", "bfloat16"], "dtype"),
        (["--low-memory"], "low_memory"),
        (["--embedding", "word.safetensors:ink"], "embedding"),
    ],
    ids=lambda part: "".join(part),
)
def test_a_film_goes_on_with_the_same_settings_alone(
    run: Run, tmp_path: Path, flags: list[str], word: str
) -> None:
    save(tmp_path / "init.png", "RGB")
    save(tmp_path / "other.png", "L")
    save_file({"emb_params": torch.ones(1, 32)}, "word.safetensors")
    good(run("interpolate", *FILM, "--frames", "2", "--init", "init.png", "-o", "out"))
    Path("out/frame_0001.png").unlink()
    before = files(tmp_path)
    film = [*FILM, "--frames", "2", "--init", "init.png", *flags]
    done = run("interpolate", *film, "-o", "out", "--resume", model="--model" not in flags)
    check_refusal(done, 2, f"different {word}")
    assert files(tmp_path) == before


def test_frames_of_an_older_film_are_drawn_again(
    run: Run, tmp_path: Path, at_forward: Callable[..., list[int]]
) -> None:
    """A run that is stopped at once leaves frames of the film that it replaces."""
    film = [*FILM[:2], "--frames", "3", "--steps", "2", "-o", "out"]
    good(run("interpolate", *film, "--seed", "1"))
    good(run("interpolate", *film[:-1], "whole", "--seed", "2"))
    shutil.copy(
        "whole/frame_0000.png", "out/frame_0000.png"
    )  # the new one's; two of the older one's are left
    good(run("interpolate", *film, "--seed", "2", "--resume"))
    for new, whole in zip(frames_of("out"), frames_of("whole"), strict=True):
        assert alike(new, whole)


# -------------------------------------------------------------------------------------- as people run it


def test_a_word_that_the_model_never_learned_is_told(run: Run) -> None:
    words = ["--ref", "horse", "--query", "unicorn", "--mask-samples", "1", "-o", "m.png", "--json"]
    done = good(run("mask", REPO / "examples" / "horse_park.jpg", *words, model=False))
    (notice, *_) = [notice for notice in answer(done)["notices"] if "unicorn" in notice]
    assert "does not know: unicorn." in notice
    assert "`diffedit models list` shows all of its words" in notice
    assert "--model" in notice
    assert len(notice) < 250
    assert notice in done.stderr
    words[3] = "zebr"
    planned = good(run("edit", REPO / "examples" / "horse_park.jpg", *words[:4], "--dry-run", model=False))
    assert "does not know: zebr. The nearest words that it knows: zebra" in planned.stderr


def start(*arguments: Any, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **PLAIN, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WATCHED = """
import atexit, socket, sys
seen = []
calls = {f"socket.{name}" for name in ("connect", "getaddrinfo", "gethostbyname", "sendto", "sendmsg")}
sys.addaudithook(lambda event, _: seen.append(event) if event in calls else None)
socket.getaddrinfo("127.0.0.1", 80)
probe, seen[:] = list(seen), []
heavy = ("av", "diffedit_cli.images.video", "diffusers.pipelines", "transformers.pipelines",
         "matplotlib", "pandas", "sklearn", "torchvision")

@atexit.register
def tell():
    print(bool(probe), seen, [name for name in heavy if name in sys.modules], file=sys.stderr)

from diffedit_cli.cli import main
main()
"""


def test_an_edit_opens_no_socket_and_imports_no_film_and_no_pipeline(tmp_path: Path) -> None:
    """Imports are most of a cold start: what an edit does not need must not creep in."""
    photo = REPO / "examples" / "horse_park.jpg"
    words = [*WORDS, "--steps", "4", "--mask-samples", "2", "--seed", "1", "--save-mask", "m.png"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "edit", photo, *words, "-o", "out.png", "--json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | PLAIN,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # A socket that is only made is urllib3, which tries IPv6. Older transformers import what nncf brings.
    pinned = f"transformers=={version('transformers')}\n" in (REPO / "constraints.txt").read_text()
    known = ["True [] []"] if pinned else ["True [] []", "True [] ['pandas', 'sklearn']"]
    assert done.stderr.splitlines()[-1] in known
    facts = json.loads(done.stdout)
    before, after = array(photo), array(tmp_path / "out.png")
    mask = array(tmp_path / "m.png", "L")
    assert before.shape == after.shape
    assert 0 < facts["coverage"] < 0.6
    assert (before[mask == 0] == after[mask == 0]).all()
    assert (before[mask == 255] != after[mask == 255]).mean() > 0.5


def test_ctrl_c_ends_a_process_soon(tmp_path: Path) -> None:
    photo = REPO / "examples" / "horse_park.jpg"
    with start("edit", photo, *WORDS, "--mask-samples", "1000", "-v", folder=tmp_path) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "embedded on" in line)  # it is loaded and begins
        assert line
        process.send_signal(signal.SIGINT)
        struck = time.monotonic()
        out, err = process.communicate(timeout=20)
    assert time.monotonic() - struck < 2
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Interrupted" in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


IN_BASH = """
eval "$(_DIFFEDIT_COMPLETE=source_bash diffedit)"
COMP_WORDS=(diffedit edit --mask-)
COMP_CWORD=2
_diffedit_completion diffedit
printf '%s\\n' "${COMPREPLY[@]}"
"""
ASKED = {"_TYPER_COMPLETE_ARGS": "diffedit edit --mask-", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}


@pytest.mark.parametrize(
    ("shell", "command", "pattern"),
    [
        ("bash", ["bash", "-c", IN_BASH], r"(?m)^(--[\w-]+)$"),
        ("zsh", [SCRIPT], r'"(--[\w-]+)":"[A-Z].*?"'),
        ("fish", [SCRIPT], r"(?m)^(--[\w-]+)\t[A-Z].*$"),
    ],
)
def test_a_shell_completes_the_flags(shell: str, command: list[Any], pattern: str) -> None:
    """Bash itself is run; zsh and fish are asked for as their scripts do it, and take one line a flag."""
    asked = {} if shell == "bash" else {**ASKED, "_DIFFEDIT_COMPLETE": f"complete_{shell}"}
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **asked, "PATH": path, "COLUMNS": "80"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wanted = {option_name(key) for key, *_ in keys(MaskConfig, "mask_")}
    found = re.findall(pattern, done.stdout)
    assert {*found} == wanted | {"--mask-add", "--mask-subtract"}
    assert len(found) == len(done.stdout.splitlines())


# ------------------------------------------------------------------------------------------- comparisons

TILES = [*WORDS, *QUICK, "--steps", "2", "--guidance-norm", "none,pred"]


def test_a_comparison_writes_a_grid_and_a_film(run: Run, photo: Path) -> None:
    facts = answer(good(run("compare", photo, *TILES, "-o", "grid.png", "--animate", "flip.gif", "--json")))
    assert facts["output"] == "grid.png"
    assert [tile["label"] for tile in facts["tiles"]] == ["norm none", "norm pred"]
    assert {tile["changed_outside"] for tile in facts["tiles"]} == {0}
    assert facts["forwards"] == 6 + 2 + 2 * 4
    with Image.open("grid.png") as grid, Image.open("flip.gif") as film:
        assert film.size == grid.size
        assert film.info["loop"] == 0
        assert getattr(film, "n_frames", 1) > 5
    assert read_settings("grid.png") == read_film_settings(Path("flip.gif")) == facts["settings"]


def test_a_comparison_is_named_after_its_input_and_can_go_to_stdout(run: Run, photo: Path) -> None:
    done = good(run("compare", photo, *TILES, "--dry-run"))
    assert "2 tiles: norm none; norm pred." in done.stderr
    assert files(photo.parent).keys() == {"photo.png"}
    good(run("compare", photo, *TILES))
    with Image.open("photo-compare.png") as image:
        size = image.size
    out = good(run("compare", photo, *TILES, "-o", "-")).stdout_bytes
    assert Image.open(io.BytesIO(out)).size == size


def test_prompts_are_compared_without_a_picture(run: Run) -> None:
    flags = ["--prompt", "a horse,a zebra", "--guidance-scale", "1,3", "--steps", "1", "--seed", "3"]
    facts = answer(good(run("compare", *flags, "-o", "grid.png", "--json")))
    labels = ["a horse, scale 1", "a horse, scale 3", "a zebra, scale 1", "a zebra, scale 3"]
    assert [tile["label"] for tile in facts["tiles"]] == labels


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--guidance-norm", "none,foo"], "--guidance-norm cannot be foo"),
        (["--guidance-scale", "1,abc"], "'abc'"),
        (["--guidance-norm", "none,diff", "--guidance-scale", "7.5"], "7.5 is too large"),
        (["--strength", "0.5,1.5"], "--strength 1.5"),
        (["--steps", "9"], "nothing to compare"),
        (["--steps", "9,8", "--animate", "x.avi"], "x.avi"),
        (["--steps", "9,8", "--animate", "x.webp", "-o", "./x.webp"], "Two results would go to x.webp."),
    ],
)
def test_a_comparison_that_makes_no_sense_is_a_usage_error(
    run: Run, photo: Path, flags: list[str], words: str
) -> None:
    check_refusal(run("compare", photo, *WORDS, *flags), 2, words)
    assert files(photo.parent).keys() == {"photo.png"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt", "a,b", "--ref", "c"], "--ref needs a picture"),
        (["--prompt", "a,b", "--animate", "x.gif"], "needs a picture"),
        (["--prompt", "a,b", "--mask", "m.png"], "needs a picture"),
        (["--steps", "1,2"], "no prompt"),
    ],
)
def test_what_needs_a_picture_or_a_prompt_says_so(run: Run, flags: list[str], words: str) -> None:
    check_refusal(run("compare", *flags), 2, words)


def test_a_comparison_without_a_query_is_refused_before_the_model(run: Run, photo: Path) -> None:
    check_refusal(run("compare", photo, "--ref", "a,b", "--model", "none/there", model=False), 2, "no query")


def test_an_interrupted_comparison_leaves_nothing(
    run: Run, photo: Path, at_forward: Callable[[int | None], list[int]]
) -> None:
    at_forward(4)
    assert run("compare", photo, *TILES, "--animate", "flip.gif").exit_code == 130
    assert files(photo.parent).keys() == {"photo.png"}


# -------------------------------------------------------------------------------------- the film of an edit


@pytest.mark.parametrize("loop", [True, False])
def test_the_film_of_an_edit(
    edit: Run, photo: Path, at_forward: Callable[..., list[int]], loop: bool
) -> None:
    rows = at_forward()
    flags = ["--animate", "film", "--frames", "6", "--fps", "4", "--json", *(["--loop"] if loop else [])]
    facts = answer(good(edit("-o", "out.png", "--save-mask", "m.png", *flags)))
    frames = frames_of("film")
    assert (facts["animation"], facts["frames"]) == ("film", 10 if loop else 6)
    assert len(frames) == (10 if loop else 6)
    source = Image.new("RGB", (45, 37), (225, 225, 225))  # what a film shows of a see-through picture
    source.paste(Image.open(photo).convert("RGB"), mask=Image.open(photo).getchannel("A"))
    outside = array("m.png", "L") == 0
    assert outside.any()
    assert (frames[0] == np.asarray(source)).all()
    for frame in frames:
        assert (frame[outside] == np.asarray(source)[outside]).all()
    end = Image.new("RGB", (45, 37), (225, 225, 225))
    end.paste(Image.open("out.png").convert("RGB"), mask=Image.open(photo).getchannel("A"))
    assert (frames[5] == np.asarray(end)).all()
    if loop:
        assert all((a == b).all() for a, b in zip(frames[6:], frames[4:0:-1], strict=True))
    stored = read_film_settings(Path("film"))
    assert stored is not None
    assert (stored["query"], stored["frames"], stored["fps"], stored["loop"]) == ("zebra", 6, 4, loop)
    assert sum(rows) == facts["forwards"] + 5 * 6  # 3 steps, two forwards each; the last frame is there


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "film.webp"])
def test_the_film_of_an_edit_in_each_format(edit: Run, name: str) -> None:
    done = good(edit("-o", "out.png", "--animate", name, "--frames", "4", "--fps", "2"))
    assert f"Wrote {name}: 4 frames, 2.0 s; 6 forward passes" in done.stderr
    assert length(name, fps=2) == 4


def test_a_dry_run_counts_the_film(edit: Run, at_forward: Callable[..., list[int]]) -> None:
    flags = ["-o", "out.png", "--animate", "film", "--frames", "5"]
    told = answer(good(edit(*flags, "--dry-run", "--json")))
    rows = at_forward()
    good(edit(*flags))
    assert sum(told["forwards"].values()) == sum(rows)
    assert told["forwards"]["frame"] == 4 * 6


def test_an_interrupted_film_of_an_edit_keeps_the_edit_and_the_frames(
    edit: Run, photo: Path, at_forward: Callable[..., list[int]]
) -> None:
    good(edit("-o", "whole.png"))
    at_forward(1 + 3 + 3 + 3 + 3 + 2)  # mask, inversion, edit, first frame, four more, and then
    done = edit("-o", "out.png", "--animate", "film", "--frames", "12")
    assert done.exit_code == 130
    assert "Wrote film: 6 frames" in done.stderr
    assert (array("out.png") == array("whole.png")).all()
    frames = frames_of("film")
    assert len(frames) == 6
    away = [np.abs(frame.astype(int) - frames[0]).sum() for frame in frames]
    assert away[0] == 0
    assert away[-1] == max(away)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--animate", "film.avi"], 2, "film.avi"),
        (["--save-mask", "film.webp", "--animate", "film.webp"], 2, "Two results would go to film.webp."),
        (["--animate", "film", "--frames", "1"], 2, "--frames 1"),
        (["--animate", "film", "--inversion", "noise"], 2, "--inversion noise"),
        (["--animate", "no/film.mp4"], 1, "does not exist"),
    ],
)
def test_a_film_that_cannot_be_made_is_refused_first(
    edit: Run, photo: Path, flags: list[str], code: int, words: str
) -> None:
    check_refusal(edit("-o", "out.png", *flags), code, words)
    assert files(photo.parent).keys() == {"photo.png"}
