"""What it costs to keep a UNet's weights quantised in memory: the time of a forward, and the memory.

    python -m benchmarks.quantised all --dtype bfloat16
    python -m benchmarks.quantised all --side 256 --rounds 5

The UNet is that of Stable Diffusion 1.5 with seeded random weights, written as fp8, as scaled fp8, and as
GGUF in Q8_0 and Q4_0. Each is loaded in a process of its own, with plain weights in the dtype of the run and
with its own, in turns. Memory is the most that the process held, without what it held before loading. Two
samples go through at once. Prints a table, appends lines to results.jsonl and writes the table into
docs/speed.md.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.report import markdown, record, write_block
from benchmarks.speed import PAGE, random_network

FP8 = torch.float8_e4m3fn
app = typer.Typer(add_completion=False)


def write_files(folder: Path) -> list[Path]:
    """One UNet in every form."""
    state: dict[str, Tensor] = random_network("unet", torch.float32).state_dict()
    layers = [key for key, values in state.items() if values.dim() > 1]
    half = {key: values.half() for key, values in state.items()}
    save_file({**half, **{key: state[key].to(FP8) for key in layers}}, folder / "fp8.safetensors")
    scales = {key: state[key].abs().max() / 448 for key in layers}
    scaled = {key: (state[key] / scale).to(FP8) for key, scale in scales.items()}
    names = {f"{key.removesuffix('.weight')}.scale_weight": scale for key, scale in scales.items()}
    save_file({**half, **scaled, **names}, folder / "scaled fp8.safetensors")
    save_file(half, folder / "float16.safetensors")
    return [
        folder / "float16.safetensors",
        folder / "fp8.safetensors",
        folder / "scaled fp8.safetensors",
        *(write_gguf(folder, state, kind) for kind in ("Q8_0", "Q4_0")),
    ]


def write_gguf(folder: Path, state: dict[str, Tensor], kind: str) -> Path:
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    path, sort = folder / f"{kind}.gguf", GGMLQuantizationType[kind]
    writer = GGUFWriter(path, "sd1")
    for key, values in state.items():
        numbers = values.numpy()
        if values.dim() < 2 or values.numel() % 256:
            writer.add_tensor(key, numbers)
            continue
        if numbers.shape[-1] % 256:
            writer.add_array(f"comfy.gguf.orig_shape.{key}", [*numbers.shape])
            numbers = numbers.reshape(-1, 256)
        writer.add_tensor(key, quants.quantize(numbers, sort), raw_dtype=sort)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@app.command("all")
def measure_all(side: int = 512, rounds: int = 3, dtype: str = "float32") -> None:
    """Measure every form, kept and plain, `rounds` times, and write the table."""
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = write_files(folder)
        for _ in range(rounds):
            for path in files:
                for keeps in (False, True)[: 1 if path.stem == "float16" else 2]:
                    figures = run_apart(path, side, dtype, keeps)
                    found.setdefault((path.stem, keeps), []).append(figures)
    rows: list[list[str]] = []
    for (name, keeps), figures in found.items():
        seconds = statistics.median(one["seconds"] for one in figures)
        loading = statistics.median(one["loading"] for one in figures)
        held = statistics.median(one["bytes"] for one in figures)
        shown = f"{held / 1e9:.2f}", f"{loading:.1f}", f"{seconds:.2f}"
        rows.append([name, "kept" if keeps else "plain", *shown])
        record("quantised", form=name, keeps=keeps, side=side, dtype=dtype, gb=held / 1e9, seconds=seconds)
    text = markdown(["file", "weights in memory", "memory, GB", "loading, s", "forward, s"], rows)
    print(text)
    write_block(PAGE, "quantised", text)


def run_apart(path: Path, side: int, dtype: str, keeps: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.quantised", "one", str(path), "--side", str(side)]
    command += ["--dtype", dtype, "--keeps" if keeps else "--no-keeps"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@app.command("one")
def measure_one(path: Path, side: int = 512, dtype: str = "float32", keeps: bool = True) -> None:
    """Load a UNet and run it, in this process; prints the figures."""
    from diffedit_cli.models.networks import empty_network, read_config
    from diffedit_cli.models.prepack import prepack
    from diffedit_cli.models.single_file import CONFIGS
    from diffedit_cli.models.weights import fill, read_network

    kind: torch.dtype = getattr(torch, dtype)
    network: Any = empty_network("unet", "unet", read_config("sd15", CONFIGS / "sd1/unet"))
    before, start = most_bytes(), time.perf_counter()
    fill("unet", network, read_network("unet", path), kind, room=0 if keeps else None)
    prepack(network)
    loading = time.perf_counter() - start
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, side // 8, side // 8, generator=generator).to(kind)
    text = torch.randn(2, 77, 768, generator=generator).to(kind)
    seconds: list[float] = []
    with torch.inference_mode():
        for _ in range(3):  # the first one packs
            start = time.perf_counter()
            network(x, torch.tensor([500, 500]), text)
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"bytes": most_bytes() - before, "loading": loading, "seconds": min(seconds)}))


def most_bytes() -> int:
    """The most memory that this process held; getrusage begins with what its parent held."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


if __name__ == "__main__":
    app()
