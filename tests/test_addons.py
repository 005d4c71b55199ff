"""addons.py: LoRA files of each format against the formula, and textual inversions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.models.addons import split

pytest.importorskip("peft")

TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT_Q, TEXT_OUT = "encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj"
TO_K = TO_Q.replace("to_q", "to_k")
RANK, ALPHA = 4, 2.0


def load(path: Path, **options: Any) -> DiffusersDenoiser:
    return load_model(path, device="cpu", **options)


def factors(weight: Tensor, seed: int, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """down (rank in ...) and up (out rank ...) for a layer's weight."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), generator=generator)
    return down, up


def added(down: Tensor, up: Tensor) -> Tensor:
    """up @ down as one weight."""
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def kohya(name: str) -> str:
    return name.replace(".", "_")


def lora_file(path: Path, style: str, layers: dict[str, tuple[Tensor, Tensor]]) -> Path:
    """Write a LoRA. layers: {unet.<module> or text_encoder.<module>: (down, up)}."""
    state: dict[str, Tensor] = {}
    for name, (down, up) in layers.items():
        net, module = name.split(".", 1)
        if style == "kohya":
            stem = f"lora_unet_{kohya(module)}" if net == "unet" else f"lora_te_text_model_{kohya(module)}"
            state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"] = down, up
            state[f"{stem}.alpha"] = torch.tensor(ALPHA)
        else:
            state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = down, up
    save_file(state, path)
    return path


@pytest.mark.parametrize(("style", "alpha"), [("kohya", ALPHA / RANK), ("peft", 1.0)])
def test_a_lora_adds_its_product_to_the_weights(
    checkpoint: Path, tmp_path: Path, style: str, alpha: float
) -> None:
    plain = load(checkpoint)
    modules = {f"unet.{TO_Q}": plain.unet.get_submodule(TO_Q), f"unet.{CONV}": plain.unet.get_submodule(CONV)}
    for name in (TEXT_Q, TEXT_OUT):
        modules[f"text_encoder.{name}"] = plain.text_encoders[0].get_submodule(name)
    layers = {name: factors(module.weight, i) for i, (name, module) in enumerate(modules.items())}
    file = lora_file(tmp_path / "style.safetensors", style, layers)
    model = load(checkpoint, lora=[f"{file}:0.5"])
    networks = {"unet": model.unet, "text_encoder": model.text_encoders[0]}
    for name, module in modules.items():
        net, key = name.split(".", 1)
        wanted = module.weight + 0.5 * alpha * added(*layers[name])
        assert torch.allclose(networks[net].get_submodule(key).weight, wanted, atol=1e-5)
    before, after = plain.unet.state_dict(), model.unet.state_dict()
    assert before.keys() == after.keys()  # no adapter is left: a run costs no more
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"{TO_Q}.weight", f"{CONV}.weight"}
    assert not any(p.requires_grad for net in networks.values() for p in net.parameters())


def test_layers_have_ranks_and_alphas_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    """kohya's LoCon; diffusers lets peft drop alphas that differ, with a warning."""
    plain = load(checkpoint)
    cases = [("unet", TO_Q, 4, 2.0), ("unet", TO_K, 8, 1.0), ("unet", CONV, 2, 16.0)]
    cases += [("te_text_model", TEXT_Q, 4, 1.0), ("te_text_model", TEXT_OUT, 2, 8.0)]
    state, wanted = {}, []
    for seed, (net, name, rank, alpha) in enumerate(cases):
        weight = weight_of(plain, net, name)
        down, up = factors(weight, seed, rank)
        stem = f"lora_{net}_{kohya(name)}"
        state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        state[f"{stem}.alpha"] = torch.tensor(alpha)
        wanted.append(weight + alpha / rank * added(down, up))
    save_file(state, tmp_path / "locon.safetensors")
    model = load(checkpoint, lora=[str(tmp_path / "locon.safetensors")])
    for (net, name, *_), weight in zip(cases, wanted, strict=True):
        assert torch.allclose(weight_of(model, net, name), weight, atol=1e-5)


def weight_of(model: DiffusersDenoiser, net: str, name: str) -> Tensor:
    return (model.unet if net == "unet" else model.text_encoders[0]).get_submodule(name).weight


def test_a_dora_of_diffusers_scales_the_rows(checkpoint: Path, tmp_path: Path) -> None:
    """W' = m (W + B A) / |W + B A| (Liu et al. 2024, arXiv 2402.09353, eq. 5)."""
    weight = load(checkpoint).unet.get_submodule(TO_Q).weight
    down, up = factors(weight, 1)
    magnitude = torch.rand(len(weight)) + 0.5
    names = (f"unet.{TO_Q}.{end}" for end in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"))
    save_file(dict(zip(names, (down, up, magnitude), strict=True)), tmp_path / "dora.safetensors")
    full = weight + added(down, up)
    wanted = magnitude[:, None] * full / full.norm(dim=1, keepdim=True)
    model = load(checkpoint, lora=[str(tmp_path / "dora.safetensors")])
    assert torch.allclose(model.unet.get_submodule(TO_Q).weight, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("DoRA", ("lora_down.weight", "lora_up.weight", "dora_scale")),
        ("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
        ("LoKr", ("lokr_w1", "lokr_w2")),
        ("LoCon with a core", ("lora_down.weight", "lora_mid.weight", "lora_up.weight")),
    ],
)
def test_relatives_of_a_lora_are_refused_by_name(
    checkpoint: Path, tmp_path: Path, kind: str, ends: tuple[str, ...]
) -> None:
    """diffusers drops the scale of a DoRA in kohya's form without a word."""
    stem = f"lora_unet_{kohya(TO_Q)}"
    save_file({f"{stem}.{end}": torch.ones(4, 4) for end in ends}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=f"is a {kind}, which is not supported"):
        load(checkpoint, lora=[str(tmp_path / "a.safetensors")])


def test_several_loras_add_up(checkpoint: Path, tmp_path: Path) -> None:
    weight = load(checkpoint).unet.get_submodule(TO_Q).weight
    a, b = factors(weight, 1), factors(weight, 2)
    files = [
        lora_file(tmp_path / f"{i}.safetensors", "peft", {f"unet.{TO_Q}": f}) for i, f in enumerate((a, b))
    ]
    model = load(checkpoint, lora=[str(files[0]), f"{files[1]}:-0.3"])
    wanted = weight + added(*a) - 0.3 * added(*b)
    assert torch.allclose(model.unet.get_submodule(TO_Q).weight, wanted, atol=1e-4)


def test_a_lora_for_both_encoders_of_xl(build_xl: Callable[..., Path], tmp_path: Path) -> None:
    folder = build_xl()
    weight = load(folder).text_encoders[1].get_submodule(f"text_model.{TEXT_Q}").weight
    layer = factors(weight, 3)
    file = lora_file(tmp_path / "a.safetensors", "peft", {f"text_encoder_2.text_model.{TEXT_Q}": layer})
    model = load(folder, lora=[str(file)])
    changed = model.text_encoders[1].get_submodule(f"text_model.{TEXT_Q}").weight
    assert torch.allclose(changed, weight + added(*layer), atol=1e-5)


def test_a_lora_of_another_kind_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    wide = torch.zeros(RANK, 99), torch.zeros(99, RANK)
    gone = torch.zeros(RANK, 8), torch.zeros(8, RANK)
    for i, layers in enumerate([{f"unet.{TO_Q}": wide}, {"unet.down_blocks.7.attentions.0.proj_in": gone}]):
        file = lora_file(tmp_path / f"{i}.safetensors", "peft", layers)
        with pytest.raises(ModelError, match=rf"{i}\.safetensors") as caught:
            load(checkpoint, lora=[str(file)])
        assert "\n" not in str(caught.value)
    save_file({"model.diffusion_model.x": torch.zeros(3)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors"):
        load(checkpoint, lora=[str(tmp_path / "checkpoint.safetensors")])


def test_what_follows_the_colon() -> None:
    assert split("a.safetensors") == ("a.safetensors", "")
    assert split("C:\\b.safetensors:0.8") == ("C:\\b.safetensors", "0.8")
    assert split("c.pt:2") == ("c.pt:2", "")


def test_spoilt_files_and_scales_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="is a pickle"):
        load(checkpoint, lora=[str(tmp_path / "a.pt")])
    with pytest.raises(ModelError, match="There is no file"):
        load(checkpoint, embedding=[str(tmp_path / "b.safetensors")])
    with pytest.raises(SettingError, match="no number after its colon"):
        load(checkpoint, lora=[f"{tmp_path / 'b.safetensors'}:much"])


@pytest.mark.parametrize("style", ["a1111", "diffusers"])
def test_a_learned_word_stands_for_its_vectors(checkpoint: Path, tmp_path: Path, style: str) -> None:
    plain = load(checkpoint)
    tokenizer, table = plain.tokenizers[0], plain.text_encoders[0].get_input_embeddings().weight
    horse, zebra = (table[tokenizer(word).input_ids[1]] for word in ("horse", "zebra"))
    vectors = torch.stack([horse, zebra])
    file = tmp_path / "spotty.safetensors"
    save_file({"emb_params" if style == "a1111" else "<spotty>": vectors.clone()}, file)
    model = load(checkpoint, embedding=[str(file)])
    wanted = plain.embed(["a horse zebra in the park"]).tokens
    assert torch.allclose(model.embed(["a Spotty in the park"]).tokens, wanted, atol=1e-5)
    assert torch.allclose(model.embed(["a horse zebra in the park"]).tokens, wanted, atol=1e-5)
    assert torch.equal(model.embed(["spottyness"]).tokens, plain.embed(["spottyness"]).tokens)
    named = load(checkpoint, embedding=[f"{file}:my-pet"])
    assert torch.allclose(named.embed(["a my-pet in the park"]).tokens, wanted, atol=1e-5)


def test_a_learned_word_of_xl(build_xl: Callable[..., Path], tmp_path: Path) -> None:
    folder = build_xl()
    plain = load(folder)
    ids = [tokenizer("zebra").input_ids[1] for tokenizer in plain.tokenizers]
    tables = [encoder.get_input_embeddings().weight for encoder in plain.text_encoders]
    vectors = [table[i][None].clone() for table, i in zip(tables, ids, strict=True)]
    file = tmp_path / "stripy.safetensors"
    save_file({"clip_l": vectors[0], "clip_g": vectors[1]}, file)
    ours, wanted = load(folder, embedding=[str(file)]).embed(["a stripy"]), plain.embed(["a zebra"])
    assert torch.allclose(ours.tokens, wanted.tokens, atol=1e-5)
    assert torch.allclose(ours.pooled, wanted.pooled, atol=1e-5)


def test_embeddings_of_another_kind_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    bad = {
        "vectors of 99 numbers": {"emb_params": torch.zeros(2, 99)},
        "not a textual inversion for this": {"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 40)},
        "is not a textual inversion": {"emb_params": torch.zeros(2, 2, 32)},
    }
    for words, state in bad.items():
        save_file(state, tmp_path / "bad.safetensors")
        with pytest.raises(ModelError, match=words):
            load(checkpoint, embedding=[str(tmp_path / "bad.safetensors")])


def test_learned_words_that_contain_each_other_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    plain = load(checkpoint)
    tokenizer, table = plain.tokenizers[0], plain.text_encoders[0].get_input_embeddings().weight
    taught = {"cat": "horse", "cat-toy": "zebra", "a\\1b": "dog", "<ink>": "park", "Big Ben": "horse"}
    files = []
    for i, (word, like) in enumerate(taught.items()):
        save_file({"emb_params": table[tokenizer(like).input_ids[1]].clone()}, tmp_path / f"{i}.safetensors")
        files.append(f"{tmp_path / f'{i}.safetensors'}:{word}")
    model = load(checkpoint, embedding=files)
    cases = {
        "a cat-toy": "a zebra",
        "a <cat-toy>": "a zebra",
        "a cat, cat-toy": "a horse, zebra",
        "a <cat>": "a horse",
        "an a\\1b": "an dog",
        "the ink": "the park",
        "the <INK>": "the park",
        "big ben": "horse",
        "concat": "concat",
    }
    ours, wanted = model.embed([*cases]).tokens, plain.embed([*cases.values()]).tokens
    assert torch.allclose(ours, wanted, atol=1e-5)


def test_a_word_just_taught_is_known(tmp_path: Path) -> None:
    """The embedded model has words of its own, and reports others."""
    width = load_model("embedded", device="cpu").text_encoders[0].config.hidden_size
    save_file({"emb_params": torch.zeros(1, width)}, tmp_path / "ink.safetensors")
    model = load_model("embedded", device="cpu", embedding=str(tmp_path / "ink.safetensors"))
    assert model.unknown_words(["an Ink horse, a gryphon"]) == ["gryphon"]


def test_embeddings_without_numbers_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    vectors = torch.zeros(2, 32)
    bad = {
        "holds NaN or infinity": vectors.clone().fill_(torch.nan),
        "is not a textual inversion": torch.zeros(0, 32),
        "is not a textual inversion.": torch.tensor(1.0),
    }
    for words, values in bad.items():
        save_file({"emb_params": values}, tmp_path / "bad.safetensors")
        with pytest.raises(ModelError, match=words):
            load(checkpoint, embedding=str(tmp_path / "bad.safetensors"))


def test_vectors_of_different_numbers_for_xl_are_refused(
    build_xl: Callable[..., Path], tmp_path: Path
) -> None:
    save_file({"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(2, 40)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="is not a textual inversion"):
        load(build_xl(), embedding=str(tmp_path / "a.safetensors"))


def test_teaching_draws_no_random_numbers(checkpoint: Path, tmp_path: Path) -> None:
    save_file({"emb_params": torch.zeros(3, 32)}, tmp_path / "ink.safetensors")
    before = torch.get_rng_state()
    load(checkpoint, embedding=str(tmp_path / "ink.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"bundle_emb.ink.string_to_param.*": torch.ones(2, 32)}, "LoRA bundled with textual inversions"),
        ({"lora_unet_norm.w_norm": torch.ones(4)}, "LyCORIS file that changes norm layers"),
        ({"lora_unet_conv_in.diff_b": torch.ones(4)}, "file of whole differences"),
        ({f"unet.{TO_K}.lora_A.weight": torch.tensor(1.0)}, "is not a matrix"),
        ({f"unet.{TO_K}.lora_A.weight": torch.full((RANK, 16), torch.inf)}, "holds NaN or infinity"),
        ({f"unet.{TO_K}.lora_A.weight": torch.zeros(0, 16)}, "is not a matrix"),
        ({f"unet.{TO_K}.lora_A.weight": torch.ones(RANK, 16, dtype=torch.int8)}, "is in int8"),
        ({f"unet.{TO_K}.lora_A.weight": torch.ones(RANK, 16).to(torch.float8_e4m3fn)}, "is in float8_e4m3fn"),
    ],
)
def test_what_else_a_lora_file_holds_is_named(
    checkpoint: Path, tmp_path: Path, more: dict[str, Tensor], words: str
) -> None:
    down, up = factors(load(checkpoint).unet.get_submodule(TO_Q).weight, 1)
    state = {f"unet.{TO_Q}.lora_A.weight": down, f"unet.{TO_Q}.lora_B.weight": up}
    save_file({**state, **more}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=words) as caught:
        load(checkpoint, lora=str(tmp_path / "a.safetensors"))
    assert "fetch" in caught.value.hint.lower() or "plain LoRA" in caught.value.hint


def test_a_lora_of_xl_on_another_kind_says_so(
    checkpoint: Path, build_xl: Callable[..., Path], tmp_path: Path
) -> None:
    unet = load(build_xl()).unet
    state: dict[str, Tensor] = {}
    for name, module in unet.named_modules():
        if name.endswith(("attn1.to_q", "attn2.to_k")):
            down, up = factors(module.weight, 1)
            stem = f"lora_unet_{kohya(name)}"
            state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            state[f"{stem}.alpha"] = torch.tensor(4.0)
    save_file(state, tmp_path / "xl.safetensors")
    with pytest.raises(ModelError, match=r"xl\.safetensors (does not fit|fits)") as caught:
        load(checkpoint, lora=str(tmp_path / "xl.safetensors"))
    assert "another kind of checkpoint" in caught.value.hint
