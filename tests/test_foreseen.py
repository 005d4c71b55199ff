"""Before a weight is read: dry runs refuse what runs refuse, and runs load no model that they cannot use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import good, invoke
from conftest import Build, save_parts, tiny_unet, tiny_vae
from flow_models import (
    DEV_SCHEDULER,
    SD3_SCHEDULER,
    flow_vae,
    flux_parts,
    save_flow,
    sd3_parts,
    t5_encoder,
    zimage_parts,
)
from pictures import noise
from safetensors.torch import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
WORDS = ["--ref", "horse", "--query", "zebra", "--steps", "2", "--mask-samples", "1", "--size", "32"]
EDIT = ["edit", "photo.png", *WORDS, "--device", "cpu"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, build_xl: Build) -> dict[str, str]:
    """Checkpoints, and parts that do not go with some of them, by short names."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("places")
    folders = {
        "sd": checkpoint,
        "lcm": Path(shutil.copytree(checkpoint, root / "lcm-sd")),
        "xl": build_xl(),
        "sd3": save_flow(root / "sd3", sd3_parts(), SD3_SCHEDULER),
        "dev": save_flow(root / "dev", flux_parts(guidance_embeds=True), DEV_SCHEDULER),
        "zimage": save_flow(root / "zimage", zimage_parts(), SD3_SCHEDULER),
    }
    tiny_vae().save_pretrained(root / "scaled")
    change(root / "scaled/config.json", scaling_factor=0.13025)
    flow_vae(scaling_factor=0.3611).save_pretrained(root / "shifted")
    save_parts(root / "unet", {"unet": tiny_unet()}, {})
    shutil.rmtree(root / "unet/scheduler")
    t5_encoder(48).save_pretrained(root / "narrow")
    whole = load_file(folders["sd3"] / "transformer" / WEIGHTS)
    save_file(dict(list(whole.items())[:-1]), root / "gap.safetensors")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_lora(root / "lora.safetensors", f"unet.{layer}", 4)
    save_lora(root / "sd-lora.safetensors", f"unet.{layer}", 16)
    save_lora(root / "sd3-lora.safetensors", "transformer.transformer_blocks.0.attn.to_q", 32)
    kohya = "lora_unet_double_blocks_0_img_attn_qkv"
    matrices = {f"{kohya}.lora_down.weight": torch.ones(3, 32), f"{kohya}.lora_up.weight": torch.ones(96, 3)}
    save_file({**matrices, f"{kohya}.alpha": torch.tensor(2.0)}, root / "kohya-lora.safetensors")
    for name, width in (("word", 24), ("sd-word", 32)):
        save_file({"emb_params": torch.ones(1, width)}, root / f"{name}.safetensors")
    return {
        **{name: str(folder) for name, folder in folders.items()},
        **{name: str(root / name) for name in ("scaled", "shifted", "unet")},
        **{path.stem: str(path) for path in root.glob("*.safetensors")},
        "narrow": str(root / "narrow/model.safetensors"),
        "clip": str(folders["sd3"] / "text_encoder/model.safetensors"),
        "transformer": str(folders["sd3"] / "transformer" / WEIGHTS),
        "of-dev": str(folders["dev"] / "transformer" / WEIGHTS),
        "unet-file": str(checkpoint / "unet" / WEIGHTS),
        "vae-file": str(folders["sd3"] / "vae" / WEIGHTS),
    }


def save_lora(path: Path, layer: str, width: int) -> None:
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(4, width), f"{layer}.lora_B.weight": torch.ones(width, 4)}, path
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    return invoke


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def named(value: str | list[str]) -> str:
    return value[:30] if isinstance(value, str) else " ".join(value)[:60]


REFUSED = [
    (["-m", "sd", "--vae", "scaled"], "another kind of checkpoint: it scales latents by 0.13025"),
    (["-m", "sd3", "--vae", "shifted"], "it scales latents by 0.3611 after a shift by 0.0609"),
    (["-m", "sd", "--vae", "vae-file"], "missing or have the wrong shape"),
    (["-m", "sd", "--text-encoder", "xl"], "the text is 72 wide, and its UNet takes 32"),
    (["-m", "unet", "--text-encoder", "xl"], "the text is 72 wide, and its UNet takes 32"),
    (["-m", "unet", "--text-encoder", "sd3"], "is not a transformer file"),
    (["-m", "lcm", "--text-encoder", "sd3"], "is not a transformer file"),  # which has timesteps of its own
    (["-m", "unet", "--text-encoder", "clip"], "is not the text encoder of Stable Diffusion 1.x or 2.x"),
    (["-m", "unet-file", "--text-encoder", "sd"], "holds a UNet that is not of Stable Diffusion"),
    (["-m", "transformer", "--text-encoder", "dev"], "not a transformer of the same family"),
    (["-m", "of-dev", "--text-encoder", "zimage"], "not a transformer of the same family"),
    (["-m", "gap", "--text-encoder", "sd3"], "1 tensor is missing"),
    (["-m", "sd", "--lora", "lora"], "does not fit this checkpoint"),
    (["-m", "dev", "--lora", "lora"], "fits 0 of 1 layers"),
    (["-m", "sd", "--embedding", "word"], "has vectors of 24 numbers, and this checkpoint takes 32"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=named)
def test_a_dry_run_refuses_parts_that_do_not_go_together(
    run: Callable[..., Any], places: dict[str, str], words: list[str], told: str
) -> None:
    given = [places.get(word, word) for word in words]
    dry, real = run(*EDIT, *given, "--dry-run"), run(*EDIT, *given, "-o", "out.png")
    assert dry.exit_code == real.exit_code == 1
    assert told in real.stderr
    assert dry.stderr == real.stderr
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "sd"],
        ["-m", "sd", "--vae", "sd"],
        ["-m", "sd", "--text-encoder", "sd"],
        ["-m", "sd", "--lora", "sd-lora"],
        ["-m", "sd", "--embedding", "sd-word"],
        ["-m", "sd3", "--lora", "sd3-lora"],
        ["-m", "dev", "--lora", "kohya-lora"],
        ["-m", "unet", "--text-encoder", "sd"],
        ["-m", "transformer", "--text-encoder", "sd3"],
        ["-m", "of-dev", "--text-encoder", "dev"],
    ],
    ids=" ".join,
)
def test_a_dry_run_takes_parts_that_go_together(
    run: Callable[..., Any], places: dict[str, str], words: list[str]
) -> None:
    given = [places.get(word, word) for word in words]
    good(run(*EDIT, *given, "--dry-run"))
    good(run(*EDIT, *given, "-o", "out.png"))


def test_every_dry_run_puts_the_parts_together(run: Callable[..., Any], places: dict[str, str]) -> None:
    Path("photos").mkdir()
    shutil.copy("photo.png", "photos")
    for words in (
        ["compare", "photo.png", *WORDS, "--strength", "0.5,0.6"],
        ["remove", "photo.png", "--ref", "horse"],
        ["batch", "photos", "--ref", "horse", "--query", "zebra", "-o", "dataset"],
    ):
        refused = run(*words, "-m", places["sd"], "--vae", places["scaled"], "--dry-run")
        assert refused.exit_code == 1
        assert "it scales latents by 0.13025" in refused.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "a", "--width", "34"], "--width 34 does not fit this model"),
        (["generate", "a", "--width", "128", "--height", "32"], "draws at most 96 pixels a side"),
        (["interpolate", "a", "b", "--height", "34"], "--height 34 does not fit this model"),
        (["interpolate", "a", "b", "--width", "128", "--height", "32"], "draws at most 96 pixels a side"),
        ([*EDIT, "--size", "128"], "draws at most 96 pixels a side"),
        (["remove", "photo.png", "--ref", "horse", "--size", "128"], "draws at most 96 pixels a side"),
        (["compare", "photo.png", *WORDS, "--size", "32,128"], "draws at most 96 pixels a side"),
        (["compare", "--query", "a,b", "--size", "34"], "--width 34 does not fit this model"),
    ],
    ids=named,
)
def test_a_size_is_refused_before_the_model_is_loaded(
    run: Callable[..., Any],
    places: dict[str, str],
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("diffedit_cli.models.load_model", lambda **_: pytest.fail("the model was loaded"))
    out = "out.gif" if words[0] == "interpolate" else "out.png"
    refused = run(*words, "-m", places["sd3"], "-o", out)
    assert refused.exit_code == 2, refused.output
    assert told in refused.stderr


def test_a_film_between_texts_is_refused_before_the_model_is_loaded(
    run: Callable[..., Any], places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffedit_cli.models.load_model", lambda **_: pytest.fail("the model was loaded"))
    refused = run("interpolate", "a", "b", "-m", places["zimage"], "-o", "out.gif")
    assert refused.exit_code == 2
    assert "cannot interpolate between two texts" in refused.stderr
