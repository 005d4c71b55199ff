"""single_file.py and clip_tokenizer.py: checkpoints in one file, small and full size, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from conftest import save_parts, tiny_text_encoder, tiny_unet, tiny_vae
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from single_files import State, to_single_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError
from diffedit_cli.models import load_model, single_file
from diffedit_cli.models.clip_tokenizer import clip_tokenizer
from diffedit_cli.models.presets import PRESETS
from diffedit_cli.models.single_file import CONFIGS, convert, recognise
from diffedit_cli.models.weights import read_weights

ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
KINDS = ["sd1", "sd2", "sdxl"]
OF_NO_EFFECT = {
    "sd1": [
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.transformer.text_projection.weight",
        "model_ema.diffusion_modelout0weight",
        "model_ema.num_updates",
        "alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "posterior_mean_coef1",
        "betas",
        "first_stage_model.loss.logvar",
    ],
    "sd2": [
        "cond_stage_model.model.logit_scale",
        "cond_stage_model.model.text_projection",
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight",
    ],
    "sdxl": [
        "conditioner.embedders.1.model.logit_scale",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "denoiser.sigmas",
    ],
}


def test_tokens_are_clips_own() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Wow! naïve 日本").input_ids == tokenizer("  wow!  NAÏVE\n日本 ").input_ids
    assert tokenizer.decode(tokenizer("a zebra, in the park!").input_ids[1:-1]) == "a zebra , in the park !"
    assert tokenizer.model_max_length == 77


def test_open_clips_padding_leaves_exclamation_marks_alone() -> None:
    tokenizer = clip_tokenizer("!")
    assert tokenizer("wow!").input_ids == clip_tokenizer()("wow!").input_ids
    assert tokenizer("a", padding="max_length").input_ids == [49406, 320, 49407] + 74 * [0]
    assert clip_tokenizer()("a", padding="max_length").input_ids == [49406, 320] + 75 * [49407]


def tiny(kind: str) -> dict[str, Any]:
    """The parts of a tiny checkpoint with CLIP's own vocabulary."""
    tokenizer = clip_tokenizer()
    text = {"text_encoder": tiny_text_encoder(CLIPTextModel, tokenizer)}
    width, extra = 32, dict[str, Any]()
    if kind == "sdxl":
        text["text_encoder_2"] = tiny_text_encoder(
            CLIPTextModelWithProjection, tokenizer, hidden_size=40, projection_dim=24, hidden_act="gelu"
        )
        width = 32 + 40
        extra = dict(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            use_linear_projection=True,
        )
    tokenizers = [clip_tokenizer("!")] if kind == "sd2" else [tokenizer, clip_tokenizer("!")]
    return {
        "unet": tiny_unet(cross_attention_dim=width, **extra),
        "vae": tiny_vae(),
        **text,
        **dict(zip(["tokenizer", "tokenizer_2"][: len(text)], tokenizers, strict=False)),
    }


def one_file(kind: str, parts: dict[str, Any]) -> State:
    text_encoders = [parts[name] for name in ENCODERS if name in parts]
    state = to_single_file(kind, parts["unet"], parts["vae"], text_encoders)
    return {key: values.detach().clone().contiguous() for key, values in state.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_is_the_same_model_as_its_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    parts = tiny(kind)
    folder = save_parts(tmp_path / kind, parts, dict(set_alpha_to_one=kind == "sdxl"))  # as published
    state = one_file(kind, parts)
    for key in OF_NO_EFFECT[kind]:  # files carry tensors that no network takes
        state[key] = torch.zeros(32, 32) if "text_projection" in key else torch.arange(77)[None]
    save_file(state, tmp_path / "all.safetensors")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path)
    one, many = (load_model(path, device="cpu") for path in (tmp_path / "all.safetensors", folder))
    x, t = draw_noise((4, 8, 8), [1, 2]), torch.tensor([10, 900])
    prompts = ["a horse", "a zebra in the park"]
    ours, theirs = one.embed(prompts), many.embed(prompts)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert (ours.pooled is not None) == (kind == "sdxl")
    assert torch.equal(one.predict(x, t, ours), many.predict(x, t, theirs))
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(one.encode(pixels), many.encode(pixels))
    assert torch.equal(one.decode(x), many.decode(x))
    assert one.schedule.alphas_cumprod.equal(many.schedule.alphas_cumprod)
    assert one.schedule.final_alpha == many.schedule.final_alpha


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "strange",
    [
        "model.diffusion_model.input_blocks.0.0.more",
        "model.diffusion_model.position_net.linears.0.weight",
        "first_stage_model.decoder.conv_in.more",
        "cond_stage_model.more.weight",
        "something_else",
    ],
)
def test_tensors_that_no_network_takes_are_refused_by_name(
    kind: str, strange: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tiny(kind)
    save_parts(tmp_path / kind, parts, {})
    save_file({**one_file(kind, parts), strange: torch.zeros(3)}, tmp_path / "all.safetensors")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path)
    with pytest.raises(ModelError, match=f"unknown tensors: {strange}"):
        load_model(tmp_path / "all.safetensors", device="cpu")


def full_size(kind: str) -> dict[str, Any]:
    """The networks of the package's configs, on the meta device: shapes without weights."""
    folder = CONFIGS / kind
    with init_empty_weights(include_buffers=True):
        return {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            **{
                name: cls(CLIPTextConfig.from_pretrained(folder / name))
                for name, cls in ENCODERS.items()
                if (folder / name).is_dir()
            },
        }


def weightless(values: Tensor) -> Tensor:
    """A tensor of this shape that takes no memory."""
    return torch.zeros(1, dtype=torch.float32).expand(values.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_full_size_file_finds_its_place(kind: str) -> None:
    networks = full_size(kind)
    encoders = [networks[name] for name in ENCODERS if name in networks]
    state = to_single_file(kind, networks["unet"], networks["vae"], encoders)
    assert state["model.diffusion_model.input_blocks.1.0.in_layers.2.weight"].shape == (320, 320, 3, 3)
    seen = {key: weightless(values) for key, values in state.items()}
    assert recognise(kind, seen) == kind
    parts = convert(kind, seen, kind, torch.float32)  # a place without a tensor is refused
    loaded = {"unet": parts.unet, "vae": parts.vae, **dict(zip(ENCODERS, parts.text_encoders, strict=False))}
    for name, network in networks.items():
        shapes = {key: values.shape for key, values in loaded[name].state_dict().items()}
        assert shapes == {key: values.shape for key, values in network.state_dict().items()}
    preset = PRESETS[{"sd1": "sd15", "sd2": "sd21-base", "sdxl": "sdxl"}[kind]]
    assert preset.side == loaded["unet"].config.sample_size * 8
    assert preset.parameters == sum(p.numel() for net in networks.values() for p in net.parameters())


def test_names_of_a_real_file() -> None:
    """Names that the original releases are known to have, against the test's own way to make them."""
    known = {
        "sd1": [
            "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
            "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
            "first_stage_model.encoder.mid.attn_1.q.weight",
            "first_stage_model.decoder.up.3.block.2.conv2.weight",
        ],
        "sd2": [
            "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
            "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight",
            "cond_stage_model.model.token_embedding.weight",
        ],
        "sdxl": [
            "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
            "conditioner.embedders.1.model.text_projection",
            "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
            "model.diffusion_model.label_emb.0.0.weight",
            "model.diffusion_model.middle_block.1.transformer_blocks.9.attn1.to_q.weight",
            "model.diffusion_model.output_blocks.2.2.conv.weight",
        ],
    }
    for kind, keys in known.items():
        networks = full_size(kind)
        encoders = [networks[name] for name in ENCODERS if name in networks]
        assert {*keys} <= {*to_single_file(kind, networks["unet"], networks["vae"], encoders)}


WHOLE = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(8),
    "first_stage_model.quant_conv.weight": torch.zeros(8, 8, 1, 1),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first_stage_model.quant_conv.weight": None}, "lacks a VAE"),
        ({"cond_stage_model.transformer.text_model.final_layer_norm.weight": None}, "lacks a text encoder"),
        ({"model.diffusion_model.input_blocks.0.0.weight": None}, "lacks a UNet"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, "9 .*inpainting"),
        ({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)}, "is a LoRA"),
        ({"emb_params": torch.zeros(1)}, "is a textual inversion"),
        ({"edm_vpred.sigma_max": torch.zeros(1), "edm_vpred.sigma_min": torch.zeros(1)}, "is CosXL"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.tensor(1.0)}, "0 channels"),
        ({"conditioner.embedders.0.model.ln_final.weight": torch.zeros(1)}, "refiner"),
        ({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "one network of several"),
        ({}, "its UNet, cannot be loaded: 686 tensors are missing or have the wrong shape"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)},
            "685 tensors are missing",
        ),
    ],
)
def test_other_files_are_named_and_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    state = {key: values for key, values in {**WHOLE, **change}.items() if values is not None}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=words) as caught:
        load_model(tmp_path / "other.safetensors", device="cpu")
    assert caught.value.hint


@pytest.mark.parametrize("harm", ["pickle", "cut", "text", "empty", "gone"])
def test_spoilt_files_are_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "spoilt.safetensors"
    save_file(WHOLE, path)
    if harm == "pickle":
        torch.save(WHOLE, path)
    elif harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:-9], "text": b"<html>404</html>", "empty": b""}[harm])
    words = {"pickle": "is a pickle", "gone": "There is no file"}.get(harm, "truncated, or not a safetensors")
    with pytest.raises(ModelError, match=words):
        load_model(path, device="cpu")


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("model.ckpt", "model.pt"):
        torch.save(WHOLE, tmp_path / name)
        with pytest.raises(ModelError, match="is a pickle") as caught:
            load_model(tmp_path / name, device="cpu")
        assert "safetensors" in caught.value.hint


def test_what_a_network_predicts_is_read_from_the_file() -> None:
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    spread = torch.tensor([-1.0, 1.0])
    assert not single_file.predicts_v({}, "sd1")
    assert single_file.predicts_v({"v_pred": torch.zeros(0)}, "sdxl")
    assert single_file.predicts_v({bias: 0.2 * spread}, "sd2")
    assert not single_file.predicts_v({bias: 0.05 * spread}, "sd2")
    assert not single_file.predicts_v({bias: 0.2 * spread}, "sd1")
    config = single_file.scheduler(is_v=True, has_zero_snr=True).config
    assert (config.prediction_type, config.timestep_spacing) == ("v_prediction", "trailing")
    assert config.rescale_betas_zero_snr


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A safetensors file starts with the low byte of its header's length, which may be a pickle's 0x80."""
    path = tmp_path / "a.safetensors"
    for padding in range(0, 512, 8):
        save_file({"x": torch.ones(1)}, path, {"note": "-" * padding})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert read_weights(path)["x"].tolist() == [1]
