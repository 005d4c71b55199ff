"""What strangers' model folders can hold: refused in one sentence, at once, and nothing of it is run."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.spoilt_models import make_folder, outcome, try_one
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import MemoryShort, ModelError, SettingError, is_shortage
from diffedit_cli.models import describe, load_model, own_defaults
from diffedit_cli.models.networks import reading
from diffedit_cli.settings import ModelConfig, build

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change(path: Path, **new: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **new}))


def refuse(folder: Path, words: str) -> ModelError:
    """Loading and describing both refuse it, in one sentence and soon."""
    start = time.perf_counter()
    with pytest.raises(ModelError, match=words) as caught:
        load_model(folder, device="cpu")
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


CONFIGS = {
    "unet": [
        (dict(layers_per_block=10**6), "layers_per_block is out of bounds"),
        (dict(layers_per_block=[1, 10**6]), "layers_per_block is out of bounds"),
        (dict(layers_per_block=1.5), "layers_per_block is not a whole number"),
        (dict(transformer_layers_per_block=[[10**6]]), "cannot be loaded|out of bounds"),
        (dict(transformer_layers_per_block="many"), "not a whole number"),
        (dict(block_out_channels=[8] * 1000), "block_out_channels is out of bounds"),
        (dict(block_out_channels=[-16, 32]), "not a whole number"),
        (dict(sample_size="big"), "sample_size is not a whole number"),
        (dict(norm_num_groups=0), "not a whole number"),
        (dict(norm_num_groups=5), "cannot be loaded"),
        (dict(norm_eps=float("inf")), "norm_eps is out of bounds"),
        (dict(norm_eps=None), "norm_eps is not a number"),
        (dict(freq_shift="float32"), "freq_shift is not a number"),
        (dict(act_fn="exec"), "cannot be loaded"),
        (dict(down_block_types=["os.system"]), "cannot be loaded"),
        (dict(cross_attention_dim=64), "tensors are missing or have the wrong shape"),
        (dict(encoder_hid_dim=32), "more than a text"),
        (dict(attention_type="gated"), "more than a text"),
        (dict(quantization_config={"quant_method": "bitsandbytes"}), "quantisation"),
        (dict(_class_name="UNetSpatioTemporalConditionModel"), "another class"),
        (dict(in_channels=[9]), "another task"),
    ],
    "vae": [
        (dict(scaling_factor="0.5"), "scaling_factor is not a number"),
        (dict(scaling_factor=0), "scaling_factor is not a number"),
        (
            dict(latents_mean=[-1.6, 1.3, -0.3, 0.4], latents_std=[8.4, 5.9, 5.2, 6.1]),
            "VAE with latents_mean",
        ),
        (dict(shift_factor=0.1159), "VAE with shift_factor"),
        (dict(_class_name="AutoencoderTiny"), "another class"),
        (dict(layers_per_block=10**6), "out of bounds"),
        (dict(auto_map={"AutoModel": "net.Net"}), "code of its own"),
    ],
    "text_encoder": [
        (dict(num_hidden_layers=10**5), "num_hidden_layers is out of bounds"),
        (dict(num_hidden_layers=None), "cannot be loaded"),
        (dict(num_attention_heads=0), "not a whole number"),
        (dict(num_attention_heads=3), "cannot be loaded"),
        (dict(layer_norm_eps=None), "layer_norm_eps is not a number"),
        (dict(eos_token_id=[-1, 2]), "eos_token_id is not a number"),
        (dict(model_type="t5"), "another kind"),
        (dict(model_type="clip", text_config=3), "no text_config"),
        (dict(hidden_act="exec"), "cannot be loaded"),
        (dict(vocab_size=10**9), "vocab_size is out of bounds"),
        (dict(auto_map={"AutoModel": "net.Net"}), "code of its own"),
    ],
}


@pytest.mark.parametrize(
    ("part", "more", "words"),
    [(part, more, words) for part, cases in CONFIGS.items() for more, words in cases],
    ids=lambda value: str(value)[:50],
)
def test_configs_are_checked(copy: Path, part: str, more: dict[str, Any], words: str) -> None:
    change(copy / part / "config.json", **more)
    refuse(copy, words)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("unet/config.json", "[" * 100_000, "is invalid"),
        ("unet/config.json", '{"a":' * 100_000, "is invalid"),
        ("unet/config.json", "\udcff", "is invalid"),
        ("model_index.json", "3", "holds no settings"),
        ("diffedit.json", "[" * 100_000, "is invalid"),
        ("diffedit.json", '{"words": "horse"}', "words are not lists"),
        ("scheduler/scheduler_config.json", '{"_class_name": 3}', "not supported"),
        ("tokenizer/tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "a.B"}}', "code of its own"),
        ("tokenizer/tokenizer_config.json", '{"vocab_file": "/etc/passwd"}', "outside its folder"),
        ("tokenizer/tokenizer.json", "{}", "cannot be loaded"),
    ],
)
def test_small_files_are_checked(copy: Path, file: str, content: str, words: str) -> None:
    (copy / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    refuse(copy, words)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, "no weight_map"),
        ([UNET], "no weight_map"),
        ({}, "no weight_map"),
        ({"conv_in.weight": 3}, "outside its folder"),
        ({"conv_in.weight": "../other.safetensors"}, "outside its folder"),
        ({"conv_in.weight": "/etc/passwd"}, "outside its folder"),
        ({"conv_in.weight": "C:other.safetensors"}, "outside its folder"),
        ({"conv_in.weight": "gone.safetensors"}, r"lacks unet/gone\.safetensors"),
    ],
)
def test_the_index_of_several_files_is_checked(copy: Path, weight_map: Any, words: str) -> None:
    (copy / UNET).unlink()
    (copy / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    refuse(copy, words)


def test_no_attention_kernel_of_a_config_is_fetched(copy: Path, checkpoint: Path) -> None:
    change(copy / "text_encoder/config.json", attn_implementation="someone/kernels", _attn_implementation="x")
    model = load_model(copy, device="cpu")
    assert model.text_encoders[0].config._attn_implementation == "sdpa"
    plain = load_model(checkpoint, device="cpu")
    assert torch.equal(model.embed(["a horse"]).tokens, plain.embed(["a horse"]).tokens)


def test_an_adapter_in_a_part_is_refused(copy: Path) -> None:
    change(copy / "unet/adapter_config.json", base_model_name_or_path="/elsewhere")
    refuse(copy, "is an adapter")


def test_parts_of_different_checkpoints_are_refused(
    copy: Path, build_xl: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.rmtree(copy / "text_encoder")
    shutil.copytree(build_xl() / "text_encoder_2", copy / "text_encoder")
    refuse(copy, "missing or have the wrong shape|does not fit together|unknown tensors")


def test_tensors_that_are_not_understood_are_refused_by_name(copy: Path) -> None:
    weights = {name: values.clone() for name, values in load_file(copy / UNET).items()}
    for strange in ("conv_in.weight_scale_inv", "position_net.linears.0.weight"):
        save_file({**weights, strange: torch.ones(2)}, copy / UNET, metadata={"format": "pt"})
        refuse(copy, f"holds unknown tensors: {strange}")
    integers = {**weights, "conv_in.weight": weights["conv_in.weight"].to(torch.int8)}
    save_file(integers, copy / UNET, metadata={"format": "pt"})
    refuse(copy, r"quantised in a way that is not supported \(conv_in.weight\)")


@pytest.mark.parametrize("size", [None, 0, [16, 16], [16, 24]])
def test_a_native_size_of_any_form_is_read(copy: Path, size: Any) -> None:
    change(copy / "unet/config.json", sample_size=size)
    if size == 0:
        refuse(copy, "sample_size")
        return
    model = load_model(copy, device="cpu")
    assert model.size == describe(str(copy))["side"] == (32 if size else 2 * 64)


def test_a_tokenizer_without_a_length_takes_the_encoders(copy: Path, checkpoint: Path) -> None:
    file = copy / "tokenizer/tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["model_max_length"]
    file.write_text(json.dumps(config))
    prompts = ["a horse " * 40, ""]
    wanted = load_model(checkpoint, device="cpu").embed(prompts).tokens
    assert torch.equal(load_model(copy, device="cpu").embed(prompts).tokens, wanted)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(copy: Path) -> None:
    file = copy / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["horsefly</w>"] = 10**6
    file.write_text(json.dumps(content))
    refuse(copy, "more tokens than its text encoder")


def test_defaults_without_words_are_a_whole_card(copy: Path) -> None:
    (copy / "diffedit.json").write_text('{"defaults": {"strength": 0.7}}')
    model = load_model(copy, device="cpu")
    assert (model.words, model.own_defaults) == (None, {"strength": 0.7})
    assert own_defaults(str(copy)) == {"strength": 0.7}


def test_variants_can_be_mixed(copy: Path, checkpoint: Path) -> None:
    """Half of the published repositories have variants of some parts only."""
    plain = load_model(checkpoint, device="cpu").unet.state_dict()
    (copy / UNET).rename((copy / UNET).with_suffix(".fp16.safetensors"))
    for variant in (None, "fp16"):
        loaded = load_model(copy, device="cpu", variant=variant).unet.state_dict()
        assert all(torch.equal(values, plain[key]) for key, values in loaded.items())
    with pytest.raises(ModelError, match=r"has no unet/diffusion_pytorch_model\.ema") as caught:
        load_model(copy, device="cpu", variant="ema")
    assert caught.value.hint == "Use --variant fp16 or no --variant."


def test_a_part_with_several_variants_asks_for_one(copy: Path) -> None:
    file = copy / UNET
    for variant in ("fp16", "ema"):
        shutil.copy(file, file.with_suffix(f".{variant}.safetensors"))
    file.unlink()
    error = refuse(copy, "has no unet/diffusion_pytorch_model.safetensors")
    assert error.hint == "Use --variant with one of ema, fp16."


@pytest.mark.parametrize(
    "stored",
    [
        dict(lora=3),
        dict(lora=[3]),
        dict(model=None),
        dict(low_memory="yes"),
        dict(dtype="int4"),
        dict(dtype=["float32"]),
        dict(device=3),
        dict(revision=[1]),
        dict(compile=1),
    ],
)
def test_settings_of_a_model_are_checked(stored: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="--") as caught:
        build(ModelConfig, stored)
    assert caught.value.hint


def test_one_file_may_be_a_plain_string() -> None:
    assert ModelConfig(lora="a.safetensors").lora == ("a.safetensors",)  # type: ignore[arg-type]
    assert build(ModelConfig, {"embedding": "b.safetensors:ink"}).embedding == ("b.safetensors:ink",)


def test_unknown_settings_are_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match="no setting low_memroy") as caught:
        load_model("embedded", low_memroy=True)
    assert caught.value.hint == "Did you mean low_memory?"


@pytest.mark.parametrize("device", ["cpu:x", "cpu:7", "cuda:99", "mps:1", "cpu:", "meta", "CPU", "cpu:0:0"])
def test_devices_are_checked(device: str) -> None:
    with pytest.raises(ModelError, match="There is no device"):
        load_model("embedded", device=device)
    assert load_model("embedded", device="cpu:0").device.type == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive"),
        RuntimeError("unable to mmap 3438167 bytes from file <a.safetensors>: Cannot allocate memory (12)"),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        ImportError("scipy/linalg/a.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_short_memory_is_recognised(error: Exception) -> None:
    assert is_shortage(error)
    with pytest.raises(MemoryShort, match="too little memory to load it"), reading("it"):
        raise error
    assert not is_shortage(RuntimeError("the size of tensor a must match"))
    assert not is_shortage(ValueError("out of memory"))


def test_names_that_presets_have_are_theirs(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of such a name is given with a path, and every command reads the name in the same way."""
    monkeypatch.chdir(tmp_path)
    copy.rename("sd15")
    assert not describe("sd15")["is_here"]
    with pytest.raises(ModelError, match="sd15 is not in the Hub's cache"):
        load_model("sd15", offline=True)
    model = load_model("./sd15", device="cpu")
    assert (model.size, model.origin["model"], model.origin["model_is_local"]) == (32, "sd15", True)
    os.symlink("sd15", "embedded")
    assert load_model("embedded", device="cpu").origin["model"] == "embedded"


def test_the_home_folder_is_found(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = load_model("~/copy", device="cpu")
    assert (model.size, model.origin["model"], model.origin["model_is_local"]) == (32, "copy", True)
    with pytest.raises(ModelError, match="There is no model ~/gone"):
        load_model("~/gone", offline=True)


def test_settings_without_effect_are_noted(copy: Path) -> None:
    model = load_model("embedded", device="cpu", revision="main", variant="fp16")
    assert [notice.split(" does nothing")[0] for notice in model.notices] == ["--revision", "--variant"]
    assert (model.origin["revision"], model.origin["variant"]) == (None, None)


def test_a_missing_addition_is_found_before_the_network(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no file gone\.safetensors"):
        load_model("someone/something", lora="gone.safetensors")


def test_refused_checkpoints_leave_models_usable(copy: Path) -> None:
    change(copy / "unet/config.json", layers_per_block=10**6)
    refuse(copy, "out of bounds")
    model = load_model("embedded", device="cpu")
    x, t = draw_noise((4, 8, 8), [1]), torch.tensor([500])
    assert torch.isfinite(model.predict(x, t, model.embed(["horse"]))).all()


def test_mutations_of_a_folder_run_or_are_refused(tmp_path: Path) -> None:
    """30 of the 3,000 of benchmarks/spoilt_models.py, and those that were faults once."""
    whole = make_folder(tmp_path / "whole")
    assert outcome(whole) == "runs"
    found = [try_one(whole, tmp_path, seed) for seed in [*range(30), 39]]
    assert {*found} <= {"runs", "refused"}
    assert len({*found}) == 2


def test_the_commands_know_names_as_the_library_does(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder becomes an absolute one where it is stored; brackets are no markup."""
    from typer.testing import CliRunner

    from diffedit_cli.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = Path(shutil.copytree(checkpoint, tmp_path / "a [" / "b] model"))
    run = CliRunner().invoke
    told = run(app, ["models", "default", "./a [/b] model"])
    assert told.exit_code == 0, told.output
    assert str(folder) in told.stdout
    assert str(folder) in (tmp_path / "config/diffedit/config.toml").read_text()
    shown = run(app, ["models", "info", str(folder)])
    for words in ("Stable Diffusion 1.x", "epsilon", "DDIMScheduler, read as DDIM with leading timesteps"):
        assert words in shown.stdout
    made = run(
        app, ["generate", "a horse", "--steps", "1", "-m", "a [/b] model", "--seed", "1", "-o", "o.png"]
    )
    assert made.exit_code == 0, made.output
    spoilt = run(app, ["generate", "a horse", "-m", "gone [/b]/x", "-o", "p.png"])
    assert spoilt.exit_code == 1
    assert "There is no model gone [/b]/x." in spoilt.stderr
    assert "bug in diffedit" not in spoilt.stderr
