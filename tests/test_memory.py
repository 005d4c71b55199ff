"""memory.py, and the denoiser where memory runs out: real networks that raise what torch raises."""

import copy
import pickle
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_models import (
    DEV_SCHEDULER,
    QWEN_SCHEDULER,
    SD3_SCHEDULER,
    klein_parts,
    qwen_image_parts,
    save_flow,
    sd3_parts,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from diffedit_cli import load_image
from diffedit_cli.api import edit_image
from diffedit_cli.cli.app import app
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import MemoryShort, ModelError
from diffedit_cli.models import DiffusersDenoiser, describe, load, load_model, memory, needs
from diffedit_cli.models.memory import Offload, OnDemand, attempt, is_short, set_tiles, weight_bytes
from diffedit_cli.models.quantised import is_quantised
from diffedit_cli.settings import EditConfig, MaskConfig

CPU = torch.device("cpu")
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: not enough memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("could not create a primitive"),
    RuntimeError("can't start new thread"),
    MemoryError(),
]
HORSE = Path(__file__).parents[1] / "examples/horse_park.jpg"


@pytest.fixture
def own(checkpoint: Path) -> DiffusersDenoiser:
    """The tiny model, loaded for this test alone."""
    return load_model(checkpoint, device="cpu")


@pytest.fixture
def limit() -> Iterator[Callable[..., list[int]]]:
    """limit(module, size, most, error): raise the error where size(input) > most; returns the sizes seen."""
    handles = []

    def put(module: nn.Module, size: Callable[[Tensor], int], most: int, error: BaseException) -> list[int]:
        seen: list[int] = []

        def check(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append(size(args[0]))
            if seen[-1] > most:
                raise error

        handles.append(module.register_forward_pre_hook(check))
        return seen

    yield put
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: f"{type(error).__name__} {str(error)[:20]}")
def test_the_unet_takes_fewer_samples_where_memory_runs_out(
    own: DiffusersDenoiser, limit: Callable[..., list[int]], error: BaseException
) -> None:
    x, t = draw_noise((4, 8, 8), list(range(20))), torch.arange(0, 1000, 50)
    text = own.embed([f"a {word}" for word in ["horse", "zebra"] * 10])
    whole = own.predict(x, t, text)
    seen = limit(own.unet, len, 5, error)
    assert torch.allclose(own.predict(x, t, text), whole, atol=1e-5)
    assert seen == [20, 10, 5, 5, 5, 5]
    seen.clear()
    assert torch.allclose(own.predict(x, t, text), whole, atol=1e-5)
    assert seen == [5, 5, 5, 5]  # it is not tried again
    assert [notice.split(",")[0] for notice in own.notices] == 2 * ["Memory ran out"]
    assert own.forwards == 60


@pytest.mark.parametrize(("low_memory", "flag"), [(False, "--low-memory"), (True, "--size")])
def test_one_sample_too_many_is_an_error_that_names_the_next_flag(
    checkpoint: Path, limit: Callable[..., list[int]], low_memory: bool, flag: str
) -> None:
    model = load_model(checkpoint, device="cpu", low_memory=low_memory)
    seen = limit(model.unet, len, 0, SHORTAGES[0])
    with pytest.raises(MemoryShort, match="too small for one sample") as caught:
        model.predict(draw_noise((4, 8, 8), [1, 2]), torch.tensor([1, 2]), model.embed(["a", "b"]))
    assert flag in caught.value.hint
    assert seen == ([1] if low_memory else [2, 1])


def test_a_text_encoder_that_does_not_fit_is_an_error(own: DiffusersDenoiser) -> None:
    def fail(*_: object) -> None:
        raise SHORTAGES[1]

    handle = own.text_encoders[0].register_forward_pre_hook(fail)
    with pytest.raises(MemoryShort, match="too small for the text encoder") as caught:
        own.embed(["a horse"])
    handle.remove()
    assert "--low-memory" in caught.value.hint
    assert own.embed(["a horse"]).tokens.shape[0] == 1


def test_other_errors_are_not_taken_for_little_memory(
    own: DiffusersDenoiser, limit: Callable[..., list[int]]
) -> None:
    seen = limit(own.unet, len, 0, RuntimeError("the size of tensor a must match"))
    with pytest.raises(RuntimeError, match="must match"):
        own.predict(draw_noise((4, 8, 8), [1, 2]), torch.tensor([1, 2]), own.embed(["a", "b"]))
    assert seen == [2]


def side(x: Tensor) -> int:
    return max(x.shape[2:])


def test_the_vae_works_in_tiles_where_memory_runs_out(
    own: DiffusersDenoiser, limit: Callable[..., list[int]]
) -> None:
    latents = draw_noise((4, 64, 48), [1, 2])
    whole = own.decode(latents)
    seen = limit(own.vae.decoder.conv_in, side, 20, SHORTAGES[0])
    tiled = own.decode(latents)
    assert seen[:3] == [64, 32, 16]
    assert max(seen[2:]) == 16
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.03
    assert "tiles of 32 pixels" in own.notices[-1]


@pytest.mark.parametrize(
    ("parts", "scheduler"), [(klein_parts, DEV_SCHEDULER), (qwen_image_parts, QWEN_SCHEDULER)]
)
def test_other_vaes_work_in_tiles_too(
    parts: Callable[..., dict[str, Any]], scheduler: dict[str, Any], tmp_path: Path
) -> None:
    own = load_model(save_flow(tmp_path, parts(), scheduler), device="cpu", dtype="float32")
    latents = draw_noise((own.latent_channels, 40, 24), [1])
    whole, seen = own.decode(latents), list[int]()
    own.vae.decoder.conv_in.register_forward_hook(lambda _, args, __: seen.append(max(args[0].shape[-2:])))
    set_tiles(own.vae, 16, own.factor)
    tiled = own.decode(latents)
    assert tiled.shape == whole.shape
    assert max(seen) <= 16
    assert (tiled - whole).abs().mean() < 0.5 * (tiled.flip(2) - whole).abs().mean()
    assert own.encode(whole).shape == latents.shape


def test_the_vae_encodes_in_tiles_where_memory_runs_out(
    own: DiffusersDenoiser, checkpoint: Path, limit: Callable[..., list[int]]
) -> None:
    pixels = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    tiled = load_model(checkpoint, device="cpu")
    set_tiles(tiled.vae, 32, tiled.factor)
    seen = limit(own.vae.encoder.conv_in, side, 64, SHORTAGES[1])
    assert torch.equal(own.encode(pixels), tiled.encode(pixels))
    assert seen[:2] == [128, 64]


def test_a_vae_that_does_not_fit_in_tiles_is_an_error(
    own: DiffusersDenoiser, limit: Callable[..., list[int]]
) -> None:
    seen = limit(own.vae.decoder.conv_in, side, 0, SHORTAGES[0])
    with pytest.raises(MemoryShort, match="too small for the VAE") as caught:
        own.decode(draw_noise((4, 64, 64), [1]))
    assert "--low-memory" in caught.value.hint
    assert seen == [64, 32, 16]


def test_low_memory_gives_the_same_in_smaller_pieces(own: DiffusersDenoiser, checkpoint: Path) -> None:
    low = load_model(checkpoint, device="cpu", low_memory=True)
    rows: list[int] = []
    low.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    x, t, text = draw_noise((4, 16, 16), [1, 2, 3]), torch.tensor([1, 500, 900]), own.embed(["a", "b", "c"])
    assert torch.allclose(low.predict(x, t, text), own.predict(x, t, text), atol=1e-5)
    assert rows == [1, 1, 1]
    assert low.vae.use_slicing
    assert low.vae.tile_latent_min_size == 16
    assert torch.allclose(low.decode(x), own.decode(x), atol=1e-5)  # no larger than one tile
    assert low.notices == []


def test_an_edit_goes_on_with_little_memory(own: DiffusersDenoiser, limit: Callable[..., list[int]]) -> None:
    picture = load_image(HORSE)
    config = EditConfig(ref="horse", query="zebra", steps=4, seed=1, mask=MaskConfig(samples=4))
    plain = edit_image(own, picture, config)
    limit(own.unet, len, 3, SHORTAGES[0])
    result = edit_image(own, picture, config)
    gap = torch.tensor([a != b for a, b in zip(plain.mask.tobytes(), result.mask.tobytes(), strict=True)])
    assert gap.float().mean() < 0.01
    assert result.changed_outside == 0
    assert [notice for notice in result.notices if "UNet takes 3 at a time" in notice]  # two maps give it 6


def test_low_memory_is_chosen_where_memory_is_short(
    checkpoint: Path, own: DiffusersDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = [own.unet, own.vae, *own.text_encoders]
    weights = weight_bytes(networks)
    positions = sum(buffer.nbytes for network in networks for buffer in network.buffers())
    assert weights == sum(4 * p.numel() for network in networks for p in network.parameters()) + positions
    for free, cpu, cuda in ((2**27, True, True), (2**28 + weights, False, True), (2**40, False, False)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert is_short(networks, CPU) == cpu
        assert is_short(networks, torch.device("cuda")) == cuda
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    model = load_model(checkpoint, device="cpu")
    assert model.low_memory
    assert "--low-memory is on" in model.notices[0]
    assert not own.low_memory


def test_what_a_failed_run_held_is_released() -> None:
    held: list[object] = []

    class Big:
        def __del__(self) -> None:
            held.remove(id(self))

    def run() -> None:
        big = Big()
        held.append(id(big))
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert attempt(run, CPU) is None
    assert held == []


def test_hooks_of_offloading_change_nothing(own: DiffusersDenoiser) -> None:
    x, t, text = draw_noise((4, 8, 8), [1]), torch.tensor([500]), own.embed(["a horse"])
    eps, pixels = own.predict(x, t, text), own.decode(x)
    own.offload = Offload([own.unet, own.vae, *own.text_encoders], CPU)
    assert torch.equal(own.embed(["a horse"]).tokens, text.tokens)
    assert torch.equal(own.predict(x, t, text), eps)
    assert torch.equal(own.decode(x), pixels)


def test_a_network_that_is_too_large_moves_layer_by_layer(
    own: DiffusersDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t, text = draw_noise((4, 8, 8), [1]), torch.tensor([500]), own.embed(["a horse"])
    eps = own.predict(x, t, text)
    monkeypatch.setattr(memory, "is_short", lambda networks, device: networks == [own.unet])
    own.offload = Offload([own.unet, own.vae, *own.text_encoders], CPU)
    assert [network for network, _ in own.offload.hooks] == [own.vae, *own.text_encoders]
    assert hasattr(own.unet.conv_in, "_diffusers_hook")
    assert torch.equal(own.predict(x, t, text), eps)
    own.decode(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_network_at_a_time_is_on_the_gpu(checkpoint: Path) -> None:
    low = load_model(checkpoint, device="cuda", dtype="float32", low_memory=True)
    plain = load_model(checkpoint, device="cuda", dtype="float32")
    networks = [low.unet, low.vae, *low.text_encoders]

    def on_gpu() -> list[bool]:
        return [next(network.parameters()).is_cuda for network in networks]

    pixels = torch.rand(1, 3, 32, 32)
    x0 = low.encode(pixels)
    assert on_gpu() == [False, True, False]
    text = low.embed(["a horse"])
    assert on_gpu() == [False, False, True]
    eps = low.predict(x0, torch.tensor([500], device="cuda"), text)
    assert on_gpu() == [True, False, False]
    assert torch.allclose(eps, plain.predict(x0, torch.tensor([500], device="cuda"), text), atol=1e-4)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_flow(tmp_path_factory.mktemp("models") / "sd3", sd3_parts(), SD3_SCHEDULER)


def held(model: DiffusersDenoiser) -> list[bool]:
    """Whether the transformer and each text encoder are in memory."""
    return [bool(network.held) for network in (model.unet, *model.text_encoders)]


def test_the_networks_of_a_flow_take_turns_in_memory(sd3: Path) -> None:
    plain, low = (load_model(sd3, device="cpu", low_memory=low_memory) for low_memory in (False, True))
    assert held(low) == [False, False, False, False]
    networks = [plain.unet, *plain.text_encoders]
    assert weight_bytes([low.unet, *low.text_encoders]) == weight_bytes(networks)
    latents, t = draw_noise((16, 16, 16), [1]), torch.tensor([300.0])
    transformer: Callable[[], object] = lambda: None  # noqa: E731
    for text in ("a horse", "a zebra"):
        embeds, wanted = (model.embed([text]) for model in (low, plain))
        assert held(low) == [False, False, False, True]
        assert transformer() is None
        assert torch.equal(embeds.tokens, wanted.tokens)
        encoder = weakref.ref(low.text_encoders[2].held[0].encoder)
        assert encoder() is not None
        assert torch.equal(low.predict(latents, t, embeds), plain.predict(latents, t, wanted))
        assert held(low) == [True, False, False, False]
        assert encoder() is None
        transformer = weakref.ref(low.unet.held[0].transformer_blocks)
        low.decode(latents)
        assert torch.equal(low.embed([text]).tokens, wanted.tokens)  # which is known
        assert held(low) == [True, False, False, False]
    before = held(low)
    for network, whole in zip([low.unet, *low.text_encoders], networks, strict=True):
        state, right = network.state_dict(), whole.state_dict()
        assert state.keys() == right.keys()
        assert all(torch.equal(state[key], right[key]) for key in state)
    assert held(low) == before
    wanted = plain.embed(["a horse"])
    for copied in (copy.deepcopy(low), pickle.loads(pickle.dumps(low)), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(copied.embed(["a horse"]).tokens, wanted.tokens)
        assert torch.equal(copied.embed(["a cow"]).tokens, plain.embed(["a cow"]).tokens)
        found, right = (one.predict(latents, t, wanted) for one in (copied, plain))
        assert torch.allclose(found, right, atol=1e-5)


def test_weights_on_demand_are_found_from_every_folder(sd3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sd3.parent)
    model = load_model(sd3.name, device="cpu", low_memory=True)
    monkeypatch.chdir("/")
    assert model.embed(["a horse"]).tokens.isfinite().all()


def test_the_networks_take_turns_where_they_do_not_fit_together(
    sd3: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (load, memory, needs):
        monkeypatch.setattr(module, "free_bytes", lambda _: 2**27)
    model = load_model(sd3, device="cpu")
    networks = [model.unet, *model.text_encoders]
    assert all(isinstance(one, OnDemand) for one in networks)
    taken = weight_bytes([model.vae, *networks])
    assert f"take {taken / 1e9:.1f} GB), so --low-memory is on" in model.notices[0]
    assert not isinstance(load_model(checkpoint, device="cpu").unet, OnDemand)
    needed, largest = describe(str(sd3))["memory"], max(one.bytes for one in networks)
    assert largest <= needed["at_once"] < largest + weight_bytes([model.vae]) + 1000
    assert needed["at_once"] < needed["kept"]
    told = CliRunner().invoke(app, ["models", "info", str(sd3)]).output
    assert "--low-memory will be on, with 1 MB of the weights in memory at a time" in " ".join(told.split())


def test_weights_on_demand_are_checked_before_the_long_work(sd3: Path, tmp_path: Path) -> None:
    shutil.copytree(sd3, tmp_path / "spoilt")
    file = tmp_path / "spoilt/text_encoder_3/model.safetensors"
    state = load_file(file)
    del state["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(state, file)
    with pytest.raises(ModelError, match=r"text_encoder_3 cannot be loaded: 1 tensor is missing"):
        load_model(tmp_path / "spoilt", device="cpu", low_memory=True)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_t5_keeps_its_quantised_weights_with_low_memory(dtype: str, sd3: Path, tmp_path: Path) -> None:
    shutil.copytree(sd3, tmp_path / "sd3")
    file = tmp_path / "sd3/text_encoder_3/model.safetensors"
    eight = torch.float8_e4m3fn
    save_file({key: x.to(eight) if x.dim() == 2 else x for key, x in load_file(file).items()}, file)
    plain, low = (
        load_model(tmp_path / "sd3", device="cpu", dtype=dtype, low_memory=low_memory)
        for low_memory in (False, True)
    )
    embeds, wanted = (model.embed(["a horse", "a zebra"]) for model in (low, plain))
    assert torch.equal(embeds.tokens, wanted.tokens)
    t5 = low.text_encoders[2].held[0]
    assert is_quantised(t5)
    assert not is_quantised(plain.text_encoders[2])
    kinds = {block.layer[-1].DenseReluDense.wo.weight.dtype for block in t5.encoder.block}
    assert kinds == {torch.float32}
