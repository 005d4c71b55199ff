"""The commands with flow-matching models: results, reruns to the byte, what is refused, spoilt folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import good, invoke
from conftest import put
from flow_models import (
    CHROMA_SCHEDULER,
    DEV_SCHEDULER,
    QWEN_SCHEDULER,
    SCHNELL_SCHEDULER,
    SD3_SCHEDULER,
    chroma_parts,
    flux_parts,
    klein_parts,
    qwen_image_parts,
    save_flow,
    sd3_parts,
    sd3_transformer,
    zimage_parts,
)
from pictures import box_mask, noise
from safetensors.torch import save_file

from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.images.read import read_settings
from diffedit_cli.models import describe, few_steps, load_model, own_defaults
from diffedit_cli.models.catalogue import cached_models
from diffedit_cli.models.hub import HubId, weights_to_fetch
from diffedit_cli.settings import EditConfig, GuidanceConfig, ModelConfig, filled_in

Run = Callable[..., Any]
WORDS = ["--ref", "horse", "--query", "zebra", "--mask-samples", "2", "--size", "32"]
EDIT = ["edit", "photo.png", *WORDS, "--steps", "3"]
COMMANDS = {
    "edit": [*EDIT, "-o", "out.png"],
    "edit with dpm++": [*EDIT, "--solver", "dpm++", "-o", "out.png"],
    "edit with lcm": [*EDIT, "--solver", "lcm", "-o", "out.png"],
    "edit with apg": [*EDIT, "--guidance-method", "apg", "-o", "out.png"],
    "edit from the reference": [*EDIT, "--inversion", "negative-prompt", "-o", "out.png"],
    "edit with flowedit": [*EDIT, "--inversion", "flowedit", "-o", "out.png"],
    "edit from noise": [*EDIT, "--inversion", "noise", "-o", "out.png"],
    "mask": ["mask", "photo.png", *WORDS, "-o", "out.png"],
    "remove": [
        *("remove", "photo.png", "--ref", "horse", "--mask", "own.png", "--size", "32", "--steps", "3"),
        *("-o", "out.png"),
    ],
    "generate": ["generate", "a horse", "--width", "32", "--height", "40", "--steps", "3", "-o", "out.png"],
    "interpolate": [
        *("interpolate", "a", "b", "--frames", "3", "--steps", "2", "--width", "32", "--height", "32"),
        *("-o", "out.gif"),
    ],
}
MADE: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "sd3.5": (sd3_parts, SD3_SCHEDULER, {}),
    "dev": (flux_parts, DEV_SCHEDULER, {"guidance_embeds": True}),
    "schnell": (flux_parts, SCHNELL_SCHEDULER, {}),
    "zimage": (zimage_parts, SD3_SCHEDULER, {}),
    "chroma": (chroma_parts, CHROMA_SCHEDULER, {}),
    "klein": (klein_parts, DEV_SCHEDULER, {}),
    "qwen": (qwen_image_parts, QWEN_SCHEDULER, {}),
}
SHARED = ("edit", "edit with flowedit", "generate")  # commands that show what a family has of its own


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of each family."""
    root = tmp_path_factory.mktemp("flow")
    return {
        name: save_flow(root / name, parts(**config), scheduler)
        for name, (parts, scheduler, config) in MADE.items()
    }


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a checkpoint that a test may spoil."""
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / f"copy-{name}"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    box_mask((40, 30), (0, 0, 20, 30)).save("own.png")
    return invoke


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, one) for name in MADE for one in (SHARED if name in ("chroma", "klein", "qwen") else COMMANDS)],
)
def test_a_rerun_gives_the_same_bytes(
    run: Run, folders: dict[str, Path], name: str, command: str, tmp_path: Path
) -> None:
    words, model = COMMANDS[command], ["--model", folders[name], "--device", "cpu"]
    if ("apg" in words and name == "dev") or (command == "interpolate" and name == "zimage"):
        pytest.skip("refused: see the table")
    good(run(*words, *model))
    out = Path(words[-1])
    again = [] if command != "remove" else ["--mask", "own.png"]
    good(run("rerun", out, *model, *again, "-o", f"again{out.suffix}"))
    assert Path(f"again{out.suffix}").read_bytes() == out.read_bytes()


def test_a_rerun_with_another_model_leaves_the_norm_of_the_first(
    run: Run, folders: dict[str, Path], checkpoint: Path
) -> None:
    good(run(*COMMANDS["generate"], "--model", folders["qwen"], "--device", "cpu"))
    assert (read_settings(Path("out.png")) or {})["guidance_norm"] == "token"
    good(run("rerun", "out.png", "--model", checkpoint, "--device", "cpu", "-o", "other.png"))
    assert (read_settings(Path("other.png")) or {})["guidance_norm"] == "none"
    good(run("rerun", "other.png", "--model", folders["qwen"], "--device", "cpu", "-o", "back.png"))
    assert (read_settings(Path("back.png")) or {})["guidance_norm"] == "token"


def test_a_rerun_with_another_model_keeps_a_norm_that_was_asked_for(
    run: Run, folders: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(folders["qwen"], tmp_path / "finetune")

    def norm(*words: Any) -> str:
        good(run(*words, "--overwrite", "--device", "cpu"))
        return (read_settings(Path(words[-1])) or {})["guidance_norm"]

    generate = COMMANDS["generate"][:-2]
    plain, own = ("--model", checkpoint), ("--model", folders["qwen"])
    assert norm(*generate, *own, "--guidance-norm", "none", "-o", "none.png") == "none"
    assert norm("rerun", "none.png", *own, "-o", "out.png") == "none"
    assert norm("rerun", "none.png", "--model", other, "-o", "out.png") == "none"
    assert norm(*generate, *plain, "--guidance-norm", "token", "-o", "token.png") == "token"
    assert norm("rerun", "token.png", *own, "-o", "out.png") == "token"
    assert norm(*generate, *own, "--guidance-scale", "1", "-o", "one.png") == "none"
    assert norm("rerun", "one.png", *own, "--guidance-scale", "3", "-o", "out.png") == "token"
    assert norm(*EDIT, *own, "--inversion", "flowedit", "-o", "flow.png") == "none"
    assert norm("rerun", "flow.png", *own, "--inversion", "noise", "-o", "out.png") == "token"


def test_the_defaults_are_the_families(folders: dict[str, Path], tmp_path: Path) -> None:
    assert own_defaults(str(folders["sd3.5"])) == {"steps": 40, "guidance_scale": 4.5}
    assert own_defaults(str(folders["dev"])) == {
        "steps": 28, "guidance_scale": 3.5, "guidance_method": "embedded",
    }  # fmt: skip
    schnell = {"steps": 4, "guidance_scale": 1.0, "inversion": "noise"}
    assert own_defaults(str(folders["schnell"])) == schnell
    assert own_defaults(str(folders["zimage"])) == {"steps": 50, "guidance_scale": 5.0}
    assert own_defaults(str(folders["chroma"])) == {"steps": 40, "guidance_scale": 3.0}
    assert own_defaults(str(folders["klein"])) == {"steps": 50, "guidance_scale": 4.0}
    qwen = {"steps": 50, "guidance_scale": 4.0, "guidance_norm": "token"}
    assert own_defaults(str(folders["qwen"])) == qwen
    assert few_steps(str(folders["dev"])) is None
    turbo = shutil.copytree(folders["sd3.5"], tmp_path / "stable-diffusion-3.5-large-turbo")
    flash = shutil.copytree(folders["chroma"], tmp_path / "Chroma1-Flash")
    klein = shutil.copytree(folders["klein"], tmp_path / "klein")
    (klein / "model_index.json").write_text('{"_class_name": "Flux2KleinPipeline", "is_distilled": true}')
    for folder, steps in ((folders["schnell"], 4), (turbo, 4), (flash, 8), (klein, 4)):
        found = few_steps(str(folder))
        assert found is not None
        assert found.defaults == {**schnell, "steps": steps}
    (folders["dev"] / "diffedit.json").write_text('{"defaults": {"steps": 9}}')
    assert own_defaults(str(folders["dev"]))["steps"] == 9
    assert load_model(folders["dev"], device="cpu").own_defaults["steps"] == 9
    (folders["dev"] / "diffedit.json").unlink()


def test_presets_have_their_defaults_before_they_are_fetched(cache: Path) -> None:
    assert own_defaults("sd3.5-medium") == {"steps": 40, "guidance_scale": 4.5}
    assert own_defaults("flux-dev")["guidance_method"] == "embedded"
    assert own_defaults("flux-schnell")["steps"] == 4
    assert few_steps("flux-schnell") is not None
    assert own_defaults("chroma") == {"steps": 40, "guidance_scale": 3.0}
    assert own_defaults("flux2-klein")["steps"] == 4
    assert own_defaults("qwen-image")["guidance_norm"] == "token"
    assert not describe("flux-dev")["is_here"]


def test_a_few_step_flow_says_what_it_runs_with(run: Run, folders: dict[str, Path]) -> None:
    words = ["edit", "photo.png", *WORDS, "--model", folders["schnell"], "--device", "cpu", "-o", "out.png"]
    told = " ".join(good(run(*words)).output.split())
    assert "runs as a few-step model (FLUX.1 schnell): --steps 4, --guidance-scale 1" in told
    stored = read_settings(Path("out.png"))
    assert stored is not None
    assert (stored["steps"], stored["inversion"], stored["guidance_scale"]) == (4, "noise", 1)


@pytest.mark.parametrize(
    ("name", "kind", "scheduler"),
    [
        ("sd3.5", "Stable Diffusion 3.5 medium", "shifted by 3"),
        ("dev", "FLUX.1 dev", "shifted by the size of the picture"),
        ("schnell", "FLUX.1 schnell", "shifted by 1"),
        ("zimage", "Z-Image", "shifted by 3"),
        ("chroma", "Chroma", "shifted by 3"),
        ("klein", "FLUX.2 klein base", "shifted by the size of the picture and the steps"),
        ("qwen", "Qwen-Image", "shifted by the size of the picture"),
    ],
)
def test_info_says_what_it_is(
    run: Run, folders: dict[str, Path], name: str, kind: str, scheduler: str
) -> None:
    told = good(run("models", "info", folders[name])).output
    assert kind in told
    assert scheduler in told
    assert "velocity" in told
    about = describe(str(folders[name]))
    assert about["side"] == (32 if name == "sd3.5" else 256)
    assert "transformer" in about["networks"]


# (model, what is asked, what is said): what has no meaning with a flow
REFUSED = [
    ("sd3.5", [*EDIT, "--timestep-spacing", "trailing"], "--timestep-spacing trailing cannot be used"),
    ("sd3.5", [*EDIT, "--guidance-method", "embedded"], "--guidance-method embedded cannot be used"),
    ("sd3.5", [*EDIT, "--backend", "openvino"], "OpenVINO cannot be used"),
    ("sd3.5", [*EDIT, "--embedding", "word.safetensors"], "--embedding cannot be used"),
    ("sd3.5", [*EDIT, "--steps", "1001"], "1001"),
    ("sd3.5", [*EDIT, "--inversion", "flowedit", "--solver", "dpm++"], "--solver dpm++ cannot be used"),
    ("sd3.5", [*EDIT, "--inversion", "flowedit", "--animate", "x.gif"], "A film cannot be made"),
    (
        "sd3.5",
        [*EDIT, "--reuse", "2", "--inversion-rounds", "1"],
        "--reuse above 1 cannot be used with --inversion-rounds",
    ),
    ("sd3.5", ["models", "optimize"], "OpenVINO cannot be used"),
    ("sd3.5", ["generate", "a", "--width", "34", "--steps", "1"], "--width 34 does not fit"),
    ("sd3.5", ["generate", "a", "--width", "128", "--height", "32"], "draws at most 96 pixels a side"),
    ("sd3.5", [*EDIT, "--compile"], "has no blocks that can be compiled"),
    ("zimage", ["interpolate", "a", "b", "--frames", "2"], "cannot interpolate between two texts"),
    ("zimage", [*EDIT, "--animate", "x.gif"], "cannot interpolate between two texts"),
    ("zimage", ["generate", "a", "--width", "260", "--height", "32"], "draws at most 256 pixels a side"),
    ("chroma", ["interpolate", "a", "b", "--frames", "2"], "cannot interpolate between two texts"),
    ("qwen", ["interpolate", "a", "b", "--frames", "2"], "cannot interpolate between two texts"),
    ("dev", [*EDIT, "--guidance-method", "apg"], "--guidance-method apg cannot be used"),
    ("dev", [*EDIT, "--guidance-method", "cfg"], "--guidance-method cfg cannot be used"),
    ("dev", ["generate", "a", "--guidance-method", "cfg"], "--guidance-method cfg cannot be used"),
    ("dev", [*EDIT, "--guidance-method", "cfg++"], "--guidance-method cfg++ cannot be used"),
    ("dev", [*EDIT, "--guidance-norm", "pred"], "--guidance-norm pred cannot be used"),
    ("dev", [*EDIT, "--guidance-rescale", "0.5"], "--guidance-rescale cannot be used"),
]


@pytest.mark.parametrize(("name", "words", "said"), REFUSED, ids=lambda value: str(value)[-60:])
def test_what_has_no_meaning_is_refused_in_one_sentence(
    run: Run, folders: dict[str, Path], name: str, words: list[str], said: str
) -> None:
    save_file({"emb_params": torch.zeros(1, 32)}, "word.safetensors")
    model = [folders[name]] if words[0] == "models" else ["--model", folders[name], "--device", "cpu"]
    out = "out.gif" if words[0] == "interpolate" else "out.png"
    done = run(*words, *model, *([] if words[0] == "models" else ["-o", out]))
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not Path(out).exists()


@pytest.mark.filterwarnings("default")  # torch.compile's own
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["chroma", "klein", "qwen"])
def test_a_compiled_transformer_predicts_the_same(folders: dict[str, Path], name: str) -> None:
    plain, compiled = (load_model(folders[name], device="cpu", compile=how) for how in (False, True))
    x, t = torch.randn(2, plain.latent_channels, 8, 12), torch.full((2,), 300.0)
    found, wanted = (one.predict(x, t, one.embed(["a zebra", "a horse"])) for one in (compiled, plain))
    assert torch.allclose(found, wanted, atol=1e-4)


def test_a_negative_prompt_is_noted_where_there_is_no_second_prediction(
    run: Run, folders: dict[str, Path]
) -> None:
    model = ["--model", folders["dev"], "--device", "cpu"]
    told = good(run(*EDIT, "--negative-prompt", "x", *model, "-o", "out.png")).output
    assert "--negative-prompt does nothing with a model that takes the guidance scale" in told
    assert (read_settings(Path("out.png")) or {})["negative_prompt"] == ""


def test_a_scale_of_1_leaves_the_method_to_the_model(run: Run, folders: dict[str, Path]) -> None:
    model = ["--model", folders["dev"], "--device", "cpu"]
    good(run(*EDIT, "--guidance-scale", "1", *model, "-o", "out.png"))
    assert (read_settings(Path("out.png")) or {})["guidance_method"] == "embedded"
    good(run("rerun", "out.png", *model, "-o", "again.png"))
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_a_result_of_another_model_leaves_the_method_to_this_one(
    run: Run, folders: dict[str, Path], checkpoint: Path
) -> None:
    good(run(*EDIT, "--model", checkpoint, "--device", "cpu", "-o", "out.png"))
    assert (read_settings(Path("out.png")) or {})["guidance_method"] == "cfg"
    good(run("rerun", "out.png", "--model", folders["dev"], "--size", 32, "--steps", 2, "-o", "again.png"))
    assert (read_settings(Path("again.png")) or {})["guidance_method"] == "embedded"


def test_flowedit_needs_a_flow(run: Run, checkpoint: Path) -> None:
    done = run(*EDIT, "--inversion", "flowedit", "--model", checkpoint, "--device", "cpu", "-o", "out.png")
    assert done.exit_code == 2
    assert "--inversion flowedit needs a flow-matching model" in done.output


def test_the_backend_is_torchs(run: Run, folders: dict[str, Path]) -> None:
    good(run(*EDIT, "--model", folders["sd3.5"], "--device", "cpu", "--backend", "auto", "-o", "out.png"))
    assert (read_settings(Path("out.png")) or {})["backend"] == "torch"


def test_a_scale_given_as_an_input_costs_one_forward_a_step(folders: dict[str, Path]) -> None:
    model = load_model(folders["dev"], device="cpu")
    filled = filled_in(EditConfig(), model.own_defaults)
    assert (filled.guidance.method, filled.guidance.scale, filled.steps) == ("embedded", 3.5, 28)
    with pytest.raises(SettingError, match="embedded"):
        filled_in(EditConfig(guidance=GuidanceConfig(method="embedded")), {})
    with pytest.raises(SettingError, match="rescale"):
        GuidanceConfig(method="embedded", rescale=0.5)


ALONE = ("sd3.5", "dev", "schnell", "zimage")  # whose transformers are read from files
TO_Q = "transformer_blocks.0.attn.to_q"
CLIP_Q = "encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("sd3.5", "peft"),
        ("dev", "peft"),
        ("dev", "kohya"),
        ("schnell", "alpha"),
        ("zimage", "transformer"),
        ("chroma", "transformer"),
        ("chroma", "kohya"),
        ("klein", "transformer"),
        ("klein", "kohya"),
        ("qwen", "transformer"),
        ("qwen", "lightning"),
        ("qwen", "alpha"),
        ("klein", "alpha"),
        ("zimage", "alpha"),
        ("sd3.5", "alpha"),
        ("chroma", "alpha"),
    ],
)
def test_a_lora_adds_its_product_to_the_weights(
    folders: dict[str, Path], tmp_path: Path, name: str, style: str
) -> None:
    pytest.importorskip("peft")
    plain = load_model(folders[name], device="cpu")
    networks = {"transformer": plain.unet, "text_encoder": plain.text_encoders[0]}
    clip_q = f"text_model.{CLIP_Q}" if hasattr(plain.text_encoders[0], "text_model") else CLIP_Q
    to_q = "layers.0.attention.to_q" if name == "zimage" else TO_Q
    places = [("transformer", to_q)] + ([("text_encoder", clip_q)] if style == "peft" else [])
    state: dict[str, torch.Tensor] = {}
    wanted: dict[tuple[str, str], torch.Tensor] = {}
    for net, place in places:
        weight = networks[net].get_submodule(place).weight
        down, up = torch.randn(4, weight.shape[1]), torch.randn(weight.shape[0], 4)
        share = 1.0
        if style == "kohya":  # of FLUX, whose to_q is a third of one product
            stem = "lora_unet_double_blocks_0_img_attn_qkv"
            state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up.repeat(3, 1)}
            state[f"{stem}.alpha"] = torch.tensor(2.0)
            share = 0.5
        elif style == "lightning":
            state |= {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up}
            state[f"{place}.alpha"], share = torch.tensor(2.0), 0.5
        else:
            state |= {f"{net}.{place}.lora_A.weight": down, f"{net}.{place}.lora_B.weight": up}
            if style == "alpha":
                state[f"{net}.{place}.alpha"], share = torch.tensor(2.0), 0.5
        wanted[net, place] = weight + 0.5 * share * up @ down
    save_file(state, tmp_path / "style.safetensors")
    lora, file = f"{tmp_path / 'style.safetensors'}:0.5", "transformer/diffusion_pytorch_model.safetensors"
    model = load_model(folders[name], device="cpu", lora=lora)
    loaded = [model]
    if name in ALONE:
        more = {"text_encoder": str(folders[name]), "low_memory": True}
        loaded.append(load_model(folders[name] / file, device="cpu", lora=lora, **more))
    for used in loaded:
        networks = {"transformer": used.unet, "text_encoder": used.text_encoders[0]}
        for (net, place), weight in wanted.items():
            assert torch.allclose(networks[net].get_submodule(place).weight, weight, atol=1e-5)
    assert model.unet.state_dict().keys() == plain.unet.state_dict().keys()


def test_a_lora_keeps_all_networks_in_memory_and_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    matrices = {f"transformer.{TO_Q}.lora_{end}.weight": torch.ones(32, 32) for end in "AB"}
    save_file(matrices, tmp_path / "style.safetensors")
    how: dict[str, Any] = {"device": "cpu", "lora": str(tmp_path / "style.safetensors")}
    told = f"With --lora --low-memory keeps all networks of {folders['dev']} in memory."
    assert told in load_model(folders["dev"], low_memory=True, **how).notices
    assert told not in load_model(folders["dev"], **how).notices


def test_a_lora_of_another_kind_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"unet.{layer}.lora_{end}.weight": torch.ones(4, 4) for end in "AB"}
    save_file(state, tmp_path / "sd.safetensors")
    for name in MADE:
        with pytest.raises(ModelError, match="fit") as caught:
            load_model(folders[name], device="cpu", lora=str(tmp_path / "sd.safetensors"))
        assert "another kind" in caught.value.hint


def test_a_lora_of_few_steps_keeps_the_levels_of_the_flow(folders: dict[str, Path]) -> None:
    own = own_defaults(str(folders["dev"]), lora=["Hyper-FLUX.1-dev-8steps-lora.safetensors:0.125"])
    assert own == {"steps": 8, "inversion": "noise", "guidance_scale": 3.5, "guidance_method": "embedded"}
    own = own_defaults(str(folders["qwen"]), lora=["Qwen-Image-Lightning-8steps-V2.0.safetensors"])
    assert own == {"steps": 8, "inversion": "noise", "guidance_scale": 1.0, "guidance_norm": "token"}


def test_without_t5_it_says_so(tmp_path: Path) -> None:
    model = load_model(save_flow(tmp_path, sd3_parts(has_t5=False), SD3_SCHEDULER), device="cpu")
    assert any("T5" in notice for notice in model.notices)


def test_a_prompt_is_as_long_as_t5_reads(folders: dict[str, Path]) -> None:
    model = load_model(folders["sd3.5"], device="cpu")
    assert not model.is_too_long("a" * 38)
    assert model.is_too_long("a" * 41)


@pytest.mark.parametrize(
    ("name", "pipeline", "folder", "told"),
    [
        ("dev", "FluxKontextPipeline", "mine", "for editing by instruction"),
        ("dev", "FluxPipeline", "FLUX.1-Kontext-dev", "for editing by instruction"),
        ("klein", "Flux2KleinKVPipeline", "mine", "for editing by instruction"),
        ("klein", "Flux2Pipeline", "mine", "for a text encoder that is not supported (FLUX.2 dev)"),
        ("qwen", "QwenImageEditPlusPipeline", "mine", "for editing by instruction"),
        ("qwen", "QwenImagePipeline", "Qwen-Image-Edit-2511", "for editing by instruction"),
        ("qwen", "QwenImageLayeredPipeline", "mine", "for drawing in layers"),
    ],
)
def test_a_model_for_another_task_is_refused(
    run: Run, folders: dict[str, Path], tmp_path: Path, name: str, pipeline: str, folder: str, told: str
) -> None:
    other = Path(shutil.copytree(folders[name], tmp_path / folder))
    (other / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    for words in (["models", "info", other], [*EDIT, "--dry-run", "--model", other]):
        done = run(*words)
        assert done.exit_code == 1
        assert f"is made {told}" in " ".join(done.output.split())
    with pytest.raises(ModelError, match="is made"):
        load_model(other, device="cpu")


def test_a_transformer_for_another_task_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "flux1-kontext-dev.safetensors"
    shutil.copy(folders["dev"] / "transformer/diffusion_pytorch_model.safetensors", file)
    with pytest.raises(ModelError, match="is made for editing by instruction"):
        load_model(file, text_encoder=str(folders["dev"]), device="cpu")


# ----------------------------------------------------------------------------------- spoilt folders


def change(path: Path, **new: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **new}))


CONFIGS = [
    ("sd3.5", "transformer", dict(num_layers=10**6), "num_layers is out of bounds"),
    ("sd3.5", "transformer", dict(num_layers=3), "missing or have the wrong shape"),
    ("sd3.5", "transformer", dict(pos_embed_max_size=10**5), "pos_embed_max_size is out of bounds"),
    ("sd3.5", "transformer", dict(attention_head_dim=[8]), "widths do not match"),
    ("sd3.5", "transformer", dict(caption_projection_dim=64), "widths do not match"),
    ("sd3.5", "transformer", dict(in_channels=33), "made for another task"),
    ("sd3.5", "transformer", dict(in_channels=[16]), "made for another task"),
    ("sd3.5", "transformer", dict(patch_size=4), "widths do not match"),
    ("sd3.5", "transformer", dict(qk_norm="exec"), "cannot be loaded"),
    ("sd3.5", "transformer", dict(dual_attention_layers="x"), "cannot be loaded"),
    ("sd3.5", "transformer", dict(_class_name="SanaTransformer2DModel"), "not supported"),
    ("sd3.5", "transformer", dict(_class_name=["SD3Transformer2DModel"]), "not supported"),
    ("sd3.5", "transformer", dict(auto_map={"AutoModel": "net.Net"}), "code of its own"),
    ("sd3.5", "transformer", dict(quantization_config={"quant_method": "x"}), "quantisation"),
    ("sd3.5", "text_encoder", dict(model_type="t5"), "not CLIP"),
    ("sd3.5", "text_encoder_3", dict(model_type="umt5"), "not T5"),
    ("sd3.5", "text_encoder_3", dict(d_ff=10**6), "d_ff is out of bounds"),
    ("sd3.5", "text_encoder_3", dict(num_layers=1.5), "num_layers is not a whole number"),
    ("sd3.5", "text_encoder_3", dict(layer_norm_epsilon=[1]), "cannot be loaded|not a number|bounds"),
    ("sd3.5", "text_encoder_3", dict(feed_forward_proj="gated-exec"), "cannot be loaded"),
    ("sd3.5", "text_encoder_3", dict(vocab_size=30), "wrong shape"),
    ("sd3.5", "vae", dict(shift_factor="0.1"), "shift_factor is not a number"),
    ("sd3.5", "vae", dict(scaling_factor=0), "scaling_factor is not a number"),
    ("sd3.5", "vae", dict(latents_mean=[0.1]), "latents_mean"),
    ("sd3.5", "vae", dict(latent_channels=4), "wrong shape|another network"),
    ("dev", "transformer", dict(in_channels=384, out_channels=64), "made for another task"),
    ("dev", "transformer", dict(axes_dims_rope=[4, 6, 8]), "widths do not match"),
    ("dev", "transformer", dict(axes_dims_rope=[3, 7, 6]), "widths do not match"),
    ("dev", "transformer", dict(axes_dims_rope=4), "widths do not match"),
    ("dev", "transformer", dict(num_single_layers=10**6), "num_single_layers is out of bounds"),
    ("dev", "transformer", dict(guidance_embeds=False), "unknown tensors"),
    ("schnell", "transformer", dict(guidance_embeds=True), "missing or have the wrong shape"),
    ("chroma", "transformer", dict(approximator_layers=10**6), "approximator_layers is out of bounds"),
    ("chroma", "transformer", dict(approximator_num_channels=16), "wrong shape"),
    ("chroma", "transformer", dict(axes_dims_rope=[4, 6, 8]), "widths do not match"),
    ("chroma", "transformer", dict(in_channels=128), "made for another task"),
    ("chroma", "text_encoder", dict(d_model=32), "another network|wrong shape"),
    ("klein", "transformer", dict(guidance_embeds=True), "FLUX.2 dev, which is not supported"),
    ("klein", "transformer", dict(axes_dims_rope=[4, 6, 6]), "widths do not match"),
    ("klein", "transformer", dict(in_channels=64), "made for another task"),
    ("klein", "transformer", dict(mlp_ratio="x"), "cannot be loaded"),
    ("klein", "text_encoder", dict(num_hidden_layers=27), "another network|wrong shape|unknown tensors"),
    ("klein", "transformer", dict(eps=-1), "eps is not above 0"),
    ("klein", "transformer", dict(rope_theta=[]), "rope_theta is not a number"),
    ("klein", "tokenizer", dict(model_max_length=-1), "model_max_length is too small"),
    ("qwen", "tokenizer", dict(model_max_length=20), "model_max_length is too small"),
    ("chroma", "tokenizer", dict(extra_ids=10**9), "extra_ids is out of bounds"),
    ("dev", "tokenizer_2", dict(model_max_length=0), "model_max_length is too small"),
    ("klein", "vae", dict(batch_norm_eps=0), "batch_norm_eps"),
    ("klein", "vae", dict(patch_size=[4, 4]), "patch_size"),
    ("klein", "vae", dict(_class_name="AutoencoderKL"), "another class"),
    ("qwen", "transformer", dict(zero_cond_t=True), "takes more than a text \\(zero_cond_t\\)"),
    ("qwen", "transformer", dict(axes_dims_rope=[4, 6, 8]), "widths do not match"),
    ("qwen", "transformer", dict(in_channels=128), "widths do not match"),
    ("qwen", "transformer", dict(joint_attention_dim=24), "another network|wrong shape"),
    ("qwen", "text_encoder", dict(model_type="qwen3"), "not Qwen2.5-VL"),
    ("qwen", "text_encoder", dict(text_config=3), "no text_config"),
    ("qwen", "text_encoder", dict(text_config={}), "not Qwen2.5-VL"),
    ("qwen", "text_encoder", dict(text_config={"model_type": "qwen2_5_vl_text"}), "not plain Qwen2.5-VL"),
    ("qwen", "vae", dict(latents_std=[0.0] * 16), "latents_std is not a list of 16 numbers"),
    ("qwen", "vae", dict(latents_mean=0.5), "latents_mean is not a list of 16 numbers"),
    ("qwen", "vae", dict(temperal_downsample=[]), "widths do not match"),
    ("qwen", "vae", dict(z_dim=8), "widths do not match"),
    ("zimage", "transformer", dict(n_layers=10**6), "n_layers is out of bounds"),
    ("zimage", "transformer", dict(axes_dims=[8, 12, 14]), "widths do not match"),
    ("zimage", "transformer", dict(axes_lens=512), "widths do not match"),
    ("zimage", "transformer", dict(all_patch_size=[2, 4]), "widths do not match"),
    ("zimage", "transformer", dict(dim=[64]), "widths do not match"),
    ("zimage", "transformer", dict(siglip_feat_dim=24), "takes pictures"),
    ("zimage", "transformer", dict(cap_feat_dim=32), "another network|wrong shape"),
    ("zimage", "text_encoder", dict(model_type="qwen2"), "not Qwen3"),
    ("zimage", "text_encoder", dict(rope_parameters={"rope_type": "yarn"}), "not plain Qwen3"),
    ("zimage", "text_encoder", dict(rope_parameters={"rope_theta": "x"}), "not a number|cannot be loaded"),
    ("zimage", "text_encoder", dict(rope_parameters={}, rope_theta=None), "not a number|cannot be loaded"),
    ("zimage", "text_encoder", dict(num_hidden_layers=10**4), "num_hidden_layers is out of bounds"),
    ("zimage", "text_encoder", dict(num_key_value_heads=0), "num_key_value_heads"),
]


@pytest.mark.parametrize(("name", "part", "more", "words"), CONFIGS, ids=lambda value: str(value)[:50])
def test_configs_are_checked(
    copy: Callable[[str], Path], name: str, part: str, more: dict[str, Any], words: str
) -> None:
    folder = copy(name)
    change(folder / part / ("tokenizer_config.json" if "tokenizer" in part else "config.json"), **more)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


SCHEDULERS = [
    (dict(_class_name="DDIMScheduler"), "not supported"),
    (dict(_class_name="FlowMatchHeunDiscreteScheduler"), "not supported"),
    (dict(shift=0), "shift is not a number"),
    (dict(shift="3"), "shift is not a number"),
    (dict(shift=float("inf")), "shift is not a number"),
    (dict(max_shift=True), "max_shift is not a number"),
    (dict(base_image_seq_len=4096), "not below"),
    (dict(num_train_timesteps=10**6), "num_train_timesteps"),
    (dict(use_dynamic_shifting="yes"), "neither true nor false"),
    (dict(use_beta_sigmas=True), "use_beta_sigmas"),
    (dict(invert_sigmas=True), "invert_sigmas"),
    (dict(shift_terminal=0.9), "shift_terminal is not a number"),
    (dict(time_shift_type="exec"), "time_shift_type"),
]


@pytest.mark.parametrize(("more", "words"), SCHEDULERS, ids=str)
def test_schedulers_are_checked(copy: Callable[[str], Path], more: dict[str, Any], words: str) -> None:
    folder = copy("dev")
    change(folder / "scheduler/scheduler_config.json", **more)
    for look in (lambda: load_model(folder, device="cpu"), lambda: describe(str(folder))):
        with pytest.raises(ModelError, match=words):
            look()


@pytest.mark.parametrize("part", ["vae", "text_encoder_2", "text_encoder_3", "tokenizer_3", "scheduler"])
def test_a_missing_part_is_named(copy: Callable[[str], Path], part: str) -> None:
    folder = copy("sd3.5")
    index = {
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"lacks {part}"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("index", [{}, {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}])
def test_t5_can_be_left_out(copy: Callable[[str], Path], index: dict[str, Any]) -> None:
    folder = copy("sd3.5")
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")
    assert any("T5" in notice for notice in load_model(folder, device="cpu").notices)


def test_a_checkpoint_in_the_cache_is_whole_or_said_not_to_be(cache: Path, folders: dict[str, Path]) -> None:
    put(cache, folders["sd3.5"], "someone/flow")
    put(cache, folders["dev"], "someone/part", leave_out="text_encoder_2")
    put(cache, folders["dev"], "someone/other")
    change(
        next(cache.glob("*other/snapshots/*/transformer/config.json")),
        _class_name="SanaTransformer2DModel",
    )
    assert load_model("someone/flow", device="cpu", offline=True).own_defaults["steps"] == 40
    assert {name for name, _ in cached_models()} == {"someone/flow", "someone/part"}
    with pytest.raises(ModelError, match=r"text_encoder_2/config\.json is missing"):
        load_model("someone/part", device="cpu", offline=True)


def test_all_parts_of_a_flow_are_fetched() -> None:
    files = [
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "flux1-dev.safetensors",
    ]
    found = weights_to_fetch(HubId("someone/flow", None, ("fp16", None)), files)
    assert sorted(found) == sorted({*files} - {files[2], files[-1]})


def test_text_encoders_of_another_checkpoint_are_refused(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, other = copy("sd3.5"), sd3_transformer(pooled_projection_dim=48)
    shutil.rmtree(folder / "transformer")
    other.save_pretrained(folder / "transformer")
    with pytest.raises(ModelError, match="text encoders are made for another network"):
        load_model(folder, device="cpu")


def test_fast_takes_fewer_steps_than_a_models_own(run: Run, folders: dict[str, Path]) -> None:
    """Only a model of fewer steps than those of --fast keeps its own."""
    for name, words, decode in (
        ("sd3.5", [], 12 + 6),
        ("schnell", [], 4),
        ("sd3.5", ["--steps", "2"], 2 + 1),
    ):
        model = ["--model", folders[name], "--strength", 1, "--inversion", "noise"]
        said = good(run("edit", "photo.png", *WORDS, "--fast", *words, *model, "--dry-run", "--json")).stdout
        assert json.loads(said)["forwards"]["decode"] == decode


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--inversion", "flowedit"], "needs a flow-matching model"),
        (["--lora", "nothere.safetensors"], "nothere.safetensors"),
        (["--text-encoder", "nothere.safetensors"], "There is no file nothere.safetensors"),
        (["-m", "./nothere"], "There is no model"),
        (["-m", "nothere.gguf"], "There is no file nothere.gguf"),
        (["-m", "sd3.5", "--vae", "x"], "There is no VAE x"),
        (["--vae", "x"], "There is no VAE x"),
        (["-m", "klein", "--vae", "sd3.5"], "has a VAE of another class (AutoencoderKL)"),
        (["-m", "qwen", "--vae", "sd3.5"], "has a VAE of another class (AutoencoderKL)"),
        (["-m", "sd3.5", "--timestep-spacing", "trailing"], "--timestep-spacing trailing cannot be used"),
        (["-m", "sd3.5", "--size", "128"], "draws at most 96 pixels a side"),
        (["-m", "zimage", "--size", "512"], "draws at most 256 pixels a side"),
        (["-m", "spoilt"], "lacks vae"),
        (["-m", "unet.safetensors"], "is not a whole Stable Diffusion"),
        (["--timestep-spacing", "lcm", "--steps", "60"], "--steps 60 is out of range for this model"),
        (["--device", "cuda:77"], "There is no device cuda:77"),
        (["--backend", "openvino", "--dtype", "float16"], "OpenVINO does not compute in float16"),
        (["-m", "sd3.5", "--backend", "openvino"], "OpenVINO cannot be used"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(
    run: Run, folders: dict[str, Path], checkpoint: Path, words: list[str], told: str
) -> None:
    shutil.copytree(checkpoint, "spoilt", ignore=shutil.ignore_patterns("vae"))
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}, "unet.safetensors")
    words = [str(folders.get(word, word)) for word in words]
    for command in (EDIT, ["compare", "photo.png", *WORDS, "--strength", "0.5,0.6"]):
        result = run(*command, *words, "--dry-run")
        assert result.exit_code in (1, 2)
        assert told in result.output


def test_every_dry_run_knows_the_model(run: Run, folders: dict[str, Path]) -> None:
    remove = ["remove", "photo.png", "--ref", "horse"]
    (Path("photos")).mkdir()
    shutil.copy("photo.png", "photos")
    batch = ["batch", "photos", "--ref", "horse", "--query", "zebra", "-o", "dataset"]
    for command, model, words, told in (
        (remove, "sd3.5", ["--size", "128"], "draws at most 96 pixels a side"),
        (remove, "sd3.5", ["--timestep-spacing", "lcm"], "--timestep-spacing lcm cannot be used"),
        (batch, "sd3.5", ["--timestep-spacing", "lcm"], "--timestep-spacing lcm cannot be used"),
        (batch, "sd3.5", ["--device", "cuda:77"], "There is no device cuda:77"),
        (["compare", "--prompt", "a,b"], "zimage", ["--size", "260"], "draws at most 256 pixels a side"),
        (["compare", "--prompt", "a,b"], "zimage", ["--size", "41"], "--width 41 does not fit this model"),
        (EDIT, "zimage", ["--animate", "x.gif"], "cannot interpolate between two texts"),
    ):
        result = run(*command, *words, "--model", folders[model], "--dry-run")
        assert result.exit_code in (1, 2), result.output
        assert told in result.output


def test_a_dry_run_says_which_pictures_are_too_long_for_a_model(run: Run, folders: dict[str, Path]) -> None:
    noise(160, 20).save("long.png")
    words = [*WORDS, "--size", "64", "--model", folders["sd3.5"], "--device", "cpu", "--steps", "2"]
    for more in (["--dry-run"], ["-o", "results"]):
        done = run("edit", "long.png", "photo.png", *words, *more)
        assert done.exit_code == 3
        assert "long.png: " in done.stderr
        assert "draws at most 96 pixels a side" in done.stderr
        assert "1 of 2 results failed" in done.stderr


def test_paper_takes_no_rounds(run: Run) -> None:
    Path("diffedit.toml").write_text("inversion_rounds = 2\n")
    said = good(run("edit", "photo.png", *WORDS, "--paper", "--dry-run", "--json")).stdout
    assert json.loads(said)["forwards"]["invert"] == 40  # 0.8 of 50 steps


def test_a_side_beyond_the_network_is_refused_before_the_work(folders: dict[str, Path]) -> None:
    model = load_model(folders["sd3.5"], device="cpu")
    with pytest.raises(SettingError, match="at most"):
        model.encode(torch.zeros(1, 3, 4096, 16))
    assert model.network_seconds == 0


def test_an_empty_file_is_none() -> None:
    assert ModelConfig(text_encoder=("",), lora="").text_encoder == ()
    assert ModelConfig(lora="").lora == ()
