"""What to do when memory is short: keep one network at a time on the device, and work in smaller pieces."""

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import MemoryShort, is_shortage
from .quiet import quiet

T = TypeVar("T")
IS_WEIGHTLESS = ContextVar("IS_WEIGHTLESS", default=False)
SMALLEST_TILE = 16  # latent cells: in smaller ones the VAE's colours drift apart


def attempt(run: Callable[[], T], device: torch.device) -> T | None:
    """What `run` returns, or None if memory ran out; then what the failed run held is released."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
    gc.collect()  # here, and not above: the error holds the frames of the failed run
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    return None


def shortage(what: str, device: torch.device, low_memory: bool) -> MemoryShort:
    """The error for a run that does not fit however small its pieces are; the hint names the next flag."""
    hint = "Give a smaller --size" if low_memory else "Try --low-memory, or a smaller --size"
    if device.type != "cpu":
        hint += ", or --device cpu"
    return MemoryShort(f"The memory of {device.type} is too small for {what}.", f"{hint}.")


def weight_bytes(networks: Sequence[Any]) -> int:
    """The bytes that networks take, whether they are in memory or on demand."""
    held = [
        *(x for one in networks for x in one.parameters()),
        *(x for one in networks for x in one.buffers()),
    ]
    apart = sum(one.bytes for one in networks if isinstance(one, OnDemand))
    return apart + sum(x.numel() * x.element_size() for x in held)


def free_bytes(device: torch.device) -> int:
    """Memory that is available on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    import psutil

    return psutil.virtual_memory().available


def needed_bytes(weights: int) -> int:
    """What a run takes: the weights, and for the rest half as much and 256 MB, a rule of thumb."""
    return weights + weights // 2 + 2**28


def exceeds(numbers: int, dtype: torch.dtype, room: int | None) -> bool:
    """Whether a run with this many weights takes more than `room` bytes; None means no limit."""
    return room is not None and needed_bytes(numbers * dtype.itemsize) > room


def is_short(networks: Sequence[Any], device: torch.device) -> bool:
    """Whether these networks, with what a run needs besides them, would not fit on a device.

    On a CPU the weights are there already.
    """
    weights = weight_bytes(networks)
    return free_bytes(device) < needed_bytes(weights) - (weights if device.type == "cpu" else 0)


@contextmanager
def without_weights() -> Generator[None, None, None]:
    """Networks that are read meanwhile are put together and checked, on the meta device."""
    token = IS_WEIGHTLESS.set(True)
    try:
        yield
    finally:
        IS_WEIGHTLESS.reset(token)


class Offload:
    """Keeps only the network that is running on the device; the others stay in the CPU's memory.

    accelerate's hooks move a network to the device for its forward pass; `claim` first moves the others back.
    A network that is too large for the device is moved there one layer at a time by diffusers' hooks.
    """

    def __init__(self, networks: Sequence[Any], device: torch.device) -> None:
        from accelerate import cpu_offload_with_hook
        from diffusers.hooks.group_offloading import apply_group_offloading

        too_large = [network for network in networks if is_short([network], device)]
        for network in too_large:
            apply_group_offloading(network, device, offload_type="leaf_level")
        whole = [network for network in networks if network not in too_large]
        self.hooks = [(network, cpu_offload_with_hook(network, device)[1]) for network in whole]

    def claim(self, network: Any) -> None:
        for other, hook in self.hooks:
            if other is not network and next(other.parameters()).device.type != "cpu":
                hook.offload()


class OnDemand(nn.Module):
    """A network that is read when it or its state_dict is needed, and released when another one runs.

    load: reads it. bytes: the memory that it takes.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        super().__init__()
        with without_weights():
            empty = load()
        self.load, self.config, self.bytes = load, empty.config, weight_bytes([empty])
        self.held: tuple[Any, ...] = ()

    def forward(self, *args: Any, **options: Any) -> Any:
        held = self.held
        if not held:
            with quiet():
                self.held = held = (self.load(),)
        return held[0](*args, **options)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        network = self.held[0] if self.held else self.load()
        destination.update(network.state_dict(prefix=prefix, keep_vars=keep_vars))

    def release(self) -> None:
        self.held = ()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which read it themselves."""
        return {**self.__dict__, "held": ()}


def loaded(load: Callable[[], Any], *, is_on_demand: bool) -> Any:
    return OnDemand(load) if is_on_demand else load()


def take_turns(networks: Sequence[Any], running: Any) -> None:
    """Release all networks on demand except the one that runs next."""
    for network in networks:
        if isinstance(network, OnDemand) and network is not running:
            network.release()


def smaller_tile(vae: Any, cells: int) -> int | None:
    """The side of tiles half as long as a VAE's are now, or as `cells` if it has none.

    None: they are as small as they may be.
    """
    now = vae.tile_latent_min_size if vae.use_tiling else cells
    return None if now <= SMALLEST_TILE else max(SMALLEST_TILE, now // 2)


def set_tiles(vae: Any, cells: int, factor: int) -> None:
    """Make the VAE work on one picture at a time, in tiles of this many latent cells a side.

    They overlap by a quarter and are blended.
    """
    vae.enable_slicing()
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = cells, cells * factor
    if hasattr(vae, "tile_sample_min_height"):  # of films
        vae.tile_sample_min_height = vae.tile_sample_min_width = cells * factor
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = (cells * 3 // 4) * factor
