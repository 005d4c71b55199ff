"""Time an edit side by side with diffusers: same weights, same machine, interleaved, in one run.

    python -m benchmarks.speed edits
    python -m benchmarks.speed edits --model sd15 --side 256 --steps 5 --maps 2 --rounds 2
    python -m benchmarks.speed edits --model sd15 --side 512 --device cuda --dtype float16 --compile
    python -m benchmarks.speed memory ours
    python -m benchmarks.speed unet --model sd15 --dtype bfloat16
    python -m benchmarks.speed few --model sd15 --side 256 --dtype bfloat16
    python -m benchmarks.speed batch
    python -m benchmarks.speed cold

`sd15` is the full-size network of Stable Diffusion 1.5 with seeded random weights N(0, 1/fan_in): what a
forward costs does not depend on what it draws. Samples, and the time inside the networks, are counted with
hooks on the networks, the same for all. Each command prints its figures, appends a line to results.jsonl, and
writes them into docs/speed.md where that has a place for them.
"""

import copy
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from PIL import Image
from torch import Tensor

from benchmarks.report import markdown, record, write_block
from diffedit_cli.api import edit_image, edit_images
from diffedit_cli.core.types import silent
from diffedit_cli.images.read import Picture
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.models.few_steps import recognise
from diffedit_cli.models.load import compile_network
from diffedit_cli.models.parts import Parts
from diffedit_cli.models.prepack import PackedConv2d, prepack
from diffedit_cli.settings import FAST, EditConfig, build, filled_in

PICTURE = Path(__file__).parents[1] / "examples/horse_park.jpg"
PAGE = Path(__file__).parents[1] / "docs/speed.md"
REF, QUERY, STRENGTH, SEED = "horse", "zebra", 0.8, 1
GUIDANCE = 7.5
Run = Callable[[], object]
T = TypeVar("T")


class Hooks:
    """Counts what goes through a model's networks, whoever runs them, and the time they take."""

    def __init__(self, model: DiffusersDenoiser) -> None:
        self.device = model.device
        self.forwards, self.encodes, self.seconds, self.unet_seconds = 0, 0, 0.0, 0.0
        self.start = 0.0
        for network in (model.unet, model.vae.encoder, model.vae.decoder, *model.text_encoders):
            network.register_forward_pre_hook(self.enter)
            network.register_forward_hook(self.leave)
        self.unet, self.encoder = model.unet, model.vae.encoder

    def enter(self, network: torch.nn.Module, inputs: Any) -> None:
        self.start = self.now()

    def leave(self, network: torch.nn.Module, inputs: Any, output: Any) -> None:
        seconds = self.now() - self.start
        self.seconds += seconds
        if network is self.unet:
            self.forwards += len(inputs[0])
            self.unet_seconds += seconds
        if network is self.encoder:
            self.encodes += len(inputs[0])

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def measure(self, run: Callable[[], T]) -> tuple[T, dict[str, float]]:
        """What the run gives; and its seconds, processor seconds, samples through the UNet and the VAE's
        encoder, and seconds in all networks and in the UNet."""
        self.forwards, self.encodes, self.seconds, self.unet_seconds = 0, 0, 0.0, 0.0
        start, cpu = self.now(), time.process_time()
        outcome = run()
        return outcome, {
            "seconds": self.now() - start,
            "cpu": time.process_time() - cpu,
            "forwards": self.forwards,
            "encodes": self.encodes,
            "networks": self.seconds,
            "unet": self.unet_seconds,
        }


def open_model(name: str, device: str, dtype: str, backend: str = "torch") -> DiffusersDenoiser:
    if name != "sd15":
        return load_model(name, device=device, dtype=dtype, backend=backend)
    from diffedit_cli.models.compiled import products
    from diffedit_cli.models.hardware import pick_device, pick_dtype
    from diffedit_cli.models.unet import UNetDenoiser

    where = pick_device(device)
    kind = torch.int8 if dtype == "int8" else pick_dtype(dtype, where)
    parts = converted_parts(kind) if backend == "openvino" else random_parts(kind)
    return UNetDenoiser("sd15, random weights", parts, where, products(kind))


def random_parts(dtype: torch.dtype) -> Parts:
    """Stable Diffusion 1.5 with random weights."""
    from diffedit_cli.models.schedulers import read_schedule
    from diffedit_cli.models.single_file import scheduler_config, tokenizers

    schedule, _ = read_schedule("sd15", scheduler_config({}, "sd1"))
    return Parts(
        unet=random_network("unet", dtype),
        vae=random_network("vae", torch.float32),
        text_encoders=[random_network("text_encoder", dtype)],
        tokenizers=tokenizers("sd1"),
        schedule=schedule,
    )


def converted_parts(dtype: torch.dtype) -> Parts:
    """The same for OpenVINO, converted if it is not there."""
    from diffedit_cli.models.compiled import products
    from diffedit_cli.models.converted import cache_folder, convert, is_there, read_parts

    folder = cache_folder() / f"random-sd15-{dtype}"
    if not is_there(folder):
        load = partial(random_parts, torch.float32)
        convert(folder, "sd15, random weights", (), dtype, load, silent)
    return read_parts(folder, products(dtype))


def random_network(part: str, dtype: torch.dtype) -> Any:
    """A network of Stable Diffusion 1.5 with random weights."""
    from diffedit_cli.models.networks import empty_network, read_config
    from diffedit_cli.models.single_file import CONFIGS

    return fill_randomly(empty_network(part, part, read_config("sd15", CONFIGS / "sd1" / part)), dtype)


def fill_randomly(network: Any, dtype: torch.dtype) -> Any:
    """Weights from N(0, 1/fan_in) with one seed; scales of norms 1, biases 0. Never zeros: they are quick."""
    from diffedit_cli.models.weights import fill

    generator = torch.Generator().manual_seed(SEED)
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        if value.dim() > 1:
            fan_in = value[0].numel()
            state[name] = torch.randn(value.shape, generator=generator).mul_(fan_in**-0.5).to(dtype)
        else:
            state[name] = torch.full(value.shape, float(name.endswith("weight")), dtype=dtype)
    return fill("random weights", network, state, dtype)


def maps_of_ours(maps: int) -> int:
    """No more than the default, however many diffusers takes."""
    return min(maps, EditConfig().mask.samples)


def contenders(model: DiffusersDenoiser, image: Image.Image, steps: int, maps: int) -> dict[str, Run]:
    """Each run edits the picture, from a picture in memory to a picture in memory."""
    picture = Picture(image, None, None, None, "picture", "")
    texts = {"ref": REF, "query": QUERY, "seed": SEED, "size": image.width, "strength": STRENGTH}
    config = build(EditConfig, texts, {"steps": steps, "mask_samples": maps_of_ours(maps)})
    fast = build(EditConfig, texts, FAST)
    runs: dict[str, Run] = {"ours": lambda: edit_image(model, picture, config)}
    if steps == 25 and maps == 10:
        runs["ours --fast"] = lambda: edit_image(model, picture, fast)
        runs["diffusers DiffEdit, its 50 steps"] = lambda: diffusers_edit(model, image, 50, maps)
    runs["diffusers DiffEdit"] = lambda: diffusers_edit(model, image, steps, maps)
    runs["diffusers img2img"] = lambda: diffusers_img2img(model, image, steps)
    runs["diffusers LEDITS++"] = lambda: diffusers_ledits(model, image, steps)
    return runs


def stable_diffusion_schedule() -> Any:
    from diffedit_cli.models.single_file import scheduler

    return scheduler().config


def networks_of(model: DiffusersDenoiser) -> dict[str, Any]:
    return {
        "vae": model.vae,
        "text_encoder": model.text_encoders[0],
        "tokenizer": model.tokenizers[0],
        "unet": model.unet,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def diffedit_pipeline(model: DiffusersDenoiser) -> Any:
    """diffusers' deprecated pipeline on the same networks."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

    settings = stable_diffusion_schedule()
    pipe = StableDiffusionDiffEditPipeline(
        **networks_of(model),
        scheduler=DDIMScheduler.from_config(settings),
        inverse_scheduler=DDIMInverseScheduler.from_config(settings),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def diffusers_edit(model: DiffusersDenoiser, image: Image.Image, steps: int, maps: int) -> Image.Image:
    """The three calls of diffusers' DiffEdit, all else at its defaults."""
    pipe = diffedit_pipeline(model)
    seeded = torch.Generator().manual_seed(SEED)
    common = dict(num_inference_steps=steps, generator=seeded)
    mask = pipe.generate_mask(image, source_prompt=REF, target_prompt=QUERY, num_maps_per_mask=maps, **common)
    latents = pipe.invert(prompt=REF, image=image, inpaint_strength=STRENGTH, **common).latents
    return pipe(
        prompt=QUERY, mask_image=mask, image_latents=latents, inpaint_strength=STRENGTH, **common
    ).images[0]


def diffusers_img2img(model: DiffusersDenoiser, image: Image.Image, steps: int) -> Image.Image:
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(
        **networks_of(model), scheduler=DDIMScheduler.from_config(stable_diffusion_schedule())
    )
    pipe.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(SEED)
    return pipe(
        prompt=QUERY, image=image, strength=STRENGTH, num_inference_steps=steps, generator=seeded
    ).images[0]


def diffusers_ledits(model: DiffusersDenoiser, image: Image.Image, steps: int) -> Image.Image:
    from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion

    settings = dict(algorithm_type="sde-dpmsolver++", solver_order=2)
    processors = model.unet.attn_processors
    pipe = LEditsPPPipelineStableDiffusion(
        **networks_of(model),
        scheduler=DPMSolverMultistepScheduler.from_config(stable_diffusion_schedule(), **settings),
    )
    pipe.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(SEED)
    pipe.invert(image=image, num_inversion_steps=steps, skip=1 - STRENGTH, generator=seeded)
    edited = pipe(editing_prompt=[QUERY], edit_guidance_scale=GUIDANCE, generator=seeded).images[0]
    model.unet.set_attn_processor(processors)
    return edited


def flops(model: DiffusersDenoiser, side: int) -> float:
    """Floating point operations of one sample-forward of the UNet, by torch's own count.

    It does not know packed convolutions.
    """
    from torch.utils.flop_counter import FlopCounterMode

    unpack(model.unet)
    cells = side // model.factor
    latents = torch.randn(1, model.latent_channels, cells, cells, device=model.device)
    with FlopCounterMode(display=False) as counter:
        model.predict(latents, torch.tensor([500], device=model.device), model.embed([QUERY]))
    return counter.get_total_flops()


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of the best of five products of square matrices: what this machine gives at the moment."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def unpack(network: Any) -> None:
    """Take the prepacking (models/prepack.py) back: diffusers' own pipelines run without it."""
    for module in network.modules():
        if isinstance(module, PackedConv2d):
            if module.packed is not None:
                module.weight = torch.nn.Parameter(module.packed.to_dense(), requires_grad=False)
            module.packed = module.packed_for = None
            module.__class__ = torch.nn.Conv2d


def forward_seconds(model: DiffusersDenoiser, side: int, samples: int, repeats: int) -> dict[str, float]:
    """Median seconds of one forward of the UNet under each of some treatments, in turns."""
    packed, cells = model.unet, side // model.factor
    unpack(packed)
    plain, last, compiled = (copy.deepcopy(packed) for _ in range(3))
    last.to(memory_format=torch.channels_last)
    compiled.compile_repeated_blocks(dynamic=True)
    for network in (packed, compiled):
        prepack(network)
    networks = {"plain": plain, "channels_last": last, "prepacked": packed, "and compiled": compiled}
    latents = torch.randn(samples, model.latent_channels, cells, cells, device=model.device)
    inputs = torch.tensor([500] * samples, device=model.device), model.embed([QUERY] * samples)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(repeats + 2):
        for name, network in networks.items():
            model.unet = network
            layout = torch.channels_last if network is last else torch.contiguous_format
            start = time.perf_counter()
            model.predict(latents.contiguous(memory_format=layout), *inputs)
            times[name].append(time.perf_counter() - start)
    model.unet = packed
    return {name: round(statistics.median(some[2:]), 4) for name, some in times.items()}  # 2: to warm up


def square(side: int) -> Image.Image:
    with Image.open(PICTURE) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def timed_rounds(hooks: Hooks, runs: dict[str, Run], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every contender once a round, so that a slow minute of the machine meets all."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number in range(1, rounds + 1):
        for name, run in runs.items():
            (unpack if name.startswith("diffusers") else prepack)(hooks.unet)
            with quiet():
                _, row = hooks.measure(run)
            told = f"{number}/{rounds} {name}: {row['seconds']:.2f} s, {row['forwards']} forwards"
            print(told, file=sys.stderr)
            rows[name].append(row)
    return rows


@contextmanager
def quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        yield


def summary(rows: list[dict[str, float]], unet_flops: float, peak: float) -> dict[str, float]:
    seconds = sorted(row["seconds"] for row in rows)
    total = sum(seconds)
    tflops = sum(row["forwards"] for row in rows) * unet_flops / 1e12 / sum(row["unet"] for row in rows)
    return {
        "forwards": int(rows[0]["forwards"]),
        "encodes": int(rows[0]["encodes"]),
        "median_s": round(statistics.median(seconds), 3),
        "p95_s": round(seconds[min(len(seconds) - 1, round(0.95 * (len(seconds) - 1)))], 3),
        "median_cpu_s": round(statistics.median(row["cpu"] for row in rows), 3),
        "network_share": round(sum(row["networks"] for row in rows) / total, 4),
        "unet_tflops": round(tflops, 4),
        "of_peak": round(tflops / peak, 3),
    }


def many(model: DiffusersDenoiser, image: Image.Image, count: int = 20) -> dict[str, float]:
    """`count` pictures in one call against as many single edits, interleaved; seconds of the network time."""
    pictures = [Picture(image.rotate(i), None, None, None, f"{i}", "") for i in range(count)]
    config = EditConfig(ref=REF, query=QUERY, seed=SEED)
    together, alone = 0.0, []
    for start in range(0, count, 4):
        begin = time.perf_counter()
        list(edit_images(model, pictures[start : start + 4], config))
        together += time.perf_counter() - begin
        begin = time.perf_counter()
        edit_image(model, pictures[start], config)
        alone.append(time.perf_counter() - begin)
    one = statistics.median(alone)
    return {
        "pictures": count,
        "one_call_s": round(together, 2),
        "single_s": round(one, 3),
        "ratio": round(together / count / one, 3),
    }


def peak_memory(model: DiffusersDenoiser) -> float:
    """GiB: of the graphics memory on cuda, else the largest resident set of this process."""
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(model.device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


COLD = """
import io, json, time
marks = [(time.perf_counter(), time.process_time())]
def mark(): marks.append((time.perf_counter(), time.process_time()))
import diffedit_cli.cli.app, diffedit_cli.session
from diffedit_cli import EditConfig, edit_image, load_image, load_model
load_model(backend="torch"); mark()
model = load_model(backend="torch"); mark()
result = edit_image(model, load_image({picture!r}), EditConfig(ref="horse", query="zebra", seed=1))
result.save(io.BytesIO()); mark()
spans = [[b - a for a, b in zip(*pair)] for pair in zip(marks, marks[1:])]
imports = [first - second for first, second in zip(spans[0], spans[1])]
print(json.dumps(dict(imports=imports, load=spans[1], work=spans[2])))
"""


def cold_start(rounds: int) -> dict[str, list[float]]:
    """A first edit in a new process: [wall seconds, processor seconds] of imports, load and work; medians.

    Imports: what the first load takes longer than the second, and all before it. On a busy machine the
    processor's seconds say more.
    """
    rows: list[dict[str, list[float]]] = []
    for _ in range(rounds):
        command = [sys.executable, "-c", COLD.format(picture=str(PICTURE))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    return {
        key: [round(statistics.median(row[key][i] for row in rows), 2) for i in range(2)] for key in rows[0]
    }


app = typer.Typer(no_args_is_help=True)
Model = Annotated[str, typer.Option("-m", "--model", help="embedded or sd15.")]
Side = Annotated[int, typer.Option(help="Side of the square picture, in pixels.")]


@app.command()
def edits(
    model: Model = "embedded",
    side: Side = 128,
    steps: int = 25,
    maps: int = 10,
    rounds: int = 3,
    device: str = "auto",
    dtype: str = "auto",
    compile: Annotated[bool, typer.Option(help="Compile the UNet's repeated blocks first, for all.")] = False,
    only: Annotated[str, typer.Option(help="Contenders, with commas between; default: all.")] = "",
) -> None:
    """Time one edit by diffedit and by diffusers, in turns."""
    loaded = open_model(model, device, dtype)
    if compile:
        compile_network(loaded)
    runs = contenders(loaded, square(side), steps, maps)
    runs = {name: run for name, run in runs.items() if not only or name in only.split(",")}
    peak, unet_flops = matrix_peak(loaded.device, loaded.dtype), flops(loaded, side)
    rows = timed_rounds(Hooks(loaded), runs, rounds)
    line = {
        **about(loaded),
        "side": side,
        "steps": steps,
        "maps": maps,
        "maps_of_ours": maps_of_ours(maps),
        "rounds": rounds,
        "compiled": compile,
        "matrix_peak_tflops": round(peak, 4),
        "unet_tflop_per_sample": round(unet_flops / 1e12, 5),
        "contenders": {name: summary(some, unet_flops, peak) for name, some in rows.items()},
    }
    record("speed", **line)
    intro = (
        f"{side}x{side}, {line['dtype']}, on {line['machine']}, {line['threads']} threads; rounds: {rounds}."
    )
    show(f"{model} {side} {line['dtype']}", f"{intro}\n\n{table(line)}")


@app.command()
def memory(
    contender: Annotated[str, typer.Argument(help='"ours" or "diffusers DiffEdit".')],
    model: Model = "embedded",
    side: Side = 128,
    steps: int = 5,
    maps: int = 10,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """The peak memory of one edit, the weights included: of this process, or on cuda of the device."""
    loaded = open_model(model, device, dtype)
    run = contenders(loaded, square(side), steps, maps)[contender]
    (unpack if contender.startswith("diffusers") else prepack)(loaded.unet)
    before = peak_memory(loaded)
    with quiet():
        run()
    after = peak_memory(loaded)
    figures = {"loaded_gib": round(before, 3), "peak_gib": round(after, 3)}
    maps_run = maps if contender.startswith("diffusers") else maps_of_ours(maps)
    record("speed", **about(loaded), side=side, maps=maps_run, contender=contender, **figures)
    told = f"{before:.2f} GiB with the weights loaded, {after:.2f} GiB at the peak"
    show(f"memory {model} {contender}", f"{contender}, {side}x{side}, {loaded.dtype}: {told}.")


@app.command()
def unet(
    model: Model = "embedded", sides: str = "256,512", repeats: int = 3,
    device: str = "auto", dtype: str = "bfloat16",
) -> None:  # fmt: skip
    """One forward of the UNet, of one and of two samples: plain, channels_last, prepacked, and compiled."""
    loaded, rows = open_model(model, device, dtype), []
    for side in map(int, sides.split(",")):
        for samples in (1, 2):
            figures = forward_seconds(loaded, side, samples, repeats)
            record("speed", **about(loaded), side=side, samples=samples, unet_forward_s=figures)
            rows.append([f"{side}x{side}", str(samples), *(f"{value:.3f}" for value in figures.values())])
    show(f"unet {model} {dtype}", markdown(["", "samples", *figures], rows))


@app.command()
def few(
    model: Model = "embedded", side: Side = 128, rounds: int = 1, device: str = "auto", dtype: str = "auto"
) -> None:  # fmt: skip
    """An edit with the usual settings, and one with those of a model of 4 steps, in turns."""
    loaded, texts = open_model(model, device, dtype), {"ref": REF, "query": QUERY, "seed": SEED, "size": side}
    picture = Picture(square(side), None, None, None, "picture", "")
    turbo = recognise("sd-turbo")
    assert turbo
    configs = {"usual, 25 steps": {}, "few, 4 steps": turbo.defaults}
    runs: dict[str, Run] = {
        name: functools.partial(edit_image, loaded, picture, filled_in(build(EditConfig, texts), own))
        for name, own in configs.items()
    }
    rows = timed_rounds(Hooks(loaded), runs, rounds)
    figures = {
        name: {
            "median_s": round(statistics.median(row["seconds"] for row in some), 2),
            "forwards": int(some[0]["forwards"]),
        }
        for name, some in rows.items()
    }
    record("speed", **about(loaded), side=side, rounds=rounds, few_steps=figures)
    cells = [[name, *(f"{value}" for value in row.values())] for name, row in figures.items()]
    show(f"few {model} {side}", markdown(["", "seconds, median", "sample-forwards"], cells))


@app.command()
def batch(model: Model = "embedded", side: Side = 128, count: int = 20) -> None:
    """`count` pictures in one call against single edits."""
    loaded = open_model(model, "auto", "auto")
    figures = many(loaded, square(side), count)
    record("speed", **about(loaded), side=side, batch=figures)
    together, single, ratio = (figures[key] for key in ("one_call_s", "single_s", "ratio"))
    told = (
        f"{count} pictures of {side}x{side} took {together:.1f} s in one call, and one alone {single:.2f} s"
    )
    show("batch", f"{told} in between:\na picture of the call costs {ratio:.2f} of a single edit.")


@app.command()
def cold(rounds: int = 3) -> None:
    """A first edit with the embedded model in a new process: imports, load, work."""
    figures = cold_start(rounds)
    record("speed", model="embedded", rounds=rounds, cold_start_wall_and_cpu_s=figures)
    rows = [[name, f"{wall:.2f}", f"{cpu:.2f}"] for name, (wall, cpu) in figures.items()]
    show("cold", markdown(["", "seconds", "processor seconds"], rows))


def show(name: str, text: str) -> None:
    """Print figures, and write them into docs/speed.md if it has a place of that name."""
    print(text)
    if f"<!-- {name} -->" in PAGE.read_text():
        write_block(PAGE, name, text)


def about(model: DiffusersDenoiser) -> dict[str, Any]:
    return {
        "model": model.name,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }


def table(line: dict[str, Any]) -> str:
    """The contenders as a table in Markdown; times as a share of diffusers' DiffEdit at the same steps."""
    base = line["contenders"].get("diffusers DiffEdit")
    heads = ["", "seconds, median", "p95", "of diffusers'", "processor seconds", "of diffusers'"]
    heads += ["sample-forwards", "in the networks", "of matrix peak"]
    rows: list[list[str]] = []
    for name, row in line["contenders"].items():
        share = {key: f"{row[key] / base[key]:.2f}" if base else "" for key in ("median_s", "median_cpu_s")}
        cells = [f"{row['median_s']:.2f}", f"{row['p95_s']:.2f}", share["median_s"]]
        cells += [f"{row['median_cpu_s']:.2f}", share["median_cpu_s"], str(row["forwards"])]
        rows.append([name, *cells, f"{row['network_share']:.1%}", f"{row['of_peak']:.0%}"])
    return markdown(heads, rows)


if __name__ == "__main__":
    app()
