"""Flags that do nothing in a run are noted or refused, and never stored as if they had been used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from pictures import box_mask, noise

from diffedit_cli.settings import EditConfig, GuidanceConfig, MaskConfig, flatten, keys
from diffedit_cli.settings.idle import idle_settings, without_idle

Run = Callable[..., Any]
EDIT = ["edit", "photo.png", "--ref", "horse", "--query", "zebra", "--mask-samples", "1", "--steps", "2"]
OWN = ["edit", "photo.png", "--query", "zebra", "--mask", "own.png", "--steps", "2"]
DRAW = ["generate", "a horse", "--steps", "1"]
FILM = ["interpolate", "a", "b", "--frames", "2", "--steps", "1", "-o", "film.gif"]
RAW = ["--guidance-scale", "1"]  # no guidance
REMOVE = ["remove", "photo.png", "--ref", "horse", "--mask", "own.png", "--steps", "2"]
FOUND = ["mask", "photo.png", "--query", "zebra", "--mask-samples", "1"]
FALLING = ["--guidance-schedule", "linear-down", "--guidance-end", "2"]
MODEL = {"revision": None, "variant": None}

# (command, flags, {key: what is stored}, the reason)
TABLE: list[tuple[list[str], list[str], dict[str, Any], str]] = [
    (OWN, ["--mask-threshold", "0.7"], {"mask_threshold": 0.5}, "with --mask"),
    (OWN, ["--mask-strength", "0.7"], {"mask_strength": [0.3, 0.5]}, "with --mask"),
    (OWN, ["--mask-samples", "9"], {"mask_samples": 6}, "with --mask"),
    (OWN, ["--no-mask-evidence"], {"mask_evidence": True}, "with --mask"),
    (OWN, ["--mask-clip", "0.9"], {"mask_clip": 0.95}, "with --mask"),
    (OWN, ["--mask-refine", "0.3"], {"mask_refine": 0.19}, "with --mask"),
    (OWN, ["--mask-grow", "2"], {"mask_grow": 0}, "with --mask"),
    (OWN, ["--mask-feather", "5"], {"mask_feather": 2.0}, "with --mask"),
    (OWN, ["--no-mask-fill-holes"], {"mask_fill_holes": True}, "with --mask"),
    (OWN, ["--room", "0.5"], {"room": 0.11}, "with --mask"),
    (EDIT, ["--mask-invert", "--room", "0.5"], {"room": 0.11}, "with --mask-invert"),
    (EDIT, ["--mask-invert", "--zoom"], {"zoom": False}, "with --mask-invert"),
    (EDIT, ["--mask-grey", "blend"], {"mask_grey": "strength"}, "without a mask of your own"),
    (
        EDIT,
        ["--inversion", "noise", "--inversion-rounds", "2"],
        {"inversion_rounds": 0},
        "with --inversion noise",
    ),
    (REMOVE, ["--room", "0.5"], {"room": 0.08}, "with --mask"),
    (REMOVE, ["--mask-samples", "9"], {"mask_samples": 6}, "with --mask"),
    (REMOVE, [*RAW, "--guidance-norm", "pred"], {"guidance_norm": "none"}, "scale 1"),
    (FOUND, ["--no-mask-evidence"], {}, "without --ref"),
    (EDIT, ["--guidance-end", "3"], {"guidance_end": 1.0}, "without --guidance-schedule"),
    (
        EDIT,
        [*RAW, "--negative-prompt", "x"],
        {"negative_prompt": ""},
        "--guidance-scale 1",
    ),
    (
        EDIT,
        [*RAW, "--guidance-interval", "0:0.5"],
        {"guidance_interval": "0:1"},
        "scale 1",
    ),
    (EDIT, [*RAW, "--guidance-norm", "pred"], {"guidance_norm": "none"}, "scale 1"),
    (EDIT, [*RAW, "--guidance-rescale", "0.7"], {"guidance_rescale": 0.0}, "scale 1"),
    (EDIT, [*RAW, "--guidance-method", "apg"], {"guidance_method": "cfg"}, "scale 1"),
    (EDIT, [*RAW, "--inversion", "noise", "--reuse", "3"], {"reuse": 1}, "one prediction a step"),
    (EDIT, ["--frames", "9"], {}, "without --animate"),
    (EDIT, ["--fps", "9"], {}, "without --animate"),
    (EDIT, ["--loop"], {}, "without --animate"),
    (EDIT, ["--recursive"], {}, "without a folder"),
    (DRAW, ["--guidance-end", "3"], {"guidance_end": 1.0}, "without --guidance-schedule"),
    (
        DRAW,
        [*RAW, "--negative-prompt", "x"],
        {"negative_prompt": ""},
        "--guidance-scale 1",
    ),
    (FILM, ["--strength", "0.9"], {"strength": 0.6}, "without --init"),
    (FILM, ["--guidance-end", "3"], {"guidance_end": 1.0}, "without --guidance-schedule"),
    (EDIT, ["--revision", "main"], MODEL, "with the embedded model"),
    (FOUND, ["--variant", "fp16"], MODEL, "with the embedded model"),
    (DRAW, ["--variant", "fp16"], MODEL, "with the embedded model"),
    (FILM, ["--revision", "main"], MODEL, "with the embedded model"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    box_mask((40, 30), (0, 0, 20, 30)).save("own.png")
    return invoke


@pytest.mark.parametrize(
    ("command", "flags", "stored", "why"), TABLE, ids=[f"{row[0][0]} {' '.join(row[1])}" for row in TABLE]
)
def test_a_flag_that_does_nothing_is_noted_and_not_stored(
    run: Run, checkpoint: Path, command: list[str], flags: list[str], stored: dict[str, Any], why: str
) -> None:
    model = [] if stored == MODEL else ["--model", checkpoint, "--device", "cpu"]
    output = [] if "-o" in command else ["-o", "out.png"]
    done = run(*command, *flags, *model, *output, "--json")
    assert done.exit_code == 0, done.output
    idle = next(flag for flag in reversed(flags) if flag.startswith("--")).replace("--no-", "--")
    notes = [line for line in done.stderr.splitlines() if line.startswith("Note:")]
    assert any(line.startswith(f"Note: {idle} does nothing ") and why in line for line in notes), done.stderr
    facts = json.loads(done.stdout)
    settings = facts.get("settings") or json.loads(run("info", "film.gif", "--json").stdout)["settings"]
    assert {key: settings[key] for key in stored} == stored


def test_what_is_used_is_not_noted(run: Run, checkpoint: Path) -> None:
    model = ["--model", checkpoint, "--device", "cpu"]
    used = ["--mask-threshold", "0.4", "--room", "0.2", "--mask-grow", "1", "--mask-feather", "1", "--zoom"]
    done = run(*EDIT, *used, *FALLING, *model, "-o", "a.png")
    assert "does nothing" not in done.stderr
    done = run(*OWN, "--mask-invert", "--negative-prompt", "x", "--mask-grey", "blend", *model, "-o", "b.png")
    assert "does nothing" not in done.stderr


def test_a_configured_setting_is_passed_over_in_silence(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFEDIT_MASK_THRESHOLD", "0.7")
    done = run(*OWN, "--model", checkpoint, "--device", "cpu", "-o", "out.png", "--json")
    assert "does nothing" not in done.stderr
    assert json.loads(done.stdout)["settings"]["mask_threshold"] == 0.5


@pytest.mark.parametrize(
    "flags",
    [
        ["photo.png", "--mask", "own.png", "--query", "zebra", "--mask-threshold", "0.3,0.5"],
        ["photo.png", "--ref", "a", "--query", "b", "--guidance-end", "0,1"],
        ["--prompt", "a", "--guidance-scale", "1", "--negative-prompt", "x,y"],
    ],
)
def test_tiles_that_would_be_the_same_are_refused(run: Run, flags: list[str]) -> None:
    done = run("compare", *flags)
    assert done.exit_code == 2
    assert "so its tiles would be the same" in done.stderr


def test_a_list_that_counts_in_one_tile_is_drawn() -> None:
    both = [GuidanceConfig(schedule=kind) for kind in ("constant", "linear-down")]
    assert ["guidance_end" in idle_settings(EditConfig(guidance=one)) for one in both] == [True, False]


def test_a_setting_of_no_use_to_a_folder_is_noted_once(run: Run, checkpoint: Path) -> None:
    done = run(*EDIT, "--revision", "main", "--model", checkpoint, "--device", "cpu", "-o", "out.png")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("--revision") == 1
    assert f"--revision does nothing with {checkpoint}, which has none." in done.stderr


def test_idle_settings_fall_back_to_their_defaults_and_no_other() -> None:
    config = EditConfig(
        ref="a", query="b", steps=9, room=0.5, mask=MaskConfig(threshold=0.7, grow=3, invert=True)
    )
    left = flatten(without_idle(config, idle_settings(config, has_mask=True)))
    usual = {key: list(value) if isinstance(value, tuple) else value for key, _, _, value in keys(EditConfig)}
    changed = {key: value for key, value in left.items() if value != usual[key]}
    assert changed == {"ref": "a", "query": "b", "steps": 9, "mask_invert": True}
