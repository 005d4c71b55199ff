"""Networks that OpenVINO runs on the CPU, called like those of torch."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, is_shortage
from .networks import empty_network, first_sentence

TELEMETRY = "openvino_telemetry"
REMOVE = "Remove the converted networks: diffedit models clean."
SMALL = 2**28  # bytes of weights up to which a network is compiled for each shape
MOST_SHAPES = 8  # for which one is kept compiled in memory
MOST_KEPT = 30  # compiled networks of a folder on disk
MORE_INPUTS = ("timestep_cond", "text_embeds", "time_ids")  # that some UNets take, in this order
LOCK = threading.Lock()
Shapes = tuple[torch.Size, ...]


def is_installed() -> bool:
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """Import openvino without the telemetry that it would otherwise start.

    If its telemetry cannot be imported, openvino falls back to a stub that does nothing.
    """
    with LOCK:
        had, before = TELEMETRY in sys.modules, sys.modules.get(TELEMETRY)
        sys.modules[TELEMETRY] = None  # pyright: ignore[reportArgumentType] as Python spells a missing module
        try:
            import openvino
        finally:
            del sys.modules[TELEMETRY]
            if had and before is not None:
                sys.modules[TELEMETRY] = before
        return openvino


def has_bfloat16() -> bool:
    """Whether OpenVINO multiplies in bfloat16 on this CPU."""
    core: Any = import_openvino().Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def products(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which converted networks of this kind multiply, apart from an 8-bit UNet."""
    if dtype != torch.int8:
        return dtype
    return torch.bfloat16 if has_bfloat16() else torch.float32


@contextmanager
def told(file: Path) -> Generator[None, None, None]:
    """Turn what openvino raises about the files of a network into one sentence, unless memory ran out."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_shortage(error):
            raise
        raise ModelError(f"{file} cannot be run: {first_sentence(error)}", REMOVE) from error


class OpenvinoNetwork(nn.Module):
    """A converted network: tensors in, a float32 tensor out; on as many threads as torch has.

    file: its .xml. dtype: of its products and activations, float32 or bfloat16. A small network is compiled
    for each shape of its inputs, and then runs faster; a large one only once, since each compilation packs
    the weights again. So no result depends on what ran before. It can be copied and pickled, and shared by
    threads, which take turns. Raises ModelError for files that cannot be used.
    """

    def __init__(self, file: Path, dtype: torch.dtype) -> None:
        super().__init__()
        self.file, self.precision = file, dtype
        self.register_buffer("like", torch.empty(0), persistent=False)  # tells diffusers a dtype and a device
        self._open()

    def _open(self) -> None:
        self._core: Any = import_openvino().Core()
        with told(self.file):
            self._bytes = self._weights.stat().st_size
        self._whole: Any = None
        self._requests: dict[Shapes, Any] = {}
        self._turn = threading.Lock()

    @property
    def _weights(self) -> Path:
        return self.file.with_suffix(".bin")

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.infer(*inputs)[0]

    def infer(self, *inputs: Tensor) -> list[Tensor]:
        """All outputs, float32."""
        arrays = [(x.float() if x.is_floating_point() else x).contiguous().numpy() for x in inputs]
        with self._turn:
            request = self._request(tuple(x.shape for x in inputs) if self._bytes < SMALL else ())
            found = request.infer(arrays, share_inputs=True)
            return [torch.from_numpy(found[number]) for number in range(len(found))]

    def _request(self, shapes: Shapes) -> Any:
        """The network compiled for these shapes of its inputs, or without shapes for any."""
        if shapes not in self._requests:
            while len(self._requests) >= MOST_SHAPES:
                del self._requests[next(iter(self._requests))]
            with told(self.file):
                self._requests[shapes] = self._compile(shapes).create_infer_request()
        return self._requests[shapes]

    def _compile(self, shapes: Shapes) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "CACHE_MODE": "OPTIMIZE_SIZE",  # what is kept has no weights of its own
        }
        if not shapes:
            return self._core.compile_model(self._core.read_model(self.file), "CPU", options)
        kept = self._kept(shapes, options)
        if kept.is_file():
            return self._core.import_model(
                kept.read_bytes(), "CPU", {**options, "WEIGHTS_PATH": str(self._weights)}
            )
        if self._whole is None:
            self._whole = self._core.read_model(self.file)
        model = self._whole.clone()  # the weights are mapped into memory once
        model.reshape({number: list(shape) for number, shape in enumerate(shapes)})
        compiled = self._core.compile_model(model, "CPU", options)
        with suppress(OSError):  # it only saves time
            kept.parent.mkdir(exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
            part.write_bytes(compiled.export_model().getvalue())
            os.replace(part, kept)
            for old in sorted(kept.parent.glob("*.blob"), key=os.path.getmtime)[:-MOST_KEPT]:
                old.unlink(missing_ok=True)
        return compiled

    def _kept(self, shapes: Shapes, options: Mapping[str, Any]) -> Path:
        """Where a compiled network is cached for later processes, which load it in a third of the time."""
        machine = [
            self._core.get_property("CPU", key) for key in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        facts = [self.file.stem, self._bytes, [list(shape) for shape in shapes], options, machine]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self.file.parent / "compiled" / f"{name}.blob"

    def __getstate__(self) -> dict[str, Any]:
        own = ("_core", "_bytes", "_whole", "_requests", "_turn")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open()


class Config(dict[str, Any]):
    """The config of a network, whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class OpenvinoUNet(OpenvinoNetwork):
    """A converted UNet, called like that of diffusers. config: that of the original."""

    def __init__(self, file: Path, dtype: torch.dtype, config: Mapping[str, Any]) -> None:
        super().__init__(file, dtype)
        self.config = Config(config)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor,
        tokens: Tensor,
        timestep_cond: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
    ) -> Any:
        more = {"timestep_cond": timestep_cond, **(added_cond_kwargs or {})}
        told = [x for x in map(more.get, MORE_INPUTS) if x is not None]
        return SimpleNamespace(sample=self.infer(sample, timestep, tokens, *told)[0])


class OpenvinoTextEncoder(OpenvinoNetwork):
    """A converted text encoder, called like that of transformers. config: that of the original."""

    def __init__(self, file: Path, dtype: torch.dtype, config: Mapping[str, Any]) -> None:
        super().__init__(file, dtype)
        self.config = Config(config)

    def forward(self, tokens: Tensor, **_: bool) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        last, last_but_one, *pooled = self.infer(tokens)
        return SimpleNamespace(
            last_hidden_state=last,
            hidden_states=[last_but_one, last],
            text_embeds=pooled[0] if pooled else None,
        )


class OpenvinoVAE(nn.Module):
    """The converted halves of a VAE, called like that of diffusers. config: that of the original."""

    use_tiling, dtype = False, torch.float32

    def __init__(self, encoder: OpenvinoNetwork, decoder: OpenvinoNetwork, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.config = encoder, decoder, Config(config)

    def encode(self, pixels: Tensor) -> Any:
        mean, _ = self.encoder(pixels).chunk(2, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mean))

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=self.decoder(latents))

    def as_diffusers(self) -> Any:
        """The same as a VAE of diffusers, which has slices and tiles; its import takes more than a second."""
        inside = {"use_quant_conv": False, "use_post_quant_conv": False}  # in the converted halves
        whole = empty_network("the converted VAE", "vae", {**self.config, **inside})
        whole.encoder, whole.decoder = self.encoder, self.decoder
        return whole
