"""Train the VAE, or its decoder alone, then the UNet and the text encoder together. The same code runs on CPU
and GPU, and resumes.

Scenes are drawn while training, on the device that trains. A pool lets each scene serve several times where
drawing and encoding are dear (CPU, `reuse` 6), or once where they are not (GPU, `reuse` 1).

On a CPU use one single-threaded worker a core instead of one process with many threads: on two shared cores,
two threads made 4.8 samples a second and two workers made 24.
"""

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffedit_cli.models.single_file import scheduler
from training.scenes import Scenes, World, draw_scenes, latent_mask, load_world
from training.tokenizer import TOKENS, load_tokenizer, write_tokenizer
from training.words import caption, caption_words

HELD_OUT_SEED = 900_000_000  # training seeds stay below, evaluation seeds above
JITTER = 0.05  # noise on the latents that the decoder alone is trained on; a UNet's latents are never exact
DECODER_MSE = 10.0  # weight of the MSE for the decoder alone: at 1 it is a tenth of the L1, and PSNR stalled


@dataclass
class Settings:
    """Settings of one training run, which ends at `minutes` or at `samples`, whichever comes first."""

    minutes: float = 60.0
    samples: int = 10_000_000
    batch: int = 16
    learning_rate: float = 5e-4
    anneal_from: float = 0.55  # share of the run after which the learning rate falls linearly to `final_rate`
    final_rate: float = 0.03
    warmup: int = 100
    ema: float = 0.998
    pool: int = 4096
    reuse: float = 6.0
    crop: int = 24  # latent cells a side that the UNet trains on till `anneal_from`, then on whole scenes
    seed: int = 0
    log_seconds: float = 60.0
    save_seconds: float = 300.0
    workers: int = 1  # processes; on a CPU one a core, each single-threaded
    compile: bool = False  # the networks with torch.compile, once for each shape of a batch


# ---------------------------------------------------------------- models


def new_vae(channels: tuple[int, int, int] = (32, 64, 96)) -> AutoencoderKL:
    """A small Stable Diffusion VAE: 4 latent channels at a quarter of the size, 1.6 M parameters."""
    vae = AutoencoderKL(
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels,
        norm_num_groups=16,
        sample_size=128,
        mid_block_add_attention=False,
    )
    # Start with a small posterior variance: a sharp autoencoder first, a smooth one later.
    with torch.no_grad():
        vae.quant_conv.bias[4:] -= 2.5
    return vae


def new_unet(channels: tuple[int, int, int] = (64, 128, 256)) -> UNet2DConditionModel:
    """A small Stable Diffusion UNet, cross-attention at 16x16 and 8x8: 16.7 M parameters."""
    return UNet2DConditionModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=192,
        attention_head_dim=(2, 2, 4),
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small CLIP text model, 3 layers of width 192: 1.5 M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


# ---------------------------------------------------------------- the loop


class Ema:
    """Exponential moving average of parameters, with a short memory at the start."""

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self.decay = decay
        self.parameters = parameters
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages into the model for evaluation or saving."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._copy(self.shadow)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


class Optimizer:
    """Muon (Jordan et al. 2024) for the weights of hidden layers, as matrices, and AdamW for all others.

    A matrix shares its memory with the weight (o, i, kh, kw), in the order in which that lies there. Muon's
    rate is scaled to AdamW's (Liu et al. 2025, arXiv 2502.16982), so one learning rate serves both.
    """

    def __init__(self, modules: list[nn.Module], rate: float):
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        for layer in (layer for module in modules for layer in module.modules()):
            is_matrix = isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad
            if is_matrix and min(layer.weight.shape[:2]) >= 32:  # not the first and the last layer
                matrix = nn.Parameter(as_matrix(layer.weight.detach(), layer.weight))
                self.matrices.append((layer.weight, matrix))
        hidden = {id(weight) for weight, _ in self.matrices}
        others = [p for p in self.parameters if id(p) not in hidden]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=1e-2)
        ]
        if self.matrices:
            flat = [matrix for _, matrix in self.matrices]
            self.parts += [torch.optim.Muon(flat, rate, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")]

    def descend(self, rate: float) -> None:
        """One step, with gradients of norm 1 at most for AdamW; Muon knows no length. Drops the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for weight, matrix in self.matrices:
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad, weight)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """Values of the shape of a layer's weight as (out, in), in the order of the weight's memory."""
    return (values if weight.is_contiguous() else values.movedim(1, -1)).flatten(1)


def learning_rate(settings: Settings, step: int, done: float) -> float:
    """Linear warm-up, constant, linear decay; `done` is the finished share of the run."""
    rate = settings.learning_rate * min(1.0, (step + 1) / settings.warmup)
    left = (1 - done) / (1 - settings.anneal_from)
    return rate * max(settings.final_rate, min(1.0, left))


class Peers:
    """Averages gradients over the worker processes through shared memory."""

    def __init__(self, workers: int, numel: int):
        self.workers = workers
        self.buffer = torch.zeros(workers, numel + 1).share_memory_()
        self.barrier = torch.multiprocessing.get_context("spawn").Barrier(workers)

    @torch.no_grad()
    def average(self, rank: int, parameters: list[nn.Parameter], done: float) -> float:
        """Replace each gradient by the mean over workers; `done` too, so that all stop at the same step."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        torch.cat([*(grad.reshape(-1) for grad in grads), torch.tensor([done])], out=self.buffer[rank])
        self.barrier.wait()
        mean = self.buffer.mean(0)
        self.barrier.wait()
        chunks = mean[:-1].split([p.numel() for p in parameters])
        for parameter, chunk in zip(parameters, chunks, strict=True):
            parameter.grad = chunk.view(parameter.shape)
        return float(mean[-1])


@dataclass
class Worker:
    """Which worker this is. Worker 0 logs and saves."""

    rank: int = 0
    peers: Peers | None = None


def run_training(
    modules: list[nn.Module],
    compute_loss: Callable[[float], tuple[Tensor, dict[str, float]]],
    settings: Settings,
    checkpoint: Path,
    log_path: Path,
    on_save: Callable[[], None],
    worker: Worker,
) -> int:
    """Optimise `modules` until the budget is spent, from `checkpoint` if there is one; returns the samples.

    compute_loss gets the finished share of the run, draws a batch, and returns the loss and numbers for the
    log. on_save sees the EMA weights.
    """
    optimizer = Optimizer(modules, settings.learning_rate)
    parameters = optimizer.parameters
    ema = Ema(parameters, settings.ema)
    state = {"step": 0, "samples": 0, "seconds": 0.0}
    if checkpoint.exists():
        state = load_checkpoint(checkpoint, parameters, optimizer, ema)
    start, log = time.monotonic() - state["seconds"], Log(log_path)
    log_clock, save_clock = Clock(settings.log_seconds), Clock(settings.save_seconds)

    def save() -> None:
        save_checkpoint(checkpoint, parameters, optimizer, ema, state)
        with ema.applied():
            on_save()

    done = budget_spent(settings, state)
    while done < 1:
        rate = learning_rate(settings, state["step"], done)
        loss, numbers = compute_loss(done)
        loss.backward()
        state["step"] += 1
        state["samples"] += settings.batch * settings.workers
        state["seconds"] = time.monotonic() - start
        done = budget_spent(settings, state)
        if worker.peers is not None:
            done = worker.peers.average(worker.rank, parameters, done)
        optimizer.descend(rate)
        ema.update(state["step"])
        log.add(numbers)
        if worker.rank == 0 and log_clock.rings():
            log.write(state, rate)
        if worker.rank == 0 and save_clock.rings():
            save()
    if worker.rank == 0:
        log.write(state, learning_rate(settings, state["step"], done))
        save()
    return int(state["samples"])


class Clock:
    """Rings when this many seconds have passed since it last rang."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def rings(self) -> bool:
        if time.monotonic() - self.last <= self.seconds:
            return False
        self.last = time.monotonic()
        return True


def budget_spent(settings: Settings, state: dict) -> float:
    """The finished share of the run, by time or by samples."""
    return max(state["seconds"] / 60 / settings.minutes, state["samples"] / settings.samples)


def save_checkpoint(path: Path, parameters: list, optimizer: Optimizer, ema: Ema, state: dict) -> None:
    """Everything needed to go on; renamed when it is complete, so that a kill never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [parameter.detach() for parameter in parameters]
    content = {"values": values, "optimizer": optimizer.state_dict(), "shadow": ema.shadow, "state": state}
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)
    path.with_suffix(".json").write_text(json.dumps(state))


@torch.no_grad()
def load_checkpoint(path: Path, parameters: list, optimizer: Optimizer, ema: Ema) -> dict:
    """The reverse of save_checkpoint; returns the state."""
    content = torch.load(path, map_location=parameters[0].device, weights_only=True)
    for parameter, value in zip(parameters, content["values"], strict=True):
        parameter.copy_(value)
    optimizer.load_state_dict(content["optimizer"])
    ema.shadow = content["shadow"]
    return content["state"]


class Log:
    """Lines of samples, minutes, speed, learning rate, and the means of numbers since the last line."""

    def __init__(self, path: Path):
        self.path = path
        self.sums: dict[str, list[float]] = {}

    def add(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            if not math.isnan(value):
                self.sums.setdefault(name, []).append(value)

    def write(self, state: dict, rate: float) -> None:
        means = " ".join(f"{name} {sum(values) / len(values):.4f}" for name, values in self.sums.items())
        self.sums = {}
        samples, seconds = state["samples"], state["seconds"]
        pace = f"minutes {seconds / 60:.1f} per_second {samples / max(seconds, 1e-9):.1f}"
        line = f"samples {samples} {pace} lr {rate:.1e} {means}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def fresh_seeds(seed: int) -> Iterator[int]:
    """Scene seeds for training, all below HELD_OUT_SEED."""
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.integers(HELD_OUT_SEED))


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16)


# ---------------------------------------------------------------- stage 1: the VAE


class Pool:
    """The latest `capacity` scenes; `tick` replaces some so that each is used about `reuse` times."""

    def __init__(self, draw: Callable[[], tuple[Tensor, ...]], capacity: int, reuse: float, seed: int):
        self.draw, self.capacity, self.reuse = draw, capacity, reuse
        self.generator = torch.Generator().manual_seed(seed)
        self.rows = draw()
        self.next = 0
        self.owed = 0.0

    def take(self, batch: int) -> tuple[Tensor, ...]:
        """A random batch of rows, after drawing the fresh scenes that this batch pays for."""
        self.owed += batch / self.reuse
        while self.owed > 0:
            fresh = self.draw()
            self.owed -= len(fresh[0])
            self._put(fresh)
        index = torch.randint(len(self.rows[0]), (batch,), generator=self.generator).to(self.rows[0].device)
        return tuple(row[index] for row in self.rows)

    def _put(self, fresh: tuple[Tensor, ...]) -> None:
        if len(self.rows[0]) < self.capacity:
            self.rows = tuple(torch.cat(pair) for pair in zip(self.rows, fresh, strict=True))
            return
        index = (torch.arange(len(fresh[0])) + self.next) % len(self.rows[0])
        for row, new in zip(self.rows, fresh, strict=True):
            row[index.to(row.device)] = new
        self.next = int(index[-1]) + 1


def random_crops(pixels: Tensor, mask: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One `size` crop from each picture (b c s s); every second one is centred on the object, if any."""
    full = pixels.shape[-1]
    corner = torch.randint(full - size + 1, (len(pixels), 2), generator=generator)
    crops = []
    for index, (top, left) in enumerate(corner.tolist()):
        inside = (mask[index, 0] > 0.5).nonzero() if index % 2 else mask.new_zeros(0, 2)
        if len(inside):
            pick = int(torch.randint(len(inside), (1,), generator=generator))
            top, left = ((inside[pick] - size // 2).clamp(0, full - size)).tolist()
        crops.append(pixels[index, :, top : top + size, left : left + size])
    return torch.stack(crops)


def vae_loss(
    vae: AutoencoderKL, x: Tensor, jitter: float = 0.0, mse_weight: float = 1.0, kl_weight: float = 2e-5
) -> tuple[Tensor, dict[str, float]]:
    """L1 + gradient L1 + L1 at a quarter of the size + MSE + a tiny KL. x: (b 3 s s) in [-1, 1].

    jitter: the most noise that the latents of half the crops get, as a share of their spread.
    """
    with autocast(x.device):
        posterior = vae.encode(x).latent_dist
        latents = posterior.sample()
        share = torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(-jitter, jitter).clamp(min=0)
        noise = torch.randn_like(latents) / vae.config.scaling_factor
        y = vae.decode(latents + share * noise).sample
    y = y.float()
    error = y - x
    slope = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    coarse = F.avg_pool2d(error, 4).abs().mean()
    mean, var = posterior.mean.float(), posterior.var.float()
    kl = 0.5 * (mean**2 + var - 1 - posterior.logvar.float()).mean()
    mse = (error**2).mean()
    loss = error.abs().mean() + 0.5 * slope + 0.5 * coarse + mse_weight * mse + kl_weight * kl
    psnr = 10 * torch.log10(4 / mse).item()
    numbers = {"psnr": psnr, "kl": kl.item(), "noise": var.sqrt().mean().item()}
    return loss, numbers


def train_vae(
    world: World, vae: AutoencoderKL, settings: Settings, out: Path, worker: Worker, crop: int = 64
) -> int:
    """Train the VAE on crops of fresh scenes; saves EMA weights to out/vae. Returns the crops seen.

    Parts that take no gradient stay as they are: with a frozen encoder, so do the latents and their scale.
    """
    vae = vae.to(world.device)
    if settings.compile:
        vae.encoder.compile(dynamic=False)
        vae.decoder.compile(dynamic=False)
    is_whole = vae.quant_conv.weight.requires_grad
    seed = settings.seed * 1000 + worker.rank
    seeds = fresh_seeds(seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(next(seeds))

    def draw() -> tuple[Tensor, Tensor]:
        scenes = draw_scenes(world, 32, next(seeds))
        return (scenes.pixels * 255).round().byte(), (scenes.objects * 255).round().byte()

    pool = Pool(draw, settings.pool, settings.reuse, seed)

    def compute_loss(_: float) -> tuple[Tensor, dict[str, float]]:
        pixels, mask = pool.take(settings.batch)
        x = random_crops(pixels, mask.float() / 255, crop, generator).float() / 127.5 - 1
        return vae_loss(vae, x) if is_whole else vae_loss(vae, x, JITTER, DECODER_MSE)

    def on_save() -> None:
        if is_whole:
            with torch.no_grad():
                scenes = draw_scenes(world, 64, HELD_OUT_SEED + 7)
                latents = vae.encode(scenes.pixels * 2 - 1).latent_dist.mean
            vae.register_to_config(scaling_factor=float(1 / latents.std()))
        vae.save_pretrained(out / "vae")

    name = "vae" if is_whole else "decoder"
    return run_training(
        [vae], compute_loss, settings, out / f"{name}.pt", out / f"{name}.log", on_save, worker
    )


# ---------------------------------------------------------------- stage 2: UNet and text encoder


def debiased_weights(alphas_cumprod: Tensor) -> Tensor:
    """Weight of each timestep for eps prediction, SNR^-1/2 (Yu et al. 2023), with mean 1.

    An error in eps weighs the more in the picture the noisier the step: sigma / alpha times as much. Min-SNR
    weights, 1 wherever the SNR is below 5, left things in two halves and places with two things.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr**-0.5
    return weights / weights.mean()


def crops_round(
    latents: Tensor, mask: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A `size` crop (b c size size) of each row and of its mask (b 1 size size), anywhere that holds the
    whole object, or as much of it as fits. The fewer the cells, the quicker is a step.
    """
    device, corners = mask.device, []
    for axis in (3, 2):  # the extent over the rows, then over the columns
        inside = (mask[:, 0] > 0.5).any(axis - 1).float()
        full = inside.shape[1]
        first, end = inside.argmax(1), full - inside.flip(1).argmax(1)
        ends = torch.stack([end - size, first]).clamp(0, full - size)
        share = torch.rand(len(mask), generator=generator).to(device)
        corners.append(ends.amin(0) + (share * (ends.amax(0) - ends.amin(0) + 1)).long())
    top, left = (corner[:, None] + torch.arange(size, device=device) for corner in corners)
    row = torch.arange(len(mask), device=device)[:, None, None]
    both = torch.cat([latents, mask], 1).movedim(1, -1)[row, top[:, :, None], left[:, None]].movedim(-1, 1)
    return both[:, :-1], both[:, -1:]


@dataclass
class TextToImage:
    """The parts that stage 2 trains (unet, text_encoder) and those that it only uses."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    alphas_cumprod: Tensor

    def embed(self, captions: list[str]) -> Tensor:
        """(b TOKENS d), as Stable Diffusion does it: the last hidden state of the padded prompt."""
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(tokens.to(self.unet.device)).last_hidden_state

    def save(self, out: Path) -> None:
        """What the stages train, as out/unet and out/text_encoder."""
        self.unet.save_pretrained(out / "unet")
        self.text_encoder.save_pretrained(out / "text_encoder")


def unet_loss(
    model: TextToImage, latents: Tensor, mask: Tensor, captions: list[str], weights: Tensor
) -> tuple:
    """eps MSE at stratified timesteps, debiased, times ten on the object. latents (b 4 h w).

    An edit keeps only what the model draws in the mask; a thing covers about a tenth of its scene.
    """
    batch, device = len(latents), latents.device
    strata = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
    timesteps = (strata * len(weights)).long()
    eps = torch.randn_like(latents)
    alpha = model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * eps).contiguous(memory_format=torch.channels_last)
    with autocast(device):
        predicted = model.unet(noisy, timesteps, model.embed(captions)).sample
    error = ((predicted.float() - eps) ** 2).mean(1)
    heavy = 1 + 9 * mask[:, 0]
    per_sample = (error * heavy).sum((1, 2)) / heavy.sum((1, 2))
    loss = (per_sample * weights[timesteps]).mean()
    middle = (timesteps >= 250) & (timesteps < 550)  # where DiffEdit's mask step works
    numbers = {"mse": per_sample.mean().item(), "mse_middle": per_sample[middle].mean().item()}
    return loss, numbers


def made_ready(model: TextToImage, device: torch.device, compiled: bool) -> None:
    """All parts on the device, the UNet as it is fastest there."""
    model.unet.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        model.unet.set_attn_processor(AttnProcessor())  # a step takes 8 % less time than with SDPA
    if compiled:
        model.unet.compile(dynamic=False)
    model.text_encoder.to(device)
    model.vae.to(device).requires_grad_(False)
    model.alphas_cumprod = model.alphas_cumprod.to(device)


def latent_pool(
    world: World, model: TextToImage, settings: Settings, seeds: Iterator[int], seed: int
) -> Pool:
    """A pool of latents, masks of all objects, and the words for captions."""

    @torch.no_grad()
    def draw() -> tuple[Tensor, ...]:
        scenes: Scenes = draw_scenes(world, 32, next(seeds))
        with autocast(world.device):
            latents = model.vae.encode(scenes.pixels * 2 - 1).latent_dist.mean
        words = torch.stack([scenes.thing, scenes.second, scenes.place, scenes.colour], 1)
        return latents.float() * model.vae.config.scaling_factor, latent_mask(scenes.objects), words

    return Pool(draw, settings.pool, settings.reuse, seed)


def train_unet(world: World, model: TextToImage, settings: Settings, out: Path, worker: Worker) -> int:
    """Train UNet and text encoder on latents of fresh scenes; saves EMA weights. Returns the samples seen."""
    made_ready(model, world.device, settings.compile)
    weights = debiased_weights(model.alphas_cumprod)
    seed = settings.seed * 1000 + worker.rank
    seeds, rng = fresh_seeds(seed), np.random.default_rng([seed, 1])
    torch.manual_seed(int(rng.integers(2**31)))
    generator = torch.Generator().manual_seed(seed)
    pool = latent_pool(world, model, settings, seeds, seed)

    def compute_loss(done: float) -> tuple[Tensor, dict[str, float]]:
        latents, mask, words = pool.take(settings.batch)
        if done < settings.anneal_from:
            latents, mask = crops_round(latents, mask, settings.crop, generator)
        captions = [caption(rng, *row) for row in words.tolist()]
        return unet_loss(model, latents, mask, captions, weights)

    parts: list[nn.Module] = [model.unet, model.text_encoder]
    files = out / "unet.pt", out / "unet.log"
    return run_training(parts, compute_loss, settings, *files, partial(model.save, out), worker)


# ---------------------------------------------------------------- jobs


@dataclass
class Job:
    """One stage: what to train, from which folders, with which settings. Every worker builds its own copy."""

    stage: str  # "vae", "decoder", "unet", "heat" or "reward"
    data: Path  # where the sources lie
    out: Path  # vae/, unet/, text_encoder/, checkpoints and logs are written here
    settings: Settings
    start: Path | None = None  # a model folder to start from; else random weights, or `out` (heat, reward)
    device: str = "cpu"


def run_job(job: Job) -> None:
    """Run one stage in this process, or in settings.workers processes that share their gradients."""
    workers = job.settings.workers
    if workers == 1:
        run_worker(0, job, None)
        return
    if job.stage in ("vae", "decoder"):
        parts: nn.Module = load_vae(job)
    else:
        parts = nn.ModuleList(load_unet(job)[: 2 if job.stage == "unet" else 1])
    peers = Peers(workers, sum(p.numel() for p in parts.parameters() if p.requires_grad))
    torch.multiprocessing.spawn(run_worker, (job, peers), nprocs=workers)


def run_worker(rank: int, job: Job, peers: Peers | None) -> None:
    """The body of one worker process."""
    if peers is not None:
        torch.set_num_threads(1)
        # By SIGINT torch ends workers whose parent has gone; started with a shell's `&` they would ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.manual_seed(job.settings.seed)  # all workers start from the same random weights
    worker, is_vae = Worker(rank, peers), job.stage in ("vae", "decoder")
    world = load_world(job.data, backdrops=job.stage != "unet").to(job.device)
    if is_vae:
        train_vae(world, load_vae(job), job.settings, job.out, worker)
        return
    model = load_text_to_image(load_unet(job), job.out)
    if job.stage == "unet":
        train_unet(world, model, job.settings, job.out, worker)
    else:
        from training.reward import load_critic, train_edits  # which build on this module

        critic = load_critic(job.data) if job.stage == "reward" else None
        train_edits(world, model, critic, job.settings, job.out, worker)


def load_vae(job: Job) -> AutoencoderKL:
    """The VAE to start from, float32; for the stage of the decoder with a frozen encoder."""
    if job.stage == "vae":
        return AutoencoderKL.from_pretrained(job.start / "vae").float() if job.start else new_vae()
    vae = AutoencoderKL.from_pretrained((job.start or job.out) / "vae").float()
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return vae


def load_text_to_image(
    parts: tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer], folder: Path
) -> TextToImage:
    """The parts of stage 2 (see read_unet, load_unet) with the VAE of `folder`, float32."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval()
    return TextToImage(*parts, vae, scheduler().alphas_cumprod)


def read_unet(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """UNet and text encoder of a model folder, float32, and its tokenizer, of whatever size they are."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    return unet, text_encoder, load_tokenizer(folder / "tokenizer")


def load_unet(job: Job) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The UNet and text encoder to start from, float32, and the tokenizer, which is kept in out/tokenizer."""
    if not (job.out / "tokenizer").exists():
        write_tokenizer(caption_words(), job.out / "tokenizer")
    tokenizer = load_tokenizer(job.out / "tokenizer")
    start = job.out if job.start is None and job.stage != "unet" else job.start
    if start is None:
        return new_unet(), new_text_encoder(tokenizer), tokenizer
    unet, text_encoder, old_tokenizer = read_unet(start)
    return with_weights_of(unet), with_words_of(tokenizer, text_encoder, old_tokenizer), tokenizer


@torch.no_grad()
def with_weights_of(old: UNet2DConditionModel) -> UNet2DConditionModel:
    """A new UNet that computes what `old` does: attention that `old` lacks adds nothing at first.

    ValueError where they differ in more than that.
    """
    new = new_unet()
    missing, unknown = new.load_state_dict(old.state_dict(), strict=False)
    if alien := [*unknown, *(name for name in missing if ".attentions." not in name)]:
        raise ValueError(f"The UNet to start from is of another shape: {', '.join(alien[:3])}")
    for name in missing:
        if ".proj_out." in name:
            new.get_parameter(name).zero_()
    return new


@torch.no_grad()
def with_words_of(
    tokenizer: CLIPTokenizer, old: CLIPTextModel, old_tokenizer: CLIPTokenizer
) -> CLIPTextModel:
    """`old` for another tokenizer: tokens that both know keep their embedding, new ones start at random."""
    new = new_text_encoder(tokenizer)
    rows, old_rows = new.get_input_embeddings().weight, old.get_input_embeddings().weight
    values = rows.clone()
    old_vocab = old_tokenizer.get_vocab()
    for token, index in tokenizer.get_vocab().items():
        if token in old_vocab:
            values[index] = old_rows[old_vocab[token]]
    kept = {name: value for name, value in old.state_dict().items() if "token_embedding" not in name}
    new.load_state_dict(kept, strict=False)
    rows.copy_(values)
    return new
