"""A converted UNet in 8 bits, weights and activations, by NNCF (Intel's compression for OpenVINO).

NNCF measures what range each activation takes on a few drawings, which the model makes itself. It runs in a
process of its own, since it changes the logging of the whole process and writes on stdout.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.text2image import generate
from ..core.types import Report
from ..errors import MemoryShort, ModelError
from ..settings import GenerateConfig, filled_in
from .compiled import TELEMETRY, OpenvinoUNet, import_openvino, products
from .networks import first_sentence
from .parts import Parts
from .unet import UNetDenoiser

PROMPTS = ("a dog in a park", "an orange in a room", "a red car in a city")
MOST_STEPS = 8  # of each drawing
# Layers that stay as they are. They read latents, times, or the sum of all that the blocks before have added,
# which has a few values far beyond the others: in 8 bits they would make most of the error.
SENSITIVE = ("conv_in", "conv_out", "proj_in", "proj_out", "conv_shortcut", "time_emb", "add_emb")


class Recorder(OpenvinoUNet):
    """A converted UNet that records its inputs in `seen`."""

    def __init__(self, file: Path, dtype: torch.dtype, config: Mapping[str, Any]) -> None:
        super().__init__(file, dtype, config)
        self.seen: list[list[Any]] = []

    def infer(self, *inputs: Tensor) -> list[Tensor]:
        self.seen.append([x.float().numpy() if x.is_floating_point() else x.numpy() for x in inputs])
        return super().infer(*inputs)


def check_nncf() -> None:
    """ModelError: the package is not installed."""
    if find_spec("nncf") is None:
        raise ModelError(
            "--dtype int8 needs the package nncf, which is not installed.",
            "pip install 'diffedit-cli[int8]', or use another --dtype.",
        )


def quantise(file: Path, seen: list[list[Any]], report: Report) -> None:
    """Quantise the UNet in an .xml file to 8 bits, in place. seen: the inputs that it gets (see `drawings`).

    One sample at a time, which takes the least memory.
    """
    report("quantise", 0, 1)
    samples, small = file.with_suffix(".npz"), file.with_suffix(".int8.xml")
    np.savez(samples, *map(np.concatenate, zip(*seen, strict=True)))
    command = "from diffedit_cli.models.int8 import main; main()"  # -P: and nothing of the current folder
    done = subprocess.run(
        [sys.executable, "-P", "-c", command, str(file), str(samples), str(small)],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    samples.unlink()
    if done.returncode < 0 or "MemoryError" in done.stderr:
        raise MemoryShort(
            "There is too little memory to quantise the UNet to 8 bits.",
            "Close other programs, or leave --dtype int8 out.",
        )
    if done.returncode:
        why = first_sentence(RuntimeError((done.stderr.strip() or "?").splitlines()[-1]))
        raise ModelError(f"The UNet cannot be quantised to 8 bits: {why}", "Leave --dtype int8 out.")
    for suffix in (".xml", ".bin"):
        small.with_suffix(suffix).replace(file.with_suffix(suffix))
    report("quantise", 1, 1)


def drawings(file: Path, parts: Parts, report: Report) -> list[list[Any]]:
    """What the UNet of a checkpoint, converted into this .xml file, is given while it draws each prompt: the
    inputs of every forward."""
    unet = Recorder(file, products(torch.int8), parts.unet.config)
    model = UNetDenoiser("", replace(parts, unet=unet), torch.device("cpu"), torch.float32)
    cells = model.size // model.factor
    for seed, prompt in enumerate(PROMPTS):
        report("calibrate", seed, len(PROMPTS))
        config = filled_in(GenerateConfig(prompt=prompt), model.own_defaults)
        config = replace(config, steps=min(config.step_count, MOST_STEPS))
        generate(model, config, (model.latent_channels, cells, cells), [seed])
    return unet.seen


def main() -> None:
    """In the process of NNCF: quantise the UNet of one file with the inputs in another, into a third."""
    source, samples, target = sys.argv[1:]
    openvino = import_openvino()
    sys.modules[TELEMETRY] = None  # type: ignore[assignment] as Python spells a missing module
    import nncf

    model = openvino.Core().read_model(source)
    spared = [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() in ("Convolution", "MatMul")
        and any(piece in operation.get_friendly_name() for piece in SENSITIVE)
    ]
    with np.load(samples) as held:
        inputs = [list(one) for one in zip(*(np.split(x, len(x)) for x in held.values()), strict=True)]
    small = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=spared),
    )
    openvino.save_model(small, target, compress_to_fp16=True)
