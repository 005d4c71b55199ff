"""FLUX.2 klein, Chroma and Qwen-Image in files: the transformer alone, and with its other parts as files."""

import json
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import good, invoke
from conftest import put
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from flow_models import (
    CHROMA_SCHEDULER,
    DEV_SCHEDULER,
    QWEN_SCHEDULER,
    chroma_parts,
    klein_parts,
    qwen_image_parts,
    save_flow,
)
from flow_names import original, original_qwen_vae
from gguf import GGMLQuantizationType
from pictures import noise as picture
from safetensors.torch import load_file, save_file
from single_files import State, vae_key, with_prefix
from test_flow_layouts import FLUX2_VAE, QWEN_VAE
from test_fp8 import scaled
from test_gguf import write

from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError
from diffedit_cli.models import DiffusersDenoiser, describe, few_steps, flow_files, load_model, own_defaults
from diffedit_cli.models.families import SUITED
from diffedit_cli.models.foreseen import foresee
from diffedit_cli.models.networks import empty_network
from diffedit_cli.models.quantised import is_quantised
from diffedit_cli.models.vae import fill_vae, load_vae
from diffedit_cli.settings import ModelConfig

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PREFIX = "model.diffusion_model."
KINDS = {"chroma": "chroma", "klein": "flux2", "qwen": "qwenimage"}


def films(**config: Any) -> Any:
    """A VAE of Qwen-Image with the published blocks, which a file of the original code has."""
    vae = AutoencoderKLQwenImage(base_dim=4, **config)
    for weight in vae.parameters():
        if weight.dim() == 5:  # of films: they are made as zeros or next to nothing
            torch.nn.init.normal_(weight, std=0.05)
    return vae


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("families")
    one = {"attention_head_dim": 128, "num_attention_heads": 1, "axes_dims_rope": (16, 56, 56)}
    return {
        "chroma": save_flow(root / "chroma", chroma_parts(**one), CHROMA_SCHEDULER),
        "klein": save_flow(root / "klein", klein_parts(), DEV_SCHEDULER),
        "qwen": save_flow(root / "qwen", qwen_image_parts() | {"vae": films()}, QWEN_SCHEDULER),
    }


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path]) -> Callable[[str], DiffusersDenoiser]:
    models: dict[str, DiffusersDenoiser] = {}

    def of(name: str) -> DiffusersDenoiser:
        if name not in models:
            models[name] = load_model(folders[name], device="cpu")
        return models[name]

    return of


def load(model: Path, *texts: Path | str, **more: Any) -> DiffusersDenoiser:
    return load_model(model, text_encoder=tuple(map(str, texts)), device="cpu", **more)


def predicted(model: DiffusersDenoiser) -> torch.Tensor:
    latents = draw_noise((model.latent_channels, 8, 8), [1, 2])
    return model.predict(latents, torch.tensor([300.0, 900.0]), model.embed(["a horse", "a zebra"]))


def named(folder: Path) -> State:
    """A transformer's tensors by the original names; Chroma's, which are of full size only, by diffusers'."""
    state = load_file(folder / WEIGHTS)
    return state if folder.name == "chroma" else original(state, KINDS[folder.name])


def same(one: DiffusersDenoiser, other: DiffusersDenoiser) -> None:
    """To rounding, which depends on where the weights lie in memory."""
    ours, theirs = (model.embed(["a horse", "a zebra"]).tokens for model in (one, other))
    assert torch.equal(ours, theirs)
    assert torch.allclose(predicted(one), predicted(other), atol=1e-5)
    latents = draw_noise((one.latent_channels, 8, 8), [1])
    assert torch.allclose(one.decode(latents), other.decode(latents), atol=1e-5)
    assert torch.equal(one.schedule.sigmas(5, (8, 8)), other.schedule.sigmas(5, (8, 8)))
    assert (one.own_defaults, one.size) == (other.own_defaults, other.size)


@pytest.mark.parametrize(
    ("name", "names", "prefix"),
    [
        ("chroma", "diffusers", PREFIX),
        ("klein", "original", ""),
        ("klein", "diffusers", PREFIX),
        ("qwen", "diffusers", ""),
    ],
)
def test_a_transformer_with_the_rest_of_a_folder(
    name: str, names: str, prefix: str, folders: dict[str, Path], whole: Any, tmp_path: Path
) -> None:
    state = load_file(folders[name] / WEIGHTS)
    state = original(state, KINDS[name]) if names == "original" else state
    rest, alone = tmp_path / name, tmp_path / "alone.safetensors"
    shutil.copytree(folders[name], rest)
    (rest / WEIGHTS).unlink()  # it is not needed
    save_file(with_prefix(prefix, state), alone)
    same(load(alone, rest), whole(name))
    with pytest.raises(ModelError, match=r"alone.safetensors is a .* transformer") as caught:
        load(alone)
    assert "--text-encoder" in caught.value.hint
    assert ("qwen_3_4b or qwen_3_8b as a file" in caught.value.hint) == (name == "klein")
    save_file(with_prefix(prefix, state | {"more.weight": torch.ones(1)}), alone)
    with pytest.raises(ModelError, match=r"unknown tensors: more\.weight"):
        load(alone, rest)


@pytest.mark.parametrize("name", KINDS)
def test_quantised_transformers(name: str, folders: dict[str, Path], whole: Any, tmp_path: Path) -> None:
    state = named(folders[name])
    held = write(tmp_path / "it.gguf", state, GGMLQuantizationType.Q8_0, name)
    kept = load(tmp_path / "it.gguf", folders[name], low_memory=True)
    wanted = predicted(whole(name))
    assert (predicted(kept) - wanted).norm() < 0.03 * wanted.norm()
    network = kept.unet.held[0]
    assert is_quantised(network)
    eight, numbers = scaled(with_prefix(PREFIX, state), "scale_weight", PREFIX)
    save_file(eight, tmp_path / "it.safetensors")
    found = load(tmp_path / "it.safetensors", folders[name]).unet.state_dict()
    for weights, wanted in (
        (network.state_dict(), held),
        (found, {k[len(PREFIX) :]: x for k, x in numbers.items()}),
    ):
        own = weights if name == "chroma" else original(weights, KINDS[name])
        assert own.keys() == wanted.keys()
        assert all(torch.allclose(x, wanted[key], rtol=1e-6) for key, x in own.items())
    facts = describe(str(tmp_path / "it.gguf"))
    assert facts["networks"]["transformer"]["dtype"] == "Q8_0"
    assert facts["memory"]["kept"] < facts["memory"]["weights"]


def test_the_name_of_the_file_decides_and_then_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    def suited(file: str, rest: Path) -> str:
        name = next(name for name in KINDS if name == rest.name.removesuffix("-flash"))
        path = tmp_path / file
        shutil.copy(folders[name] / WEIGHTS, path)
        own = own_defaults(str(path), text_encoder=[str(rest)])
        few = few_steps(str(path), text_encoder=[str(rest)])
        found = next(one for one in SUITED.values() if one.defaults == own and one.name in ABOUT[name])
        assert (few is not None) == found.is_few_steps
        return found.name

    klein, flash = tmp_path / "klein", tmp_path / "chroma-flash"
    shutil.copytree(folders["klein"], klein)
    (klein / "model_index.json").write_text(json.dumps({"is_distilled": True}))
    flash.symlink_to(folders["chroma"])
    assert suited("my.safetensors", klein) == "FLUX.2 klein"
    assert suited("my.safetensors", folders["klein"]) == "FLUX.2 klein base"
    assert suited("flux-2-klein-4b-fp8.safetensors", folders["klein"]) == "FLUX.2 klein"
    assert suited("flux-2-klein-base-4b.safetensors", klein) == "FLUX.2 klein base"
    assert suited("Chroma1-HD.safetensors", flash) == "Chroma"
    assert suited("Chroma1-Flash-fp8_scaled.safetensors", folders["chroma"]) == "Chroma1-Flash"
    assert suited("qwen_image_fp8_e4m3fn.safetensors", folders["qwen"]) == "Qwen-Image"
    assert load(tmp_path / "my.safetensors", klein).own_defaults == SUITED["flux2-klein"].defaults
    assert describe(str(tmp_path / "flux-2-klein-4b-fp8.safetensors"))["kind"] == "FLUX.2 klein"


ABOUT = {
    "chroma": ("Chroma", "Chroma1-Flash"),
    "klein": ("FLUX.2 klein", "FLUX.2 klein base"),
    "qwen": ("Qwen-Image",),
}


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("qwen", "qwen_image_edit_2509_fp8_e4m3fn.safetensors", "is made for editing by instruction"),
        ("qwen", "qwen_image_layered_bf16.safetensors", "is made for drawing in layers"),
        ("klein", "flux-2-klein-9b-kv-fp8.safetensors", "is made for editing by instruction"),
        ("klein", "flux2_dev_fp8mixed.safetensors", r"is made for .* \(FLUX\.2 dev\)"),
        ("chroma", "Chroma1-Radiance-v0.2.safetensors", "is made for pixels"),
    ],
)
def test_models_for_other_tasks_are_refused(
    name: str, file: str, words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(folders[name] / WEIGHTS, tmp_path / file)
    for run in (
        lambda: load(tmp_path / file, folders[name]),
        lambda: load(tmp_path / file),
        lambda: describe(str(tmp_path / file)),
    ):
        with pytest.raises(ModelError, match=words):
            run()


def test_the_parts_of_another_family_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    refused = "is not a transformer of the same family"
    for name, other in permutations(KINDS, 2):
        with pytest.raises(ModelError, match=refused):  # before a weight is read
            foresee(ModelConfig(model=str(folders[name] / WEIGHTS), text_encoder=(str(folders[other]),)))
    with pytest.raises(ModelError, match=refused):
        load(folders["chroma"] / WEIGHTS, folders["klein"])
    state = load_file(folders["klein"] / WEIGHTS)
    state["x_embedder.weight"] = torch.cat([state["x_embedder.weight"]] * 2)
    save_file(state, tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="wrong shape: x_embedder"):
        load(tmp_path / "wide.safetensors", folders["klein"])


def as_files(folder: Path, place: Path) -> dict[str, Path]:
    """The networks of a folder, each in a file as ComfyUI has it."""
    kind = KINDS[folder.name]
    texts, vae = (load_file(next((folder / part).glob("*.safetensors"))) for part in ("text_encoder", "vae"))
    if kind == "qwenimage":
        vae = original_qwen_vae(vae)
    else:
        vae = {vae_key(key, 2): x[:, :, None, None] if is_attention(key, x) else x for key, x in vae.items()}
    if kind == "flux2":
        texts = with_prefix("model.", texts)
        vae = {nested(key): x for key, x in vae.items()}
        del vae["bn.num_batches_tracked"]
    networks: dict[str, State] = {"transformer": named(folder), "texts": texts, "vae": vae}
    for name, state in networks.items():
        save_file({key: x.contiguous() for key, x in state.items()}, place / f"{name}.safetensors")
    return {name: place / f"{name}.safetensors" for name in networks}


def is_attention(key: str, values: torch.Tensor) -> bool:
    return "attentions" in key and key.endswith("weight") and values.dim() == 2


def nested(key: str) -> str:
    if key.startswith("post_quant_conv."):
        return f"decoder.{key}"
    return f"encoder.{key}" if key.startswith("quant_conv.") else key


def small_configs(place: Path, chroma: Path) -> Path:
    """The configs of the package, with a small VAE of FLUX.1."""
    shutil.copytree(flow_files.CONFIGS, place)
    shutil.copy(chroma / "vae/config.json", place / "flux/vae/config.json")
    return place


@pytest.mark.parametrize("name", KINDS)
def test_all_parts_as_files(
    name: str,
    folders: dict[str, Path],
    whole: Any,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_files, "CONFIGS", small_configs(tmp_path / "configs", folders["chroma"]))
    files, small = as_files(folders[name], tmp_path), tmp_path / name
    shutil.copytree(folders[name], small, ignore=shutil.ignore_patterns("*.safetensors"))
    put(cache, small, f"someone/{name}")
    vae = {"vae": str(files["vae"])}
    model = load(files["transformer"], files["texts"], small, **vae)
    same(model, whole(name))
    assert model.origin["text_encoder"] == ["texts.safetensors", name]
    turns = load(
        files["transformer"], f"someone/{name}", files["texts"], **vae, offline=True, low_memory=True
    )
    assert torch.allclose(predicted(turns), predicted(whole(name)), atol=1e-5)
    with pytest.raises(ModelError, match="There is no VAE in"):
        load(files["transformer"], files["texts"], small)
    words = "holds T5 without" if name == "chroma" else "needs the small files of its checkpoint"
    with pytest.raises(ModelError, match=words) as caught:
        load(files["transformer"], files["texts"], **vae, offline=True)
    assert caught.value.hint


def test_other_vaes_are_refused(folders: dict[str, Path], whole: Any, tmp_path: Path) -> None:
    def refuse(path: Path, name: str, kind: str, words: str) -> None:
        with pytest.raises(ModelError, match=words):
            load_vae(path.name, path, whole(name).vae.config, kind)

    films(latents_mean=[0.5] * 16).save_pretrained(tmp_path / "other")
    refuse(tmp_path / "other", "qwen", "qwen_vae", "its latents have another mean or deviation")
    file, more = as_files(folders["klein"], tmp_path)["vae"], tmp_path / "more.safetensors"
    save_file(load_file(file) | {"encoder.more.weight": torch.ones(1)}, more)
    refuse(more, "klein", "flux2_vae", r"unknown tensors: encoder\.more\.weight")
    refuse(file, "chroma", "flow_vae", "missing or have the wrong shape")
    refuse(file, "qwen", "qwen_vae", "missing or have the wrong shape")
    with pytest.raises(ModelError, match="has a VAE of another class"):  # before a weight is read
        foresee(ModelConfig(model=str(folders["klein"]), vae=str(folders["qwen"])))


@pytest.mark.parametrize("kind", ["flux2_vae", "qwen_vae"])
def test_every_tensor_of_a_published_vae_in_a_file_finds_its_place(kind: str) -> None:
    config = FLUX2_VAE if kind == "flux2_vae" else QWEN_VAE
    state = empty_network("it", kind, config).state_dict()
    if kind == "qwen_vae":
        named = original_qwen_vae(state)
        assert "decoder.upsamples.7.time_conv.weight" in named
        assert "encoder.downsamples.0.residual.2.weight" in named
    else:
        named = {
            nested(vae_key(key, 4)): x[:, :, None, None] if is_attention(key, x) else x
            for key, x in state.items()
        }
    fill_vae("it", kind, config, dict(named))


def test_an_edit_and_its_rerun(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "it.gguf", named(folders["klein"]), GGMLQuantizationType.Q8_0, "flux2")
    picture(40, 30).save("photo.png")
    model = ("-m", "it.gguf", "--text-encoder", folders["klein"], "--device", "cpu")
    words = ("--ref", "horse", "--query", "zebra", "--steps", "2", "--mask-samples", "1", "--size", "32")
    good(invoke("edit", "photo.png", *words, *model, "--seed", "3", "-o", "out.png"))
    good(invoke("rerun", "out.png", *model, "-o", "again.png"))
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
