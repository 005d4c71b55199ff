"""The OpenVINO backend: equal to torch, found again, stored, refused where it cannot run, and silent."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import good, invoke
from conftest import Build, tiny_tokenizer, tiny_unet
from pictures import noise
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.backends import Process, table
from diffedit_cli.batch.plan import identity
from diffedit_cli.cli.stored import read_stored
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import DiffeditError, ModelError, SettingError
from diffedit_cli.images.read import read_settings
from diffedit_cli.models import (
    EMBEDDED,
    DiffusersDenoiser,
    backend_of,
    converted_networks,
    load_model,
    optimize,
)
from diffedit_cli.models.clip_tokenizer import clip_tokenizer
from diffedit_cli.models.compiled import OpenvinoUNet, has_bfloat16, is_installed
from diffedit_cli.models.converted import cache_folder, folders_for, is_there
from diffedit_cli.models.hardware import why_no_openvino
from diffedit_cli.models.plain_tokenizer import PlainTokenizer
from diffedit_cli.models.sources import Source
from diffedit_cli.settings import ModelConfig

pytestmark = pytest.mark.skipif(not is_installed(), reason="the extra openvino is not installed")

ROOT = Path(__file__).parent.parent
Run = Callable[..., Any]
QUICK = ["--ref", "horse", "--query", "zebra", "--mask-samples", "2", "--steps", "3", "--seed", "1"]
MOST_ERROR = 2e-5  # in float32, of the largest value
HAS_BFLOAT16 = is_installed() and has_bfloat16()


@pytest.fixture(autouse=True, scope="module")
def cache_of_this_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Other tests are not to find what is converted here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of converted networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture(scope="module")
def converted_once(checkpoint: Path, cache_of_this_file: None) -> Path:
    """The folder of the tiny checkpoint's networks, in float32."""
    return Path(optimize(ModelConfig(str(checkpoint), dtype="float32")).path)


@pytest.fixture
def converted(converted_once: Path, own_cache: Path) -> Path:
    """That folder in a cache that is otherwise empty."""
    return Path(shutil.copytree(converted_once, own_cache / converted_once.name))


@pytest.fixture
def run(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    return invoke


def pair(folder: Path, dtype: str, **options: Any) -> tuple[DiffusersDenoiser, DiffusersDenoiser]:
    """A checkpoint in torch's float32, and in OpenVINO."""
    plain = load_model(folder, device="cpu", backend="torch", **options)
    return plain, load_model(folder, device="cpu", backend="openvino", dtype=dtype, **options)


def eps_of(model: DiffusersDenoiser, batch: int, height: int, width: int) -> torch.Tensor:
    x = draw_noise((4, height, width), [*range(batch)])
    t = torch.linspace(1, 981, batch).long()
    return model.predict(x, t, model.embed(["a horse"] * (batch - 1) + [""]))


def pixels_of(batch: int, height: int, width: int) -> torch.Tensor:
    return draw_noise((3, height, width), [*range(batch)]).sigmoid()


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    return float((found - wanted).abs().max() / wanted.abs().max())


def spread(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The error's root mean square, as a share of the values'."""
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("which", ["build", pytest.param("build_xl", marks=pytest.mark.slow)])
def test_predictions_are_those_of_torch(which: str, request: pytest.FixtureRequest) -> None:
    """Batches and sizes of several kinds; and the first result does not depend on what came between."""
    plain, other = pair(request.getfixturevalue(which)(), "float32")
    first = eps_of(other, 2, 16, 16)
    errors = {
        shape: error(eps_of(other, *shape), eps_of(plain, *shape))
        for shape in ((1, 16, 16), (2, 16, 16), (8, 16, 16), (3, 8, 20))
    }
    assert max(errors.values()) < MOST_ERROR, errors
    texts, wanted = (model.embed(["a horse", "", "zebra " * 40]) for model in (other, plain))
    assert error(texts.tokens, wanted.tokens) < MOST_ERROR
    assert (texts.pooled is None) == (wanted.pooled is None)
    assert wanted.pooled is None or error(texts.pooled, wanted.pooled) < MOST_ERROR
    assert torch.equal(eps_of(other, 2, 16, 16), first)
    assert other.forwards == 2 + 14 + 2


def test_pictures_pass_the_vae_as_in_torch(checkpoint: Path) -> None:
    plain, other = pair(checkpoint, "float32")
    for batch, height, width in ((1, 32, 32), (3, 16, 48)):
        latents = plain.encode(pixels_of(batch, height, width))
        assert error(other.encode(pixels_of(batch, height, width)), latents) < MOST_ERROR
        assert error(other.decode(latents), plain.decode(latents)) < MOST_ERROR


@pytest.mark.skipif(not HAS_BFLOAT16, reason="the CPU has no bfloat16")
def test_bfloat16_is_as_close_as_that_of_torch() -> None:
    """With trained weights, at many timesteps: their embedding must not be rounded."""
    plain, other = pair(EMBEDDED, "bfloat16")
    half = load_model("embedded", device="cpu", backend="torch", dtype="bfloat16")
    assert (other.dtype, half.dtype) == (torch.bfloat16, torch.bfloat16)
    wanted = eps_of(plain, 8, 16, 16)
    assert spread(eps_of(other, 8, 16, 16), wanted) < 1.2 * spread(eps_of(half, 8, 16, 16), wanted)
    pixels = pixels_of(1, 128, 128)
    latents = plain.encode(pixels)
    assert spread(other.encode(pixels), latents) < 1.2 * spread(half.encode(pixels), latents)
    seen = plain.decode(latents)
    assert spread(other.decode(latents), seen) < 1.2 * spread(half.decode(latents), seen)


def test_a_unet_that_is_told_the_guidance_scale(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "lcm")
    tiny_unet(time_cond_proj_dim=8).save_pretrained(tmp_path / "lcm/unet")
    plain, other = pair(tmp_path / "lcm", "float32")
    assert error(eps_of(other, 3, 16, 16), eps_of(plain, 3, 16, 16)) < MOST_ERROR


def test_v_predictions(build: Build) -> None:
    folder = build(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    plain, other = pair(folder, "float32")
    assert other.is_v_prediction
    assert error(eps_of(other, 2, 16, 16), eps_of(plain, 2, 16, 16)) < MOST_ERROR


@pytest.mark.parametrize("name", ["embedded", "sd1", "sd2"])
def test_texts_become_the_same_tokens(name: str, tmp_path: Path) -> None:
    """Those of transformers, for texts of every kind: too long, accents, other scripts, symbols, spaces."""
    theirs = (
        clip_tokenizer("!" if name == "sd2" else "<|endoftext|>") if name != "embedded" else tiny_tokenizer()
    )
    theirs.backend_tokenizer.save(str(tmp_path / "words.json"))
    ours = PlainTokenizer(tmp_path / "words.json", theirs.model_max_length, theirs.pad_token_id)
    texts = [
        "",
        "a horse",
        "ÉLAN  vital\n\t!",
        "don't 3.5-litre",
        "馬と人 🐎",
        "zebra " * 100,
        "!!!",
        "<|endoftext|> a",
    ]
    window = theirs.model_max_length
    wanted = theirs(
        texts, padding="max_length", max_length=window, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(ours(texts, padding="max_length", max_length=window).input_ids, wanted)
    for text in texts:
        assert ours(text).input_ids == theirs(text, verbose=False).input_ids


def test_a_run_imports_neither_diffusers_nor_transformers(checkpoint: Path) -> None:
    load_model(checkpoint, device="cpu", backend="openvino", dtype="float32")
    program = """if True:
        import sys
        from diffedit_cli import EditConfig, edit_image, load_image, load_model
        model = load_model(sys.argv[1], device="cpu", dtype="float32")
        edit_image(model, load_image(sys.argv[2]), EditConfig("horse", "zebra", steps=2, size=32, seed=1))
        print(sorted({"openvino", "diffusers", "transformers", "peft", "torch._dynamo"} & {*sys.modules}))
    """
    words = [str(checkpoint), str(ROOT / "examples/horse_park.jpg")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "['openvino']", done.stderr


def test_a_lora_and_a_word_work_with_converted_networks(
    checkpoint: Path, own_cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    text = "text_encoder.encoder.layers.0.self_attn.q_proj"
    down, up = torch.randn(2, 4, 16), torch.randn(2, 16, 4)
    wide_down, wide_up = torch.randn(4, 32), torch.randn(32, 4)
    state = {f"{layer}.lora_A.weight": down[0], f"{layer}.lora_B.weight": up[0]}
    state |= {f"{text}.lora_A.weight": wide_down, f"{text}.lora_B.weight": wide_up}
    save_file(state, tmp_path / "style.safetensors")
    save_file({"emb_params": torch.ones(1, 32)}, tmp_path / "ink.safetensors")
    lora = {"lora": str(tmp_path / "style.safetensors")}
    bare, _ = pair(checkpoint, "float32")
    for options in (lora, {**lora, "embedding": str(tmp_path / "ink.safetensors")}):
        plain, other = pair(checkpoint, "float32", **options)
        found, wanted = (eps_of(model, 2, 16, 16) for model in (other, plain))
        assert error(found, wanted) < MOST_ERROR
        assert error(eps_of(bare, 2, 16, 16), wanted) > 0.01
        assert error(other.embed(["ink"]).tokens, plain.embed(["ink"]).tokens) < MOST_ERROR
    assert [len(one.lora) for one in converted_networks()] == [0, 1]  # a word changes no network
    source, file = Source(checkpoint), lora["lora"]
    folders = [folders_for(source, given, [torch.float32]) for given in ((), (file,), (f"{file}:0.5",))]
    assert [is_there(folder[torch.float32]) for folder in folders] == [True, True, False]


def test_auto_uses_what_is_converted(checkpoint: Path, own_cache: Path) -> None:
    torchs = load_model(checkpoint, device="cpu")
    assert torchs.origin["backend"] == "torch"
    assert not own_cache.exists()
    steps: list[tuple[int, int]] = []
    found = optimize(ModelConfig(str(checkpoint), dtype="float32"), lambda _, *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert converted_networks() == [found]
    assert optimize(ModelConfig(str(checkpoint), dtype="float32"), lambda *_: pytest.fail("again")) == found
    model = load_model(checkpoint, device="cpu")
    assert (model.origin["backend"], model.origin["dtype"]) == ("openvino", "float32")
    assert isinstance(model.unet, OpenvinoUNet)
    shutil.copytree(checkpoint, own_cache.parent / "moved")
    assert load_model(own_cache.parent / "moved", device="cpu").origin["backend"] == "openvino"
    for options in ({"dtype": "float16"}, {"backend": "torch"}, {"dtype": "bfloat16"}):
        other = load_model(checkpoint, device="cpu", **options)
        assert other.origin["backend"] == "torch"
    assert torch.equal(
        eps_of(load_model(checkpoint, device="cpu", backend="torch"), 2, 16, 16), eps_of(torchs, 2, 16, 16)
    )


def test_other_weights_are_other_networks(build: Build, own_cache: Path) -> None:
    """The hash is of the contents: the same folder with other weights is converted anew."""
    folder = build()
    before = eps_of(load_model(folder, device="cpu", backend="openvino", dtype="float32"), 1, 16, 16)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: 1.1 * weight for name, weight in load_file(file).items()}, file)
    plain, other = pair(folder, "float32")
    after = eps_of(other, 1, 16, 16)
    assert error(after, eps_of(plain, 1, 16, 16)) < MOST_ERROR
    assert error(after, before) > 0.01
    assert len(converted_networks()) == 2


@pytest.mark.parametrize(
    ("options", "device", "what"),
    [
        ({"dtype": "float16"}, "cpu", "does not compute in float16"),
        ({}, "cuda", "runs on the CPU, and not on cuda"),
        ({}, "mps", "runs on the CPU, and not on mps"),
    ],
)
def test_what_openvino_cannot_do_is_refused(options: dict[str, Any], device: str, what: str) -> None:
    refusal = why_no_openvino(ModelConfig(**options), torch.device(device))
    assert isinstance(refusal, SettingError)
    assert what in refusal.message
    if device == "cpu":
        with pytest.raises(SettingError, match=what):
            load_model("embedded", device="cpu", backend="openvino", **options)


def test_what_openvino_runs_is_not_compiled(checkpoint: Path, converted: Path) -> None:
    with pytest.raises(SettingError, match="--compile cannot be used with --backend openvino"):
        ModelConfig(compile=True, backend="openvino")
    assert backend_of(ModelConfig(str(checkpoint))) == "openvino"
    assert backend_of(ModelConfig(str(checkpoint), compile=True)) == "torch"


def test_a_machine_without_the_package(
    run: Run, checkpoint: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["photo.png", *QUICK, "--model", checkpoint, "--device", "cpu", "--dtype", "float32"]
    good(run("edit", *flags, "--backend", "openvino", "-o", "out.png"))
    monkeypatch.setitem(sys.modules, "openvino", None)  # as Python spells a missing module
    good(run("edit", *flags, "-o", "torch.png"))
    assert (read_settings("torch.png") or {})["backend"] == "torch"
    for words in (["edit", *flags, "--backend", "openvino"], ["rerun", "out.png", "--model", checkpoint]):
        done = run(*words, "-o", "other.png")
        assert done.exit_code == 1
        assert (
            "needs the package openvino, which is not installed. pip install 'diffedit-cli[openvino]'"
            in done.stderr
        )
    assert not Path("other.png").exists()


@pytest.mark.slow
def test_a_result_says_its_backend_and_is_made_again(run: Run, checkpoint: Path) -> None:
    model = ["--model", checkpoint, "--device", "cpu"]
    good(run("edit", "photo.png", *QUICK, *model, "-o", "torch.png"))
    done = good(run("models", "optimize", checkpoint, "--dtype", "float32", "--json"))
    assert json.loads(done.stdout)["model"] == str(checkpoint)
    facts = json.loads(good(run("edit", "photo.png", *QUICK, *model, "-o", "out.png", "--json")).stdout)
    assert facts["settings"]["backend"] == "openvino"
    listed = json.loads(good(run("models", "list", "--json")).stdout)["converted"]
    assert [(one["model"], one["dtype"]) for one in listed] == [(str(checkpoint), "float32")]
    assert (
        f"Converted for OpenVINO {listed[0]['openvino']}: {checkpoint}, float32"
        in run("models", "list").stdout
    )
    for name in ("out", "torch"):
        good(run("rerun", f"{name}.png", "--model", checkpoint))
        assert Path(f"{name}-rerun.png").read_bytes() == Path(f"{name}.png").read_bytes()
    assert len(json.loads(good(run("models", "clean", checkpoint, "--json")).stdout)["removed"]) == 1
    assert "nothing to remove" in good(run("models", "clean")).stderr
    good(run("rerun", "out.png", "--model", checkpoint, "-o", "again.png"))  # converts by itself
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_results_of_older_versions_are_rerun_with_torch() -> None:
    assert read_stored(ROOT / "tests/data/edit-0.4.0.png")["backend"] == "torch"


@pytest.mark.slow
def test_the_embedded_model_edits_alike_and_old_results_stay(run: Run) -> None:
    """One edit with each backend, and an old result before and after converted networks are at hand."""
    horse = ROOT / "examples/horse_park.jpg"
    words = [horse, "--ref", "horse", "--query", "zebra", "--seed", "1"]
    old = ROOT / "tests/data/edit-0.4.0.png"
    good(run("rerun", old, horse, "-o", "before.png"))
    good(run("edit", *words, "--backend", "torch", "-o", "torch.png"))
    good(run("edit", *words, "--backend", "openvino", "--dtype", "float32", "-o", "other.png"))
    one, two = (torch.tensor([*Image.open(name).tobytes()]).float() for name in ("torch.png", "other.png"))
    assert (one - two).square().mean().sqrt() < 1
    good(run("rerun", old, horse, "-o", "again.png"))
    assert Image.open("again.png").tobytes() == Image.open("before.png").tobytes()


def test_a_batch_keeps_to_one_backend(checkpoint: Path, own_cache: Path, converted_once: Path) -> None:
    before = identity(ModelConfig(str(checkpoint), device="cpu"))
    shutil.copytree(converted_once, own_cache / converted_once.name)
    after = identity(ModelConfig(str(checkpoint), device="cpu"))
    assert (before["backend"], after["backend"]) == ("torch", "openvino")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_compiled_gives_the_same_and_has_no_weights_of_its_own(
    checkpoint: Path, own_cache: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not HAS_BFLOAT16:  # its weights are stored as for bfloat16 all the same, and computed with in float32
        monkeypatch.setattr("diffedit_cli.models.hardware.has_bfloat16", lambda: True)
    first, again = (
        eps_of(load_model(checkpoint, device="cpu", backend="openvino", dtype=dtype), 2, 8, 8) for _ in "ab"
    )
    assert torch.equal(first, again)
    folder = Path(converted_networks()[0].path)
    weights = (folder / "unet.bin").read_bytes()
    kept = b"".join(file.read_bytes() for file in (folder / "compiled").glob("*.blob"))
    assert weights[len(weights) // 2 :][:256] not in kept


def test_spoilt_networks_are_told(checkpoint: Path, converted: Path, run: Run) -> None:
    weights = converted / "unet.bin"
    whole = weights.read_bytes()
    eps_of(load_model(checkpoint, device="cpu"), 1, 8, 8)  # which keeps them compiled
    for content in (whole[: len(whole) // 2], b""):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=r"cannot be run.*diffedit models clean"):
            eps_of(load_model(checkpoint, device="cpu"), 1, 8, 8)
    (converted / "about.json").write_text("{}")
    with pytest.raises(ModelError, match=r"spoilt.*diffedit models clean"):
        load_model(checkpoint, device="cpu", backend="openvino", dtype="float32")
    good(run("models", "clean"))
    assert load_model(checkpoint, device="cpu").origin["backend"] == "torch"


def test_a_conversion_appears_as_a_whole_or_not_at_all(
    checkpoint: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(str(checkpoint), dtype="float32")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(config, stop)
    assert converted_networks() == []
    assert [path.suffix for path in own_cache.iterdir()] in ([], [".lock"])
    found = Path(optimize(config).path)
    part = found.with_name(f".{found.name}.part")  # what a killed run leaves
    found.rename(part)
    (part / "unet.xml").write_text("half")
    assert not converted_networks()
    assert Path(optimize(config).path) == found
    assert "half" not in (found / "unet.xml").read_text()
    assert not part.exists()


def test_a_cache_that_cannot_be_written_is_told(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DiffeditError, match=r"cannot be stored in .*file/diffedit.* or let torch run"):
        load_model(checkpoint, device="cpu", backend="openvino")


def test_processes_that_convert_at_once_share_the_work(
    checkpoint: Path, tmp_path: Path, own_cache: Path
) -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(optimize(ModelConfig(str(checkpoint), dtype="float32"))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(converted_networks()) == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied(checkpoint: Path, again: Callable[[Any], Any]) -> None:
    _, model = pair(checkpoint, "float32")
    wanted, pixels = eps_of(model, 2, 16, 16), model.decode(draw_noise((4, 16, 16), [1]))
    other = again(model)
    assert torch.equal(eps_of(other, 2, 16, 16), wanted)
    assert torch.equal(other.decode(draw_noise((4, 16, 16), [1])), pixels)


def test_threads_get_the_same(checkpoint: Path) -> None:
    _, model = pair(checkpoint, "float32")
    wanted = {sides: eps_of(model, 2, sides, sides) for sides in (8, 12, 16)}
    good: list[bool] = []

    def work(sides: int) -> None:
        good.append(all(torch.equal(eps_of(model, 2, sides, sides), wanted[sides]) for _ in range(10)))

    threads = [threading.Thread(target=work, args=(sides,)) for sides in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 3


def test_low_memory_works_in_pieces(checkpoint: Path) -> None:
    plain, _ = pair(checkpoint, "float32")
    low = load_model(checkpoint, device="cpu", backend="openvino", dtype="float32", low_memory=True)
    rows: list[int] = []
    low.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    assert error(eps_of(low, 3, 16, 16), eps_of(plain, 3, 16, 16)) < MOST_ERROR
    assert rows == [1, 1, 1]
    large = draw_noise((4, 40, 40), [1])
    plain = load_model(checkpoint, device="cpu", backend="torch", low_memory=True)
    assert low.vae.use_tiling
    assert error(low.decode(large), plain.decode(large)) < MOST_ERROR


LISTEN = """
import json, sys
seen = []
def hear(event, args):
    if event in CALLS or event.startswith(("subprocess.", "os.fork", "os.posix_spawn", "os.exec")):
        seen.append(event)
CALLS = {"socket." + name for name in ("connect", "getaddrinfo", "gethostbyname", "sendto", "sendmsg")}
sys.addaudithook(hear)
"""
CONVERT = """
from diffedit_cli import EditConfig, edit_image, load_image, load_model
model = load_model(sys.argv[1], device="cpu", backend="openvino")
edit_image(model, load_image(sys.argv[2]), EditConfig(ref="horse", query="zebra", steps=2, size=32, seed=1))
from openvino.tools.ovc.telemetry_utils import tm
print(json.dumps([seen, tm.__name__, "openvino_telemetry" in sys.modules]))
"""


@pytest.mark.slow
def test_nothing_is_sent(checkpoint: Path, tmp_path: Path) -> None:
    """Importing, converting and an edit open no socket, start no process, and leave no file of telemetry.

    The plain import of openvino does so; outside of CI, which its telemetry spares.
    """
    spares = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "JENKINS_URL", "TRAVIS", "CIRCLECI")
    environment = {name: value for name, value in os.environ.items() if name not in spares}
    found: dict[str, Any] = {}
    for name, program in {"ours": CONVERT, "plain": "import openvino; print(json.dumps([seen]))"}.items():
        home = tmp_path / name
        home.mkdir()
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT)}
        arguments = [str(checkpoint), str(ROOT / "examples/horse_park.jpg")]
        done = subprocess.run(
            [sys.executable, "-c", LISTEN + program, *arguments],
            capture_output=True, text=True, check=True, cwd=home, env={**environment, **own},
        )  # fmt: skip
        found[name] = json.loads(done.stdout), {path.name for path in home.iterdir()}
    assert found["ours"] == ([[], "openvino.tools.ovc.telemetry_stub", False], {"cache"})
    events, files = found["plain"]
    assert events[0] or files  # the test would show nothing otherwise


@pytest.mark.slow
def test_contenders_edit_in_turns_and_are_compared() -> None:
    """benchmarks/backends.py: each in a process, as a share of others' seconds."""
    with Process("openvino float32", "embedded", side=32, steps=1) as process:
        rows = [process.edit() for _ in range(2)]
    assert all(row["forwards"] > 0 and row["cpu"] > 0 and 0 < row["peak_gib"] < 4 for row in rows)
    medians = {
        name: {"seconds": seconds, "cpu": 1.0, "peak_gib": 0.5}
        for name, seconds in (("diffusers float32", 8.0), ("torch float32", 4.0), ("openvino float32", 2.0))
    }
    assert "| openvino float32 | 2.00 | 1.00 | 0.50 | 0.25 | 0.50 |" in table(medians).splitlines()
