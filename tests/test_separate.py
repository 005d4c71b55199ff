"""A UNet alone, with text encoders, VAE and schedule from elsewhere: folders, files and the hub's cache."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import put, save_parts
from safetensors.torch import load_file, save_file
from single_files import State, unet_key
from test_single_file import full_size, one_file, tiny, weightless

from diffedit_cli.batch.plan import identity
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError
from diffedit_cli.models import DiffusersDenoiser, describe, load_model, separate, single_file
from diffedit_cli.settings import ModelConfig

UNET = "model.diffusion_model."
LACKS = r"lacks a text encoder and a VAE|one network of several"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPTS = ["a horse", "a zebra"]
Kind = Callable[[str], tuple[Path, State]]


@pytest.fixture
def of_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """of_kind(kind): the folder of a tiny checkpoint, and its tensors in one file."""

    def make(kind: str) -> tuple[Path, State]:
        parts = tiny(kind)
        folder = save_parts(tmp_path / kind, parts, dict(set_alpha_to_one=kind == "sdxl"))
        for module in (single_file, separate):
            monkeypatch.setattr(module, "CONFIGS", tmp_path)
        return folder, one_file(kind, parts)

    return make


def load(model: Path | str, *texts: Path | str, **more: Any) -> DiffusersDenoiser:
    return load_model(model, text_encoder=tuple(map(str, texts)), device="cpu", **more)


def predicted(model: DiffusersDenoiser) -> torch.Tensor:
    return model.predict(draw_noise((4, 8, 8), [1, 2]), torch.tensor([10, 900]), model.embed(PROMPTS))


def same(one: DiffusersDenoiser, other: DiffusersDenoiser) -> None:
    latents = draw_noise((4, 8, 8), [1])
    assert torch.equal(predicted(one), predicted(other))
    assert torch.equal(one.decode(latents), other.decode(latents))
    assert one.schedule.alphas_cumprod.equal(other.schedule.alphas_cumprod)
    assert one.schedule.final_alpha == other.schedule.final_alpha
    assert one.is_v_prediction == other.is_v_prediction


def unet_of(state: State, prefix: str = "") -> State:
    return {prefix + key.removeprefix(UNET): x for key, x in state.items() if key.startswith(UNET)}


@pytest.fixture
def apart(tmp_path: Path) -> Callable[..., Path]:
    """apart(folder): a copy of a checkpoint's folder without its UNet; apart(folder, "unet"): that alone."""

    def make(folder: Path, *parts: str) -> Path:
        place = tmp_path / f"apart-{'-'.join(parts)}"
        for part in parts or [path.name for path in folder.iterdir() if path.name != "unet"]:
            shutil.copytree(folder / part, place / part)
        return place

    return make


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_tensor_of_a_full_size_unet_finds_its_place(kind: str) -> None:
    unet = full_size(kind)["unet"]
    up = ["Attn" in block for block in unet.config.up_block_types]
    names = {key: unet_key(key, unet.config.layers_per_block, up) for key in unet.state_dict()}
    for state in ({key: weightless(x) for key, x in unet.state_dict().items()}, None):
        seen = state or {names[key]: weightless(x) for key, x in unet.state_dict().items()}
        seen = single_file.with_prefix(seen)
        assert single_file.recognise(kind, seen, has_own_vae=False, has_own_texts=False) == kind
        parts = single_file.convert(kind, seen, kind, torch.float32)  # a gap is refused
        shapes = {key: values.shape for key, values in parts.unet.state_dict().items()}
        assert shapes == {key: values.shape for key, values in unet.state_dict().items()}


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_unet_in_a_file(kind: str, of_kind: Kind, apart: Callable[..., Path], tmp_path: Path) -> None:
    folder, state = of_kind(kind)
    whole, rest = load_model(folder, device="cpu"), apart(folder)
    save_file(state, tmp_path / "all.safetensors")
    in_one = load_model(tmp_path / "all.safetensors", device="cpu")
    for name, weights in {
        "bare": unet_of(state),
        "prefixed": unet_of(state, UNET),
        "diffusers": load_file(folder / "unet" / WEIGHTS),
    }.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(weights, path)
        same(load(path, rest), whole)
        same(load(path, folder), whole)
        same(load(path, tmp_path / "all.safetensors"), in_one)
        assert describe(str(path))["lacks"] == ["text encoders (--text-encoder)", "VAE (--vae)"]
        with pytest.raises(ModelError, match=LACKS) as caught:
            load(path)
        assert "--text-encoder" in caught.value.hint


def test_a_unet_in_a_folder(of_kind: Kind, apart: Callable[..., Path], tmp_path: Path) -> None:
    folder, _ = of_kind("sdxl")
    whole, rest, unet = load_model(folder, device="cpu"), apart(folder), apart(folder, "unet")
    same(load(unet, rest), whole)
    same(load(unet / "unet", rest), whole)
    used = load(unet, rest)
    assert (used.origin["model"], used.origin["text_encoder"]) == ("apart-unet", ["apart-"])
    (unet / "unet" / WEIGHTS).rename(unet / "unet/diffusion_pytorch_model.fp16.safetensors")
    same(load(unet, rest), whole)
    same(load(unet, rest, variant="fp16"), whole)
    shutil.rmtree(rest / "vae")
    with pytest.raises(ModelError, match=r"no VAE in .*apart-unet, nor in") as caught:
        load(unet, rest)
    assert "--vae" in caught.value.hint
    same(load(unet, rest, vae=str(folder / "vae")), whole)
    for alone in (unet, unet / "unet"):
        with pytest.raises(ModelError, match="lacks") as caught:
            load(alone)
        assert "Or add --text-encoder to a UNet alone." in caught.value.hint
    (unet / "unet/config.json").unlink()
    with pytest.raises(ModelError, match="holds no UNet"):
        load(unet, rest)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_text_encoders_as_files(kind: str, of_kind: Kind, tmp_path: Path) -> None:
    folder, state = of_kind(kind)
    save_file(unet_of(state), tmp_path / "unet.safetensors")
    texts = [tmp_path / f"{part}.safetensors" for part in ("text_encoder_2", "text_encoder")]
    for path in [path for path in texts if (folder / path.stem).is_dir()]:
        shutil.copy(folder / path.stem / "model.safetensors", path)
    used = [path for path in texts if path.is_file()]
    with pytest.raises(ModelError, match=r"unet.safetensors lacks a VAE") as caught:
        load(tmp_path / "unet.safetensors", *used)
    assert "--vae" in caught.value.hint
    same(
        load(tmp_path / "unet.safetensors", *used, vae=str(folder / "vae")), load_model(folder, device="cpu")
    )
    same(load(folder / "unet", *used, vae=str(folder / "vae")), load_model(folder, device="cpu"))
    if kind == "sdxl":
        with pytest.raises(ModelError, match=r"not the text encoder of Stable Diffusion 1.x or 2.x"):
            load(tmp_path / "unet.safetensors", used[0], vae=str(folder / "vae"))


def test_the_hubs_cache(of_kind: Kind, apart: Callable[..., Path], cache: Path, tmp_path: Path) -> None:
    folder, _ = of_kind("sd1")
    whole = load_model(folder, device="cpu")
    with pytest.raises(ModelError, match="someone/unet is not in the Hub's cache"):
        load("someone/unet", folder, offline=True)
    put(cache, apart(folder, "unet"), "someone/unet")
    put(cache, folder, "someone/whole", leave_out=WEIGHTS)  # the VAE's too
    for file in cache.rglob("model_index.json"):
        if "unet" in str(file):
            file.unlink()
    with pytest.raises(ModelError, match="someone/whole"):
        load("someone/unet", "someone/whole", offline=True)
    snapshot = next(cache.glob("models--someone--whole/snapshots/*"))
    shutil.copy(folder / "vae" / WEIGHTS, snapshot / "vae" / WEIGHTS)
    used = load("someone/unet", "someone/whole", offline=True)  # without the weights of its UNet
    same(used, whole)
    assert used.origin["text_encoder"] == ["someone/whole"]
    with pytest.raises(ModelError, match="Only a part of someone/unet"):
        load("someone/unet", offline=True)


def test_other_text_encoders_of_a_whole_checkpoint(
    of_kind: Kind, build: Callable[..., Path], tmp_path: Path
) -> None:
    folder, state = of_kind("sd1")
    torch.manual_seed(1)
    save_parts(tmp_path / "other", tiny("sd1"), dict(prediction_type="v_prediction"))
    other, own = load_model(tmp_path / "other", device="cpu"), load_model(folder, device="cpu")
    save_file(state, tmp_path / "all.safetensors")
    for path in (folder, tmp_path / "all.safetensors"):
        used = load(path, tmp_path / "other")
        latents = draw_noise((4, 8, 8), [1])
        assert torch.equal(used.embed(PROMPTS).tokens, other.embed(PROMPTS).tokens)
        assert torch.equal(used.decode(latents), own.decode(latents))
        assert not used.is_v_prediction
        eps = [model.predict(latents, torch.tensor([500]), other.embed(["a"])) for model in (used, own)]
        assert torch.allclose(*eps, atol=1e-5)


def test_the_schedule_is_that_of_the_rest_unless_the_file_tells(of_kind: Kind, tmp_path: Path) -> None:
    folder, state = of_kind("sd1")
    save_parts(tmp_path / "v", tiny("sd1"), dict(prediction_type="v_prediction"))
    save_file(unet_of(state), tmp_path / "unet.safetensors")
    save_file(
        {**unet_of(state), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "v.safetensors"
    )
    assert load(tmp_path / "unet.safetensors", tmp_path / "v").is_v_prediction
    told = load(tmp_path / "v.safetensors", folder)
    assert told.is_v_prediction
    assert told.schedule.alphas_cumprod[-1] < 1e-5


def test_what_does_not_fit_is_refused(of_kind: Kind, tmp_path: Path) -> None:
    folder, state = of_kind("sd1")
    xl, _ = of_kind("sdxl")
    save_file(unet_of(state), tmp_path / "unet.safetensors")
    (tmp_path / "empty").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "none.safetensors")
    for texts, words in (
        ([xl], "does not fit together: the text is 72 wide, and its UNet takes 32"),
        ([tmp_path / "empty"], "holds no text encoder"),
        ([tmp_path / "none.safetensors"], "holds no text encoder of CLIP"),
        ([folder, folder], "is a folder, so no other"),
        ([folder / "text_encoder/model.safetensors"] * 2, "do not make up the text encoders"),
        (["nothing"], "There is no model nothing"),
        ([tmp_path / "gone.safetensors"], "There is no file"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            load(tmp_path / "unet.safetensors", *texts)
        assert caught.value.hint


def test_a_batch_knows_its_text_encoder(of_kind: Kind, tmp_path: Path) -> None:
    folder, state = of_kind("sd1")
    save_file(unet_of(state), tmp_path / "unet.safetensors")
    known = identity(ModelConfig(model=str(tmp_path / "unet.safetensors"), text_encoder=(str(folder),)))
    assert known["addons"][0].startswith("sd1 ")


def test_openvino_runs_the_text_encoder_that_is_given(
    of_kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, state = of_kind("sd1")
    torch.manual_seed(1)
    save_parts(tmp_path / "other", tiny("sd1"), {})
    save_file(unet_of(state), tmp_path / "unet.safetensors")
    for texts in (folder, tmp_path / "other"):
        runs = [
            load(tmp_path / "unet.safetensors", texts, backend=backend, dtype="float32")
            for backend in ("openvino", "torch")
        ]
        assert runs[0].origin["backend"] == "openvino"
        assert torch.allclose(*(model.embed(PROMPTS).tokens for model in runs), atol=1e-4)
        assert torch.allclose(*map(predicted, runs), atol=1e-3)


def shard(folder: Path, stem: str, variant: str = "") -> list[Path]:
    """Lay the weights of a network into two files with an index, as large ones are published."""
    end = f".{variant}" if variant else ""
    state = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    names = sorted(state)
    files = [f"{stem}{end}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map: dict[str, str] = {}
    for i, file in enumerate(files):
        part = {key: state[key] for key in names[i::2]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = f"{stem}.safetensors.index{end}.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [folder / file for file in files]


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_networks_in_several_files(variant: str, build_xl: Callable[..., Path]) -> None:
    whole, folder = build_xl(), build_xl()
    files = [
        file
        for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder_2", "model"))
        for file in shard(folder / part, stem, variant)
    ]
    same(load_model(folder, device="cpu", variant=variant or None), load_model(whole, device="cpu"))
    facts, wanted = describe(str(folder), variant=variant or None), describe(str(whole))
    assert facts["networks"] == wanted["networks"]
    for file in files:
        file.rename(file.with_suffix(".away"))
        for run in (load_model, describe):
            with pytest.raises(ModelError, match=rf"lacks {file.parent.name}/{file.name}") as caught:
                run(str(folder), variant=variant or None)
            assert caught.value.hint == "Fetch it again."
        file.with_suffix(".away").rename(file)


def test_a_folder_of_one_variant_says_which(build: Callable[..., Path]) -> None:
    folder, whole = build(), build()
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    with pytest.raises(ModelError, match=r"has no unet/diffusion_pytorch_model.safetensors") as caught:
        load_model(folder, device="cpu")
    assert caught.value.hint == "Use --variant fp16."
    same(load_model(folder, device="cpu", variant="fp16"), load_model(whole, device="cpu"))
