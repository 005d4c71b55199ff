"""Flow-matching models in files: text encoders and a VAE beside a transformer, and checkpoints in one."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import put, tiny_text_encoder
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from flow_models import (
    DEV_SCHEDULER,
    SD3_SCHEDULER,
    flow_vae,
    flux_parts,
    flux_transformer,
    save_flow,
    sd3_parts,
    sd3_transformer,
    t5_encoder,
    t5_tokenizer,
    zimage_parts,
)
from flow_names import original
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map, quants
from pictures import noise as picture
from PIL import Image
from safetensors.torch import load_file, save_file
from single_files import clip, with_prefix
from test_flow_layouts import CHROMA, CLIP_G, DEV, MEDIUM, SD3, T5_XXL
from test_gguf import Q8
from test_vae import original as original_vae
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError
from diffedit_cli.models import DiffusersDenoiser, check, describe, flow_files, load_model, single_file
from diffedit_cli.models.clip_tokenizer import clip_tokenizer
from diffedit_cli.models.families import SUITED
from diffedit_cli.models.flow_files import find_files, load_encoder, load_own_vae, load_transformer
from diffedit_cli.models.networks import empty_network, read_config
from diffedit_cli.models.presets import PRESETS
from diffedit_cli.models.t5_words import t5_name
from diffedit_cli.settings import ModelConfig

UNET = "diffusion_pytorch_model.safetensors"
PROMPTS = ["a horse", "a zebra"]
State = dict[str, Tensor]


def clip_g() -> Any:
    return tiny_text_encoder(
        CLIPTextModelWithProjection, clip_tokenizer(), hidden_size=40, projection_dim=40, hidden_act="gelu"
    )


def clip_l(kind: Any) -> Any:
    """As it is published: without a projection, which is that of no change where a network wants one."""
    encoder = tiny_text_encoder(kind, clip_tokenizer(), projection_dim=32)
    if kind is CLIPTextModelWithProjection:
        torch.nn.init.eye_(encoder.text_projection.weight)
    return encoder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny checkpoints, sd3 and flux, and the configs of their text encoders as those of XL."""
    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("models"), clip_tokenizer()
    small, projecting, large = clip_l(CLIPTextModel), clip_l(CLIPTextModelWithProjection), clip_g()
    for part, encoder in (("text_encoder", small), ("text_encoder_2", large)):
        encoder.config.save_pretrained(folder / "sdxl" / part)
    one = {"attention_head_dim": 128, "num_attention_heads": 1, "axes_dims_rope": (16, 56, 56)}
    sd3 = sd3_parts() | {
        "transformer": sd3_transformer(joint_attention_dim=96, pooled_projection_dim=72, sample_size=128),
        "text_encoder": projecting,
        "text_encoder_2": large,
        "text_encoder_3": t5_encoder(96),
        "tokenizer": words,
        "tokenizer_2": clip_tokenizer("!"),
    }
    flux = flux_parts() | {
        "transformer": flux_transformer(guidance_embeds=True, **one),
        "text_encoder": small,
        "tokenizer": words,
    }
    save_flow(folder / "sd3", sd3, SD3_SCHEDULER)
    save_flow(folder / "flux", flux, DEV_SCHEDULER)
    return folder


@pytest.fixture(autouse=True)
def configs(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (single_file, flow_files):
        monkeypatch.setattr(module, "CONFIGS", models)


@pytest.fixture
def sd3(models: Path) -> Path:
    return models / "sd3"


@pytest.fixture
def flux(models: Path) -> Path:
    return models / "flux"


def weights(folder: Path) -> State:
    return load_file(next(folder.glob("*.safetensors")))


def networks_of(folder: Path) -> dict[str, State]:
    """The tensors of a folder's networks, as files that people have name them."""
    kind = folder.name
    transformer = weights(folder / "transformer")
    found = {
        "transformer": transformer if kind == "flux" else original(transformer, kind),
        "vae": original_vae(AutoencoderKL.from_pretrained(folder / "vae")),
    }
    if kind == "zimage":
        return found | {"qwen3": with_prefix("model.", weights(folder / "text_encoder"))}
    found |= {
        "clip_l": clip(weights(folder / "text_encoder")),
        "t5": weights(folder / ("text_encoder_3" if kind == "sd3" else "text_encoder_2")),
    }
    if kind == "sd3":
        del found["clip_l"]["text_model.text_projection.weight"]
        found["clip_g"] = clip(weights(folder / "text_encoder_2"))
        projection = found["clip_g"].pop("text_model.text_projection.weight")
        found["clip_g"]["text_projection.weight"] = projection
    return found


def laid_out(folder: Path) -> dict[str, str]:
    """Each network in a file of its own."""
    networks = networks_of(folder)
    paths = {name: str(folder.parent / f"{folder.name}-{name}.safetensors") for name in networks}
    for name, state in networks.items():
        if not Path(paths[name]).exists():
            save_file({key: x.contiguous() for key, x in state.items()}, paths[name])
    return paths


def in_one(folder: Path, *parts: str) -> State:
    """Networks in one file, as ComfyUI writes it."""
    prefixes = {
        "transformer": "model.diffusion_model.",
        "vae": "first_stage_model." if folder.name == "sd3" else "vae.",
        "clip_l": "text_encoders.clip_l.transformer.",
        "clip_g": "text_encoders.clip_g.transformer.",
        "t5": "text_encoders.t5xxl.transformer.",
        "qwen3": "text_encoders.qwen3_4b.transformer.",
    }
    networks = networks_of(folder)
    state = {"text_encoders.clip_l.logit_scale": torch.ones(1)}
    for part in parts or networks:
        state |= with_prefix(prefixes[part], networks[part])
    return {key: x.clone().contiguous() for key, x in state.items()}


def load(model: Path | str, *texts: Path | str, **more: Any) -> DiffusersDenoiser:
    return load_model(model, text_encoder=tuple(map(str, texts)), device="cpu", **more)


def same(one: DiffusersDenoiser, other: DiffusersDenoiser) -> None:
    latents, cells = draw_noise((16, 8, 8), [1]), (8, 8)
    ours, theirs = (model.embed(PROMPTS) for model in (one, other))
    assert torch.equal(ours.tokens, theirs.tokens)
    assert ours.pooled is not None
    assert theirs.pooled is not None
    assert torch.equal(ours.pooled, theirs.pooled)
    own, wanted = (model.unet.state_dict() for model in (one, other))
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[key], wanted[key]) for key in wanted)
    predicted = (
        model.predict(latents, torch.tensor([300.0]), embeds.row(0))
        for model, embeds in ((one, ours), (other, theirs))
    )
    assert torch.allclose(*predicted, atol=1e-5)  # rounding depends on where the weights lie in memory
    assert torch.equal(one.decode(latents), other.decode(latents))
    assert torch.equal(one.schedule.sigmas(5, cells), other.schedule.sigmas(5, cells))
    assert [tokenizer.model_max_length for tokenizer in one.tokenizers][:1] == [77]
    assert (one.size, one.own_defaults) == (other.size, other.own_defaults)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_text_encoders_and_a_vae_as_files(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    whole, files = load_model(folder, device="cpu"), laid_out(folder)
    texts = [files[name] for name in ("t5", "clip_g", "clip_l") if name in files]
    model = load(files["transformer"], *texts, folder, vae=files["vae"])
    same(model, whole)
    assert model.origin["text_encoder"] == [*(Path(text).name for text in texts), folder.name]
    same(load(files["transformer"], *texts[::-1], folder, vae=str(folder / "vae" / UNET)), whole)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_whole_checkpoint_in_one_file(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(kind)
    whole, path = load_model(folder, device="cpu"), tmp_path / "all.safetensors"
    save_file(in_one(folder), path)
    same(load(path, folder), whole)
    facts = describe(str(path))
    assert facts["lacks"] == []
    assert facts["kind"] == describe(str(folder))["kind"]
    assert {*facts["networks"]} == {*laid_out(folder)}
    assert facts["parameters"] == sum(x.numel() for x in load_file(path).values()) - 1


def test_sd3_without_t5(sd3: Path, tmp_path: Path) -> None:
    files = laid_out(sd3)
    bare = tmp_path / "bare/sd3"
    shutil.copytree(sd3, bare, ignore=shutil.ignore_patterns("*_3"))
    whole, path = load_model(bare, device="cpu"), tmp_path / "all.safetensors"
    save_file(in_one(sd3, "transformer", "vae", "clip_l", "clip_g"), path)
    for model in (
        load(files["transformer"], files["clip_l"], files["clip_g"], vae=files["vae"]),
        load(path),
    ):
        same(model, whole)
        assert "comes without T5" in model.notices[0]
    same(load(path, files["t5"], sd3), load_model(sd3, device="cpu"))  # T5 is added
    save_file(in_one(sd3, "transformer", "vae"), path)  # as sd3_medium.safetensors is
    same(load(path, files["clip_g"], files["clip_l"], files["t5"], sd3), load_model(sd3, device="cpu"))
    assert describe(str(path))["lacks"] == ["text encoders (--text-encoder)"]


def test_qwen3_and_a_vae_as_files_of_zimage(models: Path, cache: Path, tmp_path: Path) -> None:
    folder = save_flow(tmp_path / "zimage", zimage_parts(), SD3_SCHEDULER)
    whole, networks = load_model(folder, device="cpu"), networks_of(folder)
    small = tmp_path / "small"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns("*.safetensors"))
    paths = {name: tmp_path / f"{name}.safetensors" for name in networks}
    for name, state in networks.items():
        save_file({key: x.contiguous() for key, x in state.items()}, paths[name])
    vae = {"vae": str(paths["vae"])}
    latents, t = draw_noise((16, 8, 8), [1]), torch.tensor([300.0])
    put(cache, small, "someone/zimage")
    one_file = tmp_path / "all.safetensors"
    save_file(in_one(folder), one_file)
    for model in (
        load(paths["transformer"], paths["qwen3"], small, **vae),
        load(paths["transformer"], "someone/zimage", paths["qwen3"], **vae, offline=True, low_memory=True),
        load(one_file, small),
    ):
        embeds, wanted = (one.embed(PROMPTS) for one in (model, whole))
        assert torch.equal(embeds.tokens, wanted.tokens)
        predicted = (one.predict(latents, t, embeds.row(0)) for one in (model, whole))
        assert torch.allclose(*predicted, atol=1e-5)
        assert torch.allclose(model.decode(latents), whole.decode(latents), atol=1e-5)
        assert torch.equal(model.schedule.sigmas(5, (8, 8)), whole.schedule.sigmas(5, (8, 8)))
        assert model.own_defaults == whole.own_defaults
    for texts in ([paths["qwen3"]], [paths["qwen3"], models / "sd3"]):
        with pytest.raises(ModelError, match="needs the small files of its checkpoint") as caught:
            load(paths["transformer"], *texts, **vae)
        assert "zimage-turbo" in caught.value.hint
    with pytest.raises(ModelError, match="There is no VAE in"):
        load(paths["transformer"], paths["qwen3"], small)


def test_text_encoders_in_the_file_of_another_checkpoint(sd3: Path, tmp_path: Path) -> None:
    files, path = laid_out(sd3), tmp_path / "all.safetensors"
    save_file(in_one(sd3, "vae", "clip_l", "clip_g", "t5"), path)
    same(load(files["transformer"], path, sd3), load_model(sd3, device="cpu"))


def test_fp8_in_one_file(flux: Path, tmp_path: Path) -> None:
    eight = torch.float8_e4m3fn
    state = {key: x.to(eight) if x.dim() == 2 else x for key, x in in_one(flux).items()}
    save_file(state, tmp_path / "fp8.safetensors")
    save_file({key: x.float() for key, x in state.items()}, tmp_path / "float.safetensors")
    same(*(load(tmp_path / f"{kind}.safetensors", flux) for kind in ("fp8", "float")))
    kept = load(tmp_path / "fp8.safetensors", flux, low_memory=True)
    assert describe(str(tmp_path / "fp8.safetensors"))["memory"]["kept"] > 0
    latents, embeds = draw_noise((16, 8, 8), [1]), kept.embed(PROMPTS)
    plain = load(tmp_path / "float.safetensors", flux)
    predicted = (model.predict(latents, torch.tensor([300.0]), embeds.row(0)) for model in (kept, plain))
    assert torch.allclose(*predicted, atol=1e-3)


def write_t5(path: Path, state: Mapping[str, Tensor], words: Any = None) -> State:
    """T5 as llama.cpp writes it; what it holds, in float32."""
    table = get_tensor_name_map(MODEL_ARCH.T5ENCODER, 24)
    writer, held = GGUFWriter(path, "t5encoder"), State()
    if words is not None:
        pieces = json.loads(words.backend_tokenizer.to_str())["model"]["vocab"]
        writer.add_tokenizer_model("t5")
        writer.add_token_list([piece for piece, _ in pieces])
        writer.add_token_scores([score for _, score in pieces])
    for key, values in state.items():
        if key == "encoder.embed_tokens.weight":
            continue
        stem, _, end = key.rpartition(".")
        name = table.get_name(stem)
        assert name is not None
        held[key] = values
        if values.dim() == 2 and "bias" not in key:
            data = quants.quantize(values.numpy(), Q8)
            writer.add_tensor(f"{name}.{end}", data, raw_dtype=Q8)
            held[key] = torch.from_numpy(quants.dequantize(data, Q8))
        else:
            writer.add_tensor(f"{name}.{end}", values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def test_t5_in_gguf_brings_its_tokenizer(flux: Path, tmp_path: Path) -> None:
    files = laid_out(flux)
    held = write_t5(tmp_path / "t5.gguf", load_file(files["t5"]), t5_tokenizer())
    save_file(held, tmp_path / "t5.safetensors")
    one = load(files["transformer"], files["clip_l"], tmp_path / "t5.gguf", vae=files["vae"])
    other = load(files["transformer"], files["clip_l"], tmp_path / "t5.safetensors", flux, vae=files["vae"])
    words = one.tokenizers[1](PROMPTS, padding="max_length", max_length=40).input_ids
    assert words == other.tokenizers[1](PROMPTS, padding="max_length", max_length=40).input_ids
    one.tokenizers[1].model_max_length = 40  # that of the folder
    same(one, other)
    write_t5(tmp_path / "bare.gguf", load_file(files["t5"]))
    with pytest.raises(ModelError, match=r"bare\.gguf holds T5 without its tokenizer"):
        load(files["transformer"], files["clip_l"], tmp_path / "bare.gguf", vae=files["vae"], offline=True)


def test_where_the_tokenizer_of_t5_is_looked_for(flux: Path, sd3: Path, cache: Path, tmp_path: Path) -> None:
    files = laid_out(flux)
    texts = files["clip_l"], files["t5"]
    more = {"vae": files["vae"], "offline": True}
    whole = load_model(flux, device="cpu")
    for run in (lambda: load(files["transformer"], *texts, **more), lambda: check(config_of(files, texts))):
        with pytest.raises(ModelError, match=r"flux-t5.safetensors holds T5 without its tokenizer") as caught:
            run()
        assert "flux-schnell" in caught.value.hint
    same(load(files["transformer"], *texts, flux / "tokenizer_2", **more), whole)
    bare = tmp_path / "bare"
    shutil.copytree(sd3, bare, ignore=shutil.ignore_patterns("*_3"))
    for other in (bare, flux / "tokenizer"):
        with pytest.raises(ModelError, match="has no tokenizer of T5"):
            load(files["transformer"], *texts, other, **more)
    with pytest.raises(ModelError, match="someone/flux is not in the Hub's cache"):
        load(files["transformer"], *texts, "someone/flux", **more)
    put(cache, flux, "someone/flux", leave_out="*.safetensors")
    same(load(files["transformer"], *texts, "someone/flux", **more), whole)
    put(cache, flux, "black-forest-labs/FLUX.1-dev", "*.safetensors", PRESETS["flux-dev"].revision)
    same(load(files["transformer"], *texts, "flux-dev", **more), whole)
    same(load(files["transformer"], *texts, **more), whole)
    assert check(config_of(files, texts))


def config_of(files: Mapping[str, str], texts: tuple[str, ...]) -> ModelConfig:
    return ModelConfig(model=files["transformer"], text_encoder=texts, vae=files["vae"])


def test_what_does_not_make_up_a_model_is_refused(
    sd3: Path, flux: Path, checkpoint: Path, tmp_path: Path
) -> None:
    three, one = laid_out(sd3), laid_out(flux)
    save_file(in_one(sd3) | {"model.more": torch.ones(1)}, tmp_path / "more.safetensors")
    strange = in_one(sd3) | {"first_stage_model.encoder.more.weight": torch.ones(1)}
    save_file(strange, tmp_path / "strange.safetensors")
    wordless = {key: x for key, x in load_file(one["t5"]).items() if "relative" not in key}
    save_file(wordless, tmp_path / "t5.safetensors")
    for model, texts, vae, words in (
        (three["transformer"], [three["clip_l"]], three["vae"], "also needs clip_g"),
        (one["transformer"], [one["clip_l"]], one["vae"], "also needs t5xxl"),
        (one["transformer"], [one["clip_l"], three["clip_g"]], one["vae"], "holds no text encoder of FLUX"),
        (one["transformer"], [one["vae"], flux], one["vae"], "flux-vae.safetensors holds no text encoder"),
        (three["transformer"], [three["clip_l"], one["clip_l"]], None, "are both clip_l"),
        (three["transformer"], [three["clip_l"], three["clip_g"]], None, "There is no VAE in"),
        (three["transformer"], [], three["vae"], "is a Stable Diffusion 3 transformer"),
        (one["transformer"], [one["clip_l"], one["t5"], checkpoint], one["vae"], "has no tokenizer of T5"),
        (one["transformer"], [one["clip_l"], tmp_path / "t5.safetensors", flux], one["vae"], "relative"),
        (three["transformer"], [three["clip_l"], three["clip_g"], one["t5"], sd3], three["vae"], "fit"),
        (three["transformer"], [three["clip_l"], three["clip_g"], sd3], three["vae"], "sd3 does nothing"),
        (one["transformer"], [one["clip_l"], one["t5"], sd3, flux], one["vae"], "flux does nothing"),
        (tmp_path / "more.safetensors", [], None, r"unknown tensors: model\.more"),
        (tmp_path / "strange.safetensors", [sd3], None, r"unknown tensors: encoder\.more\.weight"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            load(model, *texts, vae=vae)
        assert caught.value.hint


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_vae_with_a_whole_folder(form: str, sd3: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other, own = flow_vae(), load_model(sd3, device="cpu")
    other.save_pretrained(tmp_path / "other")
    save_file(original_vae(other), tmp_path / "other.safetensors")
    path = tmp_path / ("other" if form == "folder" else "other.safetensors")
    used = load_model(sd3, vae=str(path), device="cpu")
    latents = draw_noise((16, 8, 8), [1])
    with torch.inference_mode():
        drawn = (other.decode(latents / 1.5305 + 0.0609).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(used.decode(latents), drawn, atol=1e-5)
    assert not torch.allclose(own.decode(latents), drawn, atol=1e-2)
    assert used.origin["vae"] == path.name


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"shift_factor": 0.1159}, "scales latents by 1.5305 after a shift by 0.1159"),
        ({"scaling_factor": 0.3611}, "scales latents by 0.3611 after a shift by 0.0609"),
        ({"latent_channels": 4}, "does not fit together: its VAE is made for another network"),
        ({"latents_mean": [0.1] * 16}, "VAE with latents_mean"),
    ],
)
def test_other_vaes_are_refused(config: dict[str, Any], words: str, sd3: Path, tmp_path: Path) -> None:
    flow_vae(**config).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=words) as caught:
        load_model(sd3, vae=str(tmp_path / "other"), device="cpu")
    assert caught.value.hint


def test_an_edit_and_its_rerun(sd3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = laid_out(sd3)
    save_file(in_one(sd3), tmp_path / "all.safetensors")
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save("photo.png")

    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300", "TERM": "dumb"})

    texts = ("--ref", "horse", "--query", "zebra", "--steps", "2", "--mask-samples", "1", "--seed", "3")
    texts += ("--size", "64")
    given = [word for name in ("clip_l", "clip_g", "t5") for word in ("--text-encoder", files[name])]
    words = ("--text-encoder", sd3, "--device", "cpu")
    models = {
        "apart.png": ("-m", files["transformer"], *given, *words, "--vae", files["vae"], "--low-memory"),
        "whole.png": ("-m", "all.safetensors", *words),
        "folder.png": ("-m", sd3, "--vae", files["vae"], "--device", "cpu"),
    }
    for name, model in models.items():
        made = run("edit", "photo.png", *texts, *model, "-o", name)
        assert made.exit_code == 0, made.output
        again = run("rerun", name, *model)
        assert again.exit_code == 0, again.output
        assert Path(name.replace(".png", "-rerun.png")).read_bytes() == Path(name).read_bytes()
    _, whole, parts = (np.asarray(Image.open(name).convert("RGB"), int) for name in models)
    assert abs(whole - parts).max() <= 2  # rounding
    refused = run("rerun", "apart.png", "-m", files["transformer"], "--vae", files["vae"])
    assert "made with the text encoder sd3-clip_l.safetensors and" in refused.output
    save_file({key: x for key, x in in_one(sd3).items() if "t5xxl" not in key}, "without.safetensors")
    for dry in ([], ["--dry-run"]):
        refused = run("edit", "photo.png", *texts, "-m", "without.safetensors", *words, *dry, "-o", "no.png")
        assert "has text encoders or a VAE of its own" in refused.output
    assert not Path("no.png").exists()


CLIP_L = CLIP_G | {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
FULL = {"sd3": SD3, "sd3.5-medium": MEDIUM, "flux-dev": DEV, "chroma": CHROMA}


def full_size(name: str) -> State:
    """The tensors of a published checkpoint in one file, on the meta device."""
    is_sd3 = name.startswith("sd3")
    kind = "sd3" if is_sd3 else name.removesuffix("-dev")
    transformer = empty_network(name, kind, FULL[name]).state_dict()
    config = read_config(name, flow_files.CONFIGS / ("sd3" if is_sd3 else "flux") / "vae", "flow_vae")
    vae = empty_network(name, "flow_vae", config)
    small = empty_network(name, "text_encoder", CLIP_L).state_dict()
    state = with_prefix("model.diffusion_model.", original(transformer, kind))
    state |= with_prefix("first_stage_model." if is_sd3 else "vae.", original_vae(vae, blocks=4))
    if kind != "chroma":
        state |= with_prefix("text_encoders.clip_l.transformer.", clip(small))
    state |= with_prefix("text_encoders.t5xxl.transformer.", empty_network(name, "t5", T5_XXL).state_dict())
    if is_sd3:
        large = empty_network(name, "text_encoder_2", CLIP_G).state_dict()
        projection = large.pop("text_projection.weight")
        state |= with_prefix("text_encoders.clip_g.transformer.", clip(large))
        state["text_encoders.clip_g.transformer.text_projection.weight"] = projection
    return state


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own, of Chroma
@pytest.mark.parametrize("name", FULL)
def test_every_tensor_of_a_full_size_file_finds_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the package's own configs
    state = full_size(name)
    shapes = {key: values.shape for key, values in state.items()}
    seen = {"read_network": lambda *_: dict(state), "shapes_in": lambda _: shapes}
    for function, instead in seen.items():  # no weights: shapes on the meta device
        monkeypatch.setattr(flow_files, function, instead)
    files = find_files(name, tmp_path)
    assert files is not None
    assert (files.lacking, files.suited.name) == ([], SUITED[name].name)
    transformer = load_transformer(files, torch.bfloat16)  # a gap is refused, and so is a tensor too many
    wanted = empty_network(name, files.kind, FULL[name])
    assert {k: x.shape for k, x in transformer.state_dict().items()} == {
        k: x.shape for k, x in wanted.state_dict().items()
    }
    for key, value in FULL[name].items():
        given = transformer.config.get(key)
        is_own = key in transformer.config and key != "_class_name"
        assert not is_own or (list(given) if isinstance(given, tuple) else given) == value
    counts = {sort: count(load_encoder(files, sort, torch.bfloat16)) for sort in files.encoders}
    clips = {"sd3": {"clip_l": 0.124, "clip_g": 0.695}, "flux": {"clip_l": 0.123}, "chroma": {}}
    assert counts == clips[files.kind] | {"t5": 4.762}
    assert count(load_own_vae(files, is_filled=True)) == 0.084


def count(network: Any) -> float:
    return round(sum(p.numel() for p in network.parameters()) / 1e9, 3)


def test_names_of_t5_in_gguf_are_those_of_llama_cpp() -> None:
    table = get_tensor_name_map(MODEL_ARCH.T5ENCODER, 24)
    for key in empty_network("it", "t5", T5_XXL).state_dict():
        stem, _, end = key.rpartition(".")
        name = table.get_name(stem)
        if key != "encoder.embed_tokens.weight":  # the same as shared.weight
            assert t5_name(f"{name}.{end}") == key
