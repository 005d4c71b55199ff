"""diffedit info and diffedit rerun, and what a result says of how it was made."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import good, invoke
from pictures import noise
from PIL import Image

from diffedit_cli import __version__
from diffedit_cli.images.read import load_image, read_settings
from diffedit_cli.images.write import save_image
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.models.load import origin_of
from diffedit_cli.models.sources import Source
from diffedit_cli.settings import ModelConfig

Run = Callable[..., Any]
WORDS = ["--ref", "horse", "--query", "zebra", "--mask-samples", "2"]
QUICK = [*WORDS, "--steps", "3", "--size", "32"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save(tmp_path / "photo.png")
    return invoke


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_rerun_gives_the_same_bytes(run: Run, checkpoint: Path, suffix: str) -> None:
    model = ["--model", checkpoint, "--device", "cpu"]
    flags = ["--guidance-norm", "pred", "--mask-strength", "0.3", "--no-mask-fill-holes"]
    good(run("edit", "photo.png", *QUICK, *flags, *model, "-o", f"out.{suffix}"))  # with a random seed
    good(run("rerun", f"out.{suffix}", *model))
    assert Path(f"out-rerun.{suffix}").read_bytes() == Path(f"out.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("command", "words", "name"),
    [
        ("mask", ["photo.png", *WORDS], "out.png"),
        ("generate", ["a horse", "--steps", "2"], "out.png"),
        ("interpolate", ["a", "b", "--frames", "3", "--steps", "2", "--init", "photo.png"], "out.gif"),
    ],
)
def test_rerun_of_every_command(
    run: Run, checkpoint: Path, command: str, words: list[str], name: str
) -> None:
    model = ["--model", checkpoint, "--device", "cpu"]
    good(run(command, *words, *model, "-o", name))
    good(run("rerun", name, *model, "-o", f"again-{name}"))
    assert Path(f"again-{name}").read_bytes() == Path(name).read_bytes()


def test_a_zoom_is_told_stored_and_taken_again(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    model = ["--model", checkpoint, "--device", "cpu", "--size", "32"]
    noise(320, 240).save(tmp_path / "photo.png")
    dot = Image.new("L", (320, 240))
    dot.paste(255, (200, 90, 215, 100))
    dot.save(tmp_path / "dot.png")
    told = good(run("edit", "photo.png", *QUICK, *model, "--mask", "dot.png", "-o", "out.png")).output
    assert "the edit was made in the 32x32 pixels around it" in " ".join(told.split())
    settings = read_settings(Path("out.png"))
    assert settings is not None
    assert settings["zoom"] is True
    good(run("rerun", "out.png", *model, "--mask", "dot.png"))
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
    whole = good(run("rerun", "out.png", *model, "--mask", "dot.png", "--no-zoom", "-o", "whole.png")).output
    assert "round it" not in whole
    assert Path("whole.png").read_bytes() != Path("out.png").read_bytes()


@pytest.mark.slow
def test_a_zoom_that_an_edit_chose_is_taken_again(run: Run) -> None:
    far = Path(__file__).parents[1] / "examples/horse_far.jpg"
    good(run("edit", far, *WORDS, "--steps", "3", "--seed", "1", "--mask-samples", "4", "-o", "far.png"))
    settings = read_settings(Path("far.png"))
    assert settings is not None
    assert settings["zoom"] is True
    good(run("rerun", "far.png", far))
    assert Path("far-rerun.png").read_bytes() == Path("far.png").read_bytes()


def test_the_embedded_model_needs_no_flag_and_a_flag_changes_one_thing(run: Run) -> None:
    good(run("edit", "photo.png", *QUICK, "-o", "out.png"))
    good(run("rerun", "out.png"))
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
    good(run("rerun", "out.png", "--query", "dog", "--steps", "2", "-o", "dog.png", "-q"))
    before, after = read_settings("out.png"), read_settings("dog.png")
    assert before is not None
    assert after == {**before, "query": "dog", "steps": 2}


def test_a_setting_that_is_gone_does_not_matter_where_it_did_nothing(run: Run) -> None:
    good(run("edit", "photo.png", *QUICK, "-o", "out.png"))
    save_image("old.png", noise(9, 9), settings={**(read_settings("out.png") or {}), "tries": 1})
    good(run("rerun", "old.png"))
    assert Path("old-rerun.png").read_bytes() == Path("out.png").read_bytes()


def test_what_was_configured_later_does_not_matter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good(run("generate", "a horse", "--steps", "2", "-o", "out.png"))
    monkeypatch.setenv("DIFFEDIT_STEPS", "1")
    monkeypatch.setenv("DIFFEDIT_GUIDANCE_SCALE", "2")
    monkeypatch.setenv("DIFFEDIT_REVISION", "old")
    good(run("rerun", "out.png"))
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()


def test_the_input_is_found_by_name_and_checked_by_hash(run: Run, tmp_path: Path) -> None:
    good(run("mask", "photo.png", *WORDS, "-o", "out.png"))
    (tmp_path / "deep").mkdir()
    os.rename("photo.png", "deep/other.png")
    refusal(run("rerun", "out.png"), "The picture photo.png, from which out.png was made, was not found.")
    noise(40, 30, seed=1).save("photo.png")
    wrong = run("rerun", "out.png", "--json")
    assert wrong.exit_code == 1
    assert "SHA-256 differs" in json.loads(wrong.stdout)["error"]
    good(run("rerun", "out.png", "deep/other.png"))
    assert load_image("out-rerun.png").rgb.tobytes() == load_image("out.png").rgb.tobytes()


def refusal(result: Any, *words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.exit_code in (1, 2), result.output
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert not Path("out-rerun.png").exists()


def test_what_a_result_does_not_hold_has_to_be_given_again(run: Run, checkpoint: Path) -> None:
    Image.new("L", (40, 30), 255).save("white.png")
    masked = ["edit", "photo.png", "--query", "zebra", "--steps", "2", "--mask", "white.png"]
    good(run(*masked, "-o", "out.png"))
    stored = read_settings("out.png")
    assert stored is not None
    assert len(stored["mask_sha256"]) == 64
    refusal(run("rerun", "out.png"), "made with a mask", "--mask")
    same = good(run("rerun", "out.png", "--mask", "white.png", "-o", "again.png"))
    assert "was made with" not in same.stderr
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    Image.new("L", (40, 30), 250).save("white.png")
    other = good(run("rerun", "out.png", "--mask", "white.png", "-o", "other.png"))
    assert "Note: --mask is not what out.png was made with: the result will differ." in other.stderr
    quiet = good(run("rerun", "out.png", "--mask", "white.png", "-o", "other.png", "--overwrite", "-q"))
    assert quiet.stderr == ""
    refusal(run("rerun", "out.png", "--mask", "none.png"), "none.png")
    good(run(*masked, "-o", "out.png", "--overwrite", "--model", checkpoint))
    refusal(run("rerun", "out.png", "--mask=white.png"), f"local model {checkpoint.name}", "--model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": "compare"}, ["compare", "cannot be rerun"]),
        ({"fps": 8}, ["film of an edit", "--animate"]),
        ({"steps": 0}, ["--steps 0 is out of range"]),
        ({"steps": "many"}, ["--steps cannot be"]),
        ({"guidance_stale": 1}, ["no setting guidance_stale", "out.png", "99"]),
        ({"tries": 4}, ["no setting tries", "out.png", "99"]),
        ({"input": "../../../etc/photo"}, ["The picture photo"]),
        ({"input": 3}, ["does not say which picture"]),
    ],
)
def test_settings_that_cannot_be_run(run: Run, change: dict[str, Any], words: list[str]) -> None:
    stored = {"diffedit": "99", "command": "edit", "model": "embedded", "ref": "horse", "query": "zebra"}
    stored |= {"input": "photo.png", "input_sha256": "0" * 64, **change}
    save_image("out.png", noise(9, 9), settings=stored)
    refusal(run("rerun", "out.png"), *words)


def test_what_holds_no_settings_cannot_be_run(run: Run) -> None:
    refusal(run("rerun", "photo.png"), "holds no settings", "--no-metadata")
    refusal(run("rerun", "none.png"), "does not exist")


def test_another_norm_does_not_get_the_scale_of_the_old_one(run: Run) -> None:
    good(run("edit", "photo.png", *QUICK, "-o", "out.png"))
    good(run("rerun", "out.png", "--guidance-norm", "diff", "-o", "diff.png"))
    before, after = read_settings("out.png") or {}, read_settings("diff.png") or {}
    assert before["guidance_scale"] > 1
    assert (after["guidance_scale"], after["seed"]) == (0.15, before["seed"])


def test_a_flag_goes_before_a_stored_setting_that_it_does_not_go_with(run: Run) -> None:
    good(run("edit", "photo.png", *QUICK, "--reuse", "2", "-o", "out.png"))
    done = good(run("rerun", "out.png", "--inversion-rounds", "1"))
    assert "Note: --reuse, set in out.png, is left out: --reuse above 1 cannot be used" in done.stderr
    settings = read_settings(Path("out-rerun.png"))
    assert settings is not None
    assert (settings["reuse"], settings["inversion_rounds"]) == (1, 1)


def test_an_error_says_that_a_setting_is_stored(run: Run) -> None:
    good(run("edit", "photo.png", *QUICK, "--inversion", "noise", "-o", "out.png"))
    done = run("rerun", "out.png", "--animate", "film.gif")
    assert done.exit_code == 2
    assert done.stderr.endswith("--inversion is set in out.png.\n")


def test_another_version_is_told(run: Run) -> None:
    good(run("generate", "a horse", "--steps", "1", "-o", "old.png"))
    stored = read_settings("old.png")
    save_image("out.png", noise(9, 9), settings={**(stored or {}), "diffedit": "0.0.1"})
    assert f"made by diffedit 0.0.1, and this is {__version__}" in good(run("rerun", "out.png")).stderr


def crafted(**changes: Any) -> dict[str, Any]:
    """Settings as a stranger's picture may hold them; its input is here."""
    digest = load_image("photo.png").sha256
    usual = {"diffedit": __version__, "command": "edit", "model": "embedded", "ref": "horse"}
    usual |= {"query": "zebra", "input": "photo.png", "input_sha256": digest, "steps": 2, "mask_samples": 1}
    return {key: value for key, value in {**usual, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model": "evil-corp/evil-model"},
            ["evil-model, which is not on this machine", "--model"],
        ),
        ({"model": "sd15", "revision": "f" * 40}, ["model sd15, which is not on this machine"]),
        ({"model": "."}, ["--model"]),
        ({"model": "./here", "model_is_local": False}, ["--model"]),
        ({"model": "sd15", "model_is_local": True}, ["local model sd15", "--model"]),
        ({"model": 3}, ["--model cannot be 3"]),
        ({"steps": 1000, "mask_samples": 1000}, ["times the usual steps", "--yes"]),
        ({"size": 4096}, ["4096 pixels a side", "--yes"]),
        ({"command": "generate", "prompt": ...}, ["does not say which prompt"]),
        ({"command": "generate", "prompt": ""}, ["does not say which prompt"]),
        ({"command": ["edit"]}, ["cannot be rerun"]),
        ({"command": {"edit": 1}}, ["cannot be rerun"]),
        ({"command": "interpolate", "input": 3}, ["does not say which picture"]),
        ({"command": "interpolate", "input": ..., "prompts": ["a"]}, ["two prompts"]),
        ({"command": "interpolate", "input": ..., "prompts": ["a", "b"], "frames": 9999}, ["--yes"]),
        ({"input": ""}, ["does not say which picture"]),
        ({"input": "x" * 300}, ["does not say which picture"]),
        ({"input": "a\0b"}, ["does not say which picture"]),
        ({"query": "\ud800"}, ["not valid text"]),
        ({"negative_prompt": "\udfff"}, ["not valid text"]),
        ({"diffedit": 4}, ["never writes"]),
        ({"together": [0, 99]}, ["never writes"]),
        ({"together": "many"}, ["never writes"]),
        ({"device": "cpu:x"}, ["cpu:x"]),
        ({"lora": 5}, ["--lora cannot be"]),
        ({"guidance_scale": float("nan")}, ["out of range"]),
    ],
    ids=lambda part: ascii(part)[:60],
)
def test_a_strangers_picture_is_checked_before_anything_is_done(
    run: Run, checkpoint: Path, change: dict[str, Any], words: list[str]
) -> None:
    os.symlink(checkpoint, "here")
    keys_of_edit = {"ref", "query", "steps", "mask_samples", "input_sha256"}
    stored = crafted(**change)
    if stored["command"] != "edit":
        stored = {key: value for key, value in stored.items() if key not in keys_of_edit}
    save_image("out.png", noise(9, 9), settings=stored)
    refusal(run("rerun", "out.png"), *words)


def test_a_model_that_is_named_is_trusted_and_a_large_run_takes_yes(run: Run, checkpoint: Path) -> None:
    save_image("out.png", noise(9, 9), settings=crafted(model="evil-corp/evil-model", revision="main"))
    good(run("rerun", "out.png", f"-m{checkpoint}", "--device", "cpu", "-o", "named.png"))
    after = read_settings("named.png") or {}
    assert (after["model"], after["revision"]) == (checkpoint.name, None)
    save_image("out.png", noise(9, 9), settings=crafted(steps=1000, strength=0.01), overwrite=True)
    good(run("rerun", "out.png", "-o", "few.png"))  # ten steps are not many
    save_image("big.png", noise(9, 9), settings=crafted(size=1088))
    refusal(run("rerun", "big.png"), "1088 pixels a side", "--yes")
    good(run("rerun", "big.png", "--yes", "--size", "64"))  # what is asked for counts
    good(run("rerun", "big.png", "--size", "64", "-o", "small.png"))


def test_a_picture_starts_no_compiler(run: Run) -> None:
    save_image("out.png", noise(9, 9), settings=crafted(compile=True))
    done = good(run("rerun", "out.png"))
    assert "was made with --compile" in done.stderr
    assert (read_settings("out-rerun.png") or {})["compile"] is False


def test_another_model_brings_its_own_settings(run: Run, checkpoint: Path) -> None:
    """Those of the embedded model (size 128, scale 5, strength 1) do not fit a checkpoint of 32 pixels."""
    words = ["edit", "photo.png", *WORDS, "--steps", "3"]
    good(run(*words, "-o", "out.png"))
    before = read_settings("out.png") or {}
    good(run("rerun", "out.png", "--model", checkpoint, "-o", "other.png"))
    good(run(*words, "--seed", before["seed"], "--model", checkpoint, "-o", "plain.png"))
    after, plain = read_settings("other.png") or {}, read_settings("plain.png") or {}
    own = ("size", "strength", "guidance_scale", "device", "dtype")
    assert [after[key] for key in own] == [plain[key] for key in own] != [before[key] for key in own]
    assert load_image("other.png").rgb.tobytes() == load_image("plain.png").rgb.tobytes()
    good(run("rerun", "out.png", "--model", "embedded"))  # the same one: the same picture
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()


@pytest.mark.slow
def test_a_result_of_a_batch_is_made_again_to_the_byte(run: Run) -> None:
    """Rounding depends on the batch, so the row and the number of its pictures are stored."""
    for number in range(3):
        noise(40, 30, seed=number).save(f"{number}.png")
    good(run("edit", "0.png", "1.png", "2.png", *QUICK, "-o", "out"))
    for number in range(3):
        file = Path(f"out/{number}-zebra.png")
        assert (read_settings(file) or {})["together"] == [number, 3]
        good(run("rerun", file, f"{number}.png", "-o", f"again-{number}.png"))
        assert Path(f"again-{number}.png").read_bytes() == file.read_bytes()
    good(run("rerun", "out/0-zebra.png", "0.png", "--seed", "1", "-o", "other.png"))
    assert "together" not in (read_settings("other.png") or {})


def test_one_input_and_attached_flags(run: Run, checkpoint: Path) -> None:
    good(run("edit", "photo.png", *QUICK, "-o", "out.png"))
    noise(9, 9).save("more.png")
    refusal(run("rerun", "out.png", "photo.png", "more.png"), "from one input")
    refusal(run("rerun", "out.png", "--steps", "2", "more.png"), "right after the file")
    good(run("rerun", "out.png", "-pdog", "-oother.png"))
    assert (read_settings("other.png") or {})["query"] == "dog"


def test_the_default_name_of_a_rerun_is_not_the_inputs(run: Run) -> None:
    os.rename("photo.png", "out-rerun.png")
    before = Path("out-rerun.png").read_bytes()
    good(run("mask", "out-rerun.png", *WORDS, "-o", "out.png"))
    good(run("rerun", "out.png", "--overwrite"))
    assert Path("out-rerun.png").read_bytes() == before
    assert Path("out-again.png").read_bytes() == Path("out.png").read_bytes()


def test_info_says_how_it_was_made(run: Run, checkpoint: Path) -> None:
    good(run("edit", "photo.png", *QUICK, "--seed", "4", "--model", checkpoint, "-o", "out.png"))
    facts = json.loads(good(run("info", "out.png", "--json")).stdout)
    assert facts["settings"] == read_settings("out.png")
    assert (facts["file"], facts["width"], facts["height"], facts["has_alpha"]) == ("out.png", 40, 30, False)
    shown = good(run("info", "out.png")).stdout
    assert {"query", "zebra", "seed", "photo.png"} <= set(shown.split())
    assert "no settings" in good(run("info", "photo.png")).stdout
    assert json.loads(good(run("info", "photo.png", "--json")).stdout)["settings"] is None
    refusal(run("info", "none.png"), "does not exist")


def test_nothing_of_the_machine_is_stored(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    """The base name of the input and of a local model, but no folder of this machine and no user."""
    good(run("edit", tmp_path / "photo.png", *QUICK, "--model", checkpoint, "-o", tmp_path / "out.png"))
    good(
        run("interpolate", "a", "b", "--frames", "2", "--steps", "1", "--model", checkpoint, "-o", "out.mp4")
    )
    good(run("generate", "a", "--steps", "1", "--model", checkpoint, "-o", "out.jpg"))
    for name in ("out.png", "out.mp4", "out.jpg"):
        data = Path(name).read_bytes()
        for secret in (str(tmp_path), str(checkpoint), str(checkpoint.parent), f"{Path.home()}/"):
            assert secret.encode() not in data
            assert secret.encode("utf-16-be") not in data
    stored = read_settings("out.png")
    assert stored is not None
    assert (stored["input"], stored["model"], stored["model_is_local"]) == (
        "photo.png",
        checkpoint.name,
        True,
    )
    assert (stored["device"], stored["dtype"], stored["revision"]) == ("cpu", "float32", None)


def test_the_origin_names_the_commit_of_a_hub_id(model: DiffusersDenoiser, tmp_path: Path) -> None:
    cached = Source(tmp_path / "models--org--name" / "snapshots" / "abc123", "fp16", "abc123")
    config = ModelConfig("org/name", lora=(str(tmp_path / "a.safetensors") + ":0.5",), offline=True)
    origin = origin_of(config, cached, model)
    assert "offline" not in origin
    assert (origin["model"], origin["revision"], origin["variant"]) == ("org/name", "abc123", "fp16")
    assert (origin["lora"], origin["model_is_local"]) == (["a.safetensors:0.5"], False)
    assert load_model("embedded").origin["model_is_local"] is False


def test_json_beside_a_picture_on_stdout(run: Run) -> None:
    result = good(run("edit", "photo.png", *QUICK, "-o", "-", "--json"))
    with Image.open(io.BytesIO(result.stdout_bytes)) as image:
        assert np.asarray(image).shape == (30, 40, 3)
    facts = json.loads(result.stderr)  # one line, and nothing else
    assert facts["output"] == "-"
    assert facts["changed_outside"] == 0
    failed = run("edit", "photo.png", "--ref", "a", "--query", "a", "-o", "-", "--json")
    assert failed.exit_code in (1, 2)
    assert failed.stdout == ""
    assert json.loads(failed.stderr)["error"]
