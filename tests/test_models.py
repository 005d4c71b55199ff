"""models.py on a tiny real checkpoint: what is loaded, what is refused, and never a call to the hub."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._inductor.config
from conftest import put
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from oracles import sd_alphas
from safetensors.torch import load_file, save_file

from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.core.types import Denoiser
from diffedit_cli.errors import ModelError
from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, describe, load_model, own_defaults
from diffedit_cli.models.hardware import gains_by_bfloat16, pick_device, pick_dtype
from diffedit_cli.models.layout import PARTS, check_layout
from diffedit_cli.models.prepack import PackedConv2d, prepack
from diffedit_cli.models.presets import PRESETS

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def read(path: Path) -> dict[str, torch.Tensor]:
    """The weights in memory of their own: a mapped file must not be written over."""
    return {name: values.clone() for name, values in load_file(path).items()}


def load(folder: Path | str, **options: Any) -> DiffusersDenoiser:
    return load_model(folder, device="cpu", **options)


def test_a_checkpoint_says_what_it_is(model: DiffusersDenoiser, checkpoint: Path) -> None:
    assert isinstance(model, Denoiser)
    assert model.name == str(checkpoint)
    assert (model.size, model.factor, model.multiple, model.latent_channels) == (32, 2, 4, 4)
    assert (model.schedule.spacing, model.schedule.steps_offset) == ("leading", 1)
    assert model.schedule.alphas_cumprod.dtype == torch.float64
    assert torch.allclose(model.schedule.alphas_cumprod, sd_alphas(), rtol=1e-4)
    assert model.schedule.final_alpha == pytest.approx(float(sd_alphas()[0]))
    assert not any(p.requires_grad for p in model.unet.parameters())


def test_the_schedule_is_the_checkpoints_own(build: Callable[..., Path]) -> None:
    schedule = load(build(timestep_spacing="trailing", set_alpha_to_one=True, steps_offset=0)).schedule
    assert (schedule.final_alpha, schedule.spacing, schedule.steps_offset) == (1.0, "trailing", 0)


@pytest.mark.parametrize("was_enabled", [True, False])
def test_loading_leaves_garbage_collection_as_it_was(checkpoint: Path, was_enabled: bool) -> None:
    try:
        if not was_enabled:
            gc.disable()
        load(checkpoint)
        assert gc.isenabled() is was_enabled
    finally:
        gc.enable()


def test_pixels_go_to_scaled_latents_and_back(checkpoint: Path) -> None:
    model = load(checkpoint)
    model.vae.decoder.conv_out.weight *= 10  # beyond black and white
    pixels = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    latents = model.encode(pixels)
    assert latents.shape == (2, 4, 16, 12)
    with torch.inference_mode():
        moments = model.vae.quant_conv(model.vae.encoder(2 * pixels - 1))
        assert torch.allclose(latents, moments[:, :4] * 0.5, atol=1e-5)  # the mean; scaling_factor .5
        raw = model.vae.decode(latents / 0.5).sample
    assert raw.abs().max() > 1
    assert torch.allclose(model.decode(latents), (raw / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_texts_become_one_row_each(model: DiffusersDenoiser) -> None:
    window = model.tokenizers[0].model_max_length
    embeds = model.embed(["a horse", "", "a horse"])
    assert embeds.tokens.shape == (3, window, 32)
    assert torch.allclose(embeds.tokens[0], embeds.tokens[2], atol=1e-5)
    assert not torch.allclose(embeds.tokens[0], embeds.tokens[1], atol=0.01)
    assert torch.allclose(model.embed(["a horse"]).tokens, embeds.row(0).tokens, atol=1e-5)


def test_what_the_model_does_not_hear(model: DiffusersDenoiser, capfd: pytest.CaptureFixture[str]) -> None:
    fits, window = 0, model.tokenizers[0].model_max_length
    while not model.is_too_long("horse " * (fits + 1)):
        fits += 1
    assert 0 < fits < window
    assert not model.is_too_long("")
    long = "horse " * fits
    assert torch.allclose(model.embed([long + "zebra"]).tokens, model.embed([long + "dog"]).tokens, atol=1e-5)
    assert capfd.readouterr().err == ""


def test_words_are_unknown_only_where_a_model_says_what_it_knows(
    model: DiffusersDenoiser, copy: Path
) -> None:
    assert model.words is None
    assert model.unknown_words(["a gryphon"]) == []
    card = {"words": {"objects": ["horse", "zebra"], "small words": ["a", "the"]}}
    (copy / "diffedit.json").write_text(json.dumps(card))
    told = load(copy)
    assert told.words == card["words"]
    assert told.unknown_words(["A Horse, the ZEBRA"]) == []
    assert told.unknown_words(["a gryphon, a pony", "gryphon-horse 7"]) == ["gryphon", "pony"]


def test_a_model_can_declare_defaults_of_its_own(copy: Path) -> None:
    assert load(copy).own_defaults == own_defaults(str(copy)) == own_defaults("sd15") == {}
    card = {"words": {}, "defaults": {"strength": 1.0, "guidance_scale": 3.0}}
    (copy / "diffedit.json").write_text(json.dumps(card))
    told = load(copy).own_defaults, own_defaults(str(copy)), describe(str(copy))["defaults"]
    assert told == (card["defaults"],) * 3


def test_eps_is_the_networks_own(model: DiffusersDenoiser) -> None:
    x, t, text = draw_noise((4, 8, 8), [1, 2]), torch.tensor([10, 900]), model.embed(["horse", "zebra"])
    before = model.forwards, model.network_seconds
    eps = model.predict(x, t, text)
    with torch.inference_mode():
        assert torch.equal(eps, model.unet(x, t, text.tokens).sample)
    assert model.forwards == before[0] + 2
    assert model.network_seconds > before[1]


def test_v_is_converted_at_each_pictures_own_level(build: Callable[..., Path]) -> None:
    folder = build(prediction_type="v_prediction")
    model, scheduler = load(folder), DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(1000)
    x, t, text = draw_noise((4, 8, 8), [1, 2]), torch.tensor([10, 900]), model.embed(["horse", "zebra"])
    eps = model.predict(x, t, text)
    with torch.inference_mode():
        v = model.unet(x, t, text.tokens).sample
    for i in range(2):
        x0 = scheduler.step(v[i], int(t[i]), x[i]).pred_original_sample
        alpha = float(sd_alphas()[t[i]])
        assert torch.allclose(alpha**0.5 * x0 + (1 - alpha) ** 0.5 * eps[i], x[i], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_near(model: DiffusersDenoiser, checkpoint: Path, dtype: str) -> None:
    half = load(checkpoint, dtype=dtype)
    assert half.unet.dtype == getattr(torch, dtype)
    x, t = draw_noise((4, 16, 16), [1]), torch.tensor([500])
    eps, exact = (m.predict(x, t, m.embed(["horse"])) for m in (half, model))
    assert eps.dtype == torch.float32
    assert torch.allclose(eps, exact, atol=0.1)
    latents = half.encode(torch.rand(1, 3, 32, 32))
    assert latents.dtype == torch.float32
    assert half.decode(latents).dtype == torch.float32


def loud(copy: Path, part: str, peak: float) -> tuple[DiffusersDenoiser, DiffusersDenoiser]:
    """The checkpoint in float16 and float32, the first weights of one half of its VAE brought to a peak."""
    weights = read(copy / VAE)
    for name in ("weight", "bias"):
        weights[f"{part}.conv_in.{name}"] *= peak / weights[f"{part}.conv_in.{name}"].abs().max()
    save_file(weights, copy / VAE, metadata={"format": "pt"})
    return load(copy, dtype="float16"), load(copy, dtype="float32")


def test_a_vae_that_overflows_in_half_precision_decodes_in_float32(copy: Path) -> None:
    half, exact = loud(copy, "decoder", 3e4)
    latents = 5 * draw_noise((4, 16, 16), [1])
    with torch.inference_mode():
        raw = half.vae.decode((latents / 0.5).half()).sample
    assert not bool(torch.isfinite(raw).all())  # the test would show nothing otherwise
    for _ in range(2):
        assert (half.decode(latents) - exact.decode(latents)).abs().max() < 0.02
        assert half.vae.dtype == torch.float16


def test_a_vae_that_overflows_in_half_precision_encodes_in_float32(copy: Path) -> None:
    half, exact = loud(copy, "encoder", 6e4)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        raw = half.vae.encode((2 * pixels - 1).half()).latent_dist.mode()
    assert not bool(torch.isfinite(raw).all())  # the test would show nothing otherwise
    assert (half.encode(pixels) - exact.encode(pixels)).abs().max() < 0.02
    assert half.vae.dtype == torch.float16


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ModelError, match=f"lacks {part}") as caught:
        load(copy)
    assert caught.value.hint
    assert caught.value.exit_code == 1


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lacks unet, vae, text_encoder, tokenizer, scheduler"):
        load(tmp_path)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_pickles_are_not_opened(copy: Path, file: str) -> None:
    torch.save(read(copy / file), (copy / file).with_suffix(".bin"))
    (copy / file).unlink()
    with pytest.raises(ModelError, match="has no") as caught:
        load(copy)
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize(
    "harm", ["renamed pickle", "cut short", "empty", "another network", "a tensor gone", "text"]
)
def test_spoilt_weights_are_refused(copy: Path, file: str, harm: str) -> None:
    path, weights = copy / file, read(copy / file)
    if harm == "renamed pickle":
        torch.save(weights, path)
    elif harm == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "text":
        path.write_text("<html>404</html>")
    elif harm == "another network":
        save_file({name: torch.zeros(3) for name in weights}, path, metadata={"format": "pt"})
    else:
        del weights[sorted(weights)[0]]
        save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"],
)
@pytest.mark.parametrize("content", [None, "", "{"])
def test_spoilt_configs_are_refused(copy: Path, file: str, content: str | None) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    with pytest.raises(ModelError):
        load(copy)


def test_a_tokenizer_without_its_words_is_refused(copy: Path) -> None:
    for file in (copy / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(ModelError):
        load(copy)


@pytest.mark.parametrize(
    "card",
    [
        "{",
        "[]",
        '{"words": ["horse"]}',
        '{"words": {"objects": "horse"}}',
        '{"defaults": 3}',
        '{"words": {}, "defaults": {"strength": 2}}',
        '{"words": {}, "defaults": {"seed": 9}}',
        '{"words": {}, "defaults": {"solver": "euler"}}',
    ],
)
def test_a_spoilt_card_is_refused(copy: Path, card: str) -> None:
    (copy / "diffedit.json").write_text(card)
    with pytest.raises(ModelError):
        load(copy)


def configure(folder: Path, part: str, **more: Any) -> None:
    """Change a part's config.json."""
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (dict(in_channels=9), "9 channels: it is made for inpainting"),
        (dict(in_channels=8), "8 channels: it is made for instructions"),
        (dict(class_embed_type="projection"), r"more than a text \(class_embed_type\)"),
        (dict(addition_embed_type="image"), r"more than a text \(addition_embed_type\)"),
        (dict(addition_embed_type="text_time"), "lacks text_encoder_2, tokenizer_2"),
        (dict(auto_map={"AutoModel": "net.Net"}), r"code of its own .*unet/config.json"),
    ],
)
def test_networks_of_another_kind_are_refused(copy: Path, more: dict[str, Any], words: str) -> None:
    configure(copy, "unet", **more)
    with pytest.raises(ModelError, match=words) as caught:
        load(copy)
    assert caught.value.hint


@pytest.mark.parametrize(
    "index",
    [{"_class_name": ["pipeline", "Mine"]}, {"unet": ["my_unet", "MyUNet"]}],
    ids=["pipeline", "unet"],
)
def test_a_checkpoint_that_brings_code_is_refused(copy: Path, index: dict[str, Any]) -> None:
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="code of its own"):
        load(copy)


def test_the_refiner_and_transformers_are_refused(build_xl: Callable[..., Path], copy: Path) -> None:
    folder = build_xl()
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(ModelError, match="refiner"):
        load(folder)
    (copy / "transformer").mkdir()
    with pytest.raises(ModelError, match="transformer"):
        load(copy)


def test_xl_decodes_in_float32_beside_a_half_precision_network(build_xl: Callable[..., Path]) -> None:
    folder = build_xl()
    half, exact = load(folder, dtype="float16"), load(folder, dtype="float32")
    assert (half.unet.dtype, half.vae.dtype) == (torch.float16, torch.float32)
    assert load(folder, dtype="bfloat16").vae.dtype == torch.bfloat16  # its range is float32's
    latents = draw_noise((4, 16, 16), [1])
    assert torch.equal(half.decode(latents), exact.decode(latents))


def test_weights_in_several_files(copy: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    whole = load(copy).unet.state_dict()
    network = UNet2DConditionModel.from_pretrained(copy / "unet")
    (copy / UNET).unlink()
    network.save_pretrained(copy / "unet", max_shard_size="200KB")
    assert len([*(copy / "unet").glob("*-of-*.safetensors")]) > 1
    assert all(torch.equal(values, whole[name]) for name, values in load(copy).unet.state_dict().items())
    next((copy / "unet").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"lacks unet/.*-00002-of-\d+\.safetensors") as caught:
        load(copy)
    assert caught.value.hint == "Fetch it again."


def test_a_network_that_predicts_the_picture_is_refused(build: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="predicts sample"):
        load(build(prediction_type="sample"))


def test_variants(copy: Path) -> None:
    with pytest.raises(ModelError, match=r"unet/diffusion_pytorch_model\.fp16\.safetensors"):
        load(copy, variant="fp16")
    for file in (UNET, VAE, TEXT):
        (copy / file).rename((copy / file).with_suffix(".fp16.safetensors"))
    assert load(copy, variant="fp16").size == 32
    with pytest.raises(ModelError, match="has no unet") as caught:
        load(copy)
    assert caught.value.hint == "Use --variant fp16."


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sd99", "There is no model sd99"),
        ("./nowhere", "There is no model"),
        ("a/b..c", "There is no model"),
        ("a/" + 100 * "b", "There is no model"),
        ("a/b/c", "There is no model"),
        ("https://hub/a/b", "There is no model"),
        ("missing.safetensors", "There is no file missing.safetensors"),
        ("sub/missing.ckpt", "missing.ckpt is a pickle"),
    ],
)
def test_unknown_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load(name, offline=True)
    assert caught.value.hint


def test_one_network_of_a_folder_is_refused(copy: Path) -> None:
    with pytest.raises(ModelError, match="one network of several"):
        load(copy / UNET)


def test_a_large_model_is_halved_on_a_cpu_made_for_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 by itself: not for a small model, not on another CPU or device, not where a dtype is given."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert load(checkpoint, dtype="auto").dtype == torch.float32
    large = SimpleNamespace(st_size=10**9, st_mode=0o100644)
    monkeypatch.setattr(Path, "stat", lambda self, **_: large)
    assert gains_by_bfloat16(checkpoint, torch.device("cpu"))
    assert not gains_by_bfloat16(checkpoint, torch.device("mps"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert not gains_by_bfloat16(checkpoint, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", [{}, {"stride": 2}, {"kernel_size": 1, "padding": 0}, {"bias": False}])
def test_a_packed_convolution_gives_the_same(dtype: torch.dtype, how: dict[str, Any]) -> None:
    """Whatever size it packed for last; and it keeps its weights once, and not twice."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("This CPU has no instructions for bfloat16.")
    conv = torch.nn.Conv2d(8, 16, **{"kernel_size": 3, "padding": 1, **how}).to(dtype).requires_grad_(False)
    pictures = [torch.rand(b, 8, side, side + 2).to(dtype) for b, side in ((1, 8), (3, 8), (2, 14), (1, 8))]
    wanted = [conv(x) for x in pictures]
    prepack(conv)
    assert isinstance(conv, PackedConv2d)
    for x, y in zip(pictures, wanted, strict=True):
        assert torch.allclose(conv(x), y, atol=1e-6 if dtype == torch.float32 else 0.02)
        assert conv._parameters["weight"].numel() == 0


def test_what_onednn_does_not_take_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float16, torch.float64):
        conv = torch.nn.Conv2d(3, 4, 3).to(dtype)
        prepack(conv)
        assert type(conv) is torch.nn.Conv2d
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    conv = torch.nn.Conv2d(3, 4, 3)
    prepack(conv)
    assert type(conv) is torch.nn.Conv2d


@pytest.mark.filterwarnings("default")  # torch.compile's own
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.slow
def test_a_compiled_unet_predicts_the_same(checkpoint: Path, model: DiffusersDenoiser) -> None:
    compiled = load(checkpoint, compile=True)
    assert (compiled.forwards, compiled.origin["compile"]) == (0, True)
    x, t = torch.randn(3, 4, 16, 16), torch.full((3,), 500)
    eps = [one.predict(x, t, one.embed(["zebra"] * 3)) for one in (model, compiled)]
    assert torch.allclose(*eps, atol=1e-4)


@pytest.mark.filterwarnings("default")  # torch.compile's own
def test_without_a_compiler_nothing_is_compiled(checkpoint: Path) -> None:
    torch._dynamo.reset()
    with (
        torch._inductor.config.patch("cpp.cxx", (None, "no-such-compiler")),
        pytest.raises(ModelError, match=r"cannot be compiled here.*no-such-compiler") as caught,
    ):
        load(checkpoint, compile=True)
    assert "leave --compile out" in caught.value.hint


def test_devices_and_dtypes() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.float16
    assert pick_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16
    for name in ("tpu", "", "cuda:99" if not torch.cuda.is_available() else "tpu:0"):
        with pytest.raises(ModelError, match="There is no device"):
            pick_device(name)
    with pytest.raises(ModelError, match="There is no dtype int8"):
        pick_dtype("int8", torch.device("cpu"))


def test_offline_a_hub_id_must_be_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="not in the Hub's cache") as caught:
        load("someone/something", offline=True)
    assert "--offline" in caught.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="not in the Hub's cache"):
        load("someone/something")


@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_hub_id_needs_no_network(cache: Path, checkpoint: Path, offline: bool) -> None:
    put(cache, checkpoint, "someone/tiny")
    model = load("someone/tiny", offline=offline)
    assert (model.name, model.size) == ("someone/tiny", 32)


@pytest.mark.parametrize("variant", ["fp16", None])
def test_a_preset_is_its_repository_at_its_revision(
    cache: Path, checkpoint: Path, tmp_path: Path, variant: str | None
) -> None:
    preset, folder = PRESETS["sd15"], tmp_path / "variant"
    shutil.copytree(checkpoint, folder)
    for file in [*folder.rglob("*.safetensors")] if variant else []:
        file.rename(file.with_suffix(".fp16.safetensors"))
    with pytest.raises(ModelError, match="sd15 is not in the Hub's cache"):
        load("sd15", offline=True)
    put(cache, folder, preset.repository, commit=preset.revision)
    model = load("sd15", offline=True)  # the variant is found, whichever was fetched
    assert (model.name, model.size) == ("sd15", 32)
    assert load("sd15", offline=True, variant=variant).size == 32
    with pytest.raises(ModelError, match="not in the Hub's cache"):
        load("sd15", offline=True, revision="0" * 40)


def test_half_a_download_is_not_taken_for_the_whole(cache: Path, checkpoint: Path) -> None:
    put(cache, checkpoint, "someone/tiny", leave_out="diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match=r"Only a part of someone/tiny .* has no unet/") as caught:
        load("someone/tiny", offline=True)
    assert "models pull" in caught.value.hint


def test_without_a_network_a_hub_id_says_so(cache: Path) -> None:
    with pytest.raises(ModelError, match="someone/something could not be fetched") as caught:
        load("someone/something")
    assert "network" in caught.value.hint


def test_check_layout_takes_a_good_folder(checkpoint: Path) -> None:
    check_layout("tiny", checkpoint)


def test_the_embedded_model_knows_its_words() -> None:
    model = load("embedded")
    assert model.words is not None
    assert model.unknown_words(["a horse", "a zebra"]) == []
    assert model.unknown_words(["a gryphon"]) == ["gryphon"]
    words = [word for group in model.words.values() for word in group]
    assert model.tokenizers[0].unk_token_id is not None
    lengths = [len(model.tokenizers[0](word).input_ids) for word in words]
    assert max(lengths) < model.tokenizers[0].model_max_length
    horse, zebra = model.embed(["horse"]).tokens, model.embed(["zebra"]).tokens
    assert not torch.allclose(horse, zebra, atol=0.1)
    assert EMBEDDED.is_dir()
