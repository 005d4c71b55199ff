"""A VAE of the user's own, in place of the checkpoint's: from a folder, a file or the hub."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .bounds import check_values
from .checks import CHECKS
from .hub import hub_errors
from .networks import empty_network, read_json, reading
from .weights import State, check_weights, fill, plain, read_network, refuse_unknown

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
OF_A_CHECKPOINT = "first_stage_model."
OF_UNETS = "0.18215 is that of 1.x and 2.x, 0.13025 that of XL."
OF_FLOWS = "1.5305 is that of Stable Diffusion 3, 0.3611 that of FLUX.1, Chroma and Z-Image."
NESTED = re.compile(r"^(encoder\.(?=quant_conv\.)|decoder\.(?=post_quant_conv\.))")  # in the file of FLUX.2's


def find_vae(name: str, *, offline: bool) -> Path:
    """The folder or the file of a VAE, fetched from the Hub if it is not here. ModelError: there is none."""
    return local_vae(name) or fetched(name, offline=offline)


def local_vae(name: str) -> Path | None:
    """The folder or the file of a VAE; None: it is on the Hub. ModelError: it can be neither."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        weights_in(name, folder)
        return folder
    if path.suffix == ".safetensors" or path.is_file():
        check_weights(path)
        return path
    if not re.fullmatch(r"\w+([.-]\w+)*/\w+([.-]\w+)*", name, re.ASCII) or len(name) > 96:
        raise ModelError(
            f"There is no VAE {name}.",
            "Give a folder or .safetensors file that exists, or a Hub id such as stabilityai/sd-vae-ft-mse.",
        )
    return None


def fetched(name: str, *, offline: bool) -> Path:
    """The folder of a VAE that is a repository of its own, in the hub's cache."""
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

    where = constants.HF_HUB_CACHE
    found = [try_to_load_from_cache(name, file, cache_dir=where) for file in (CONFIG, WEIGHTS)]
    if all(isinstance(file, str) for file in found):
        return Path(str(found[0])).parent
    if offline or constants.is_offline_mode():
        raise ModelError(f"{name} is not in the Hub's cache.", "Fetch it once, without --offline.")
    with hub_errors(name, None):
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    weights_in(name, folder)
    return folder


def weights_in(name: str, folder: Path) -> Path:
    """The weights of a VAE's folder: the plain ones, or the only ones."""
    found = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not (folder / CONFIG).is_file() or not found:
        raise ModelError(f"{name} holds no VAE.", f"It must have {CONFIG} and {WEIGHTS}.")
    plain = folder / WEIGHTS
    if plain not in found and len(found) > 1:
        raise ModelError(f"{name} holds several VAEs.", f"Name one of them, such as {found[0]}.")
    return plain if plain in found else found[0]


def check_class_here(name: str, kind: str) -> None:
    """ModelError for the folder of a VAE that is of another kind than this (see networks.read_config)."""
    path = local_vae(name)
    if path is not None and path.is_dir():
        CHECKS[kind](name, read_json(path / CONFIG))


def load_vae(name: str, path: Path, own: Mapping[str, Any], kind: str = "vae") -> Any:
    """The network, in float32. own: the config of the checkpoint's VAE, which a file takes over. kind: of the
    network (see networks.read_config).

    ModelError where it is invalid, or scales its latents differently from the checkpoint's.
    """
    config, weights = dict(own), path
    if path.is_dir():
        config, weights = read_json(path / CONFIG), weights_in(name, path)
        check_values(f"{name}/{CONFIG}", config)
        CHECKS[kind](name, config)
    given, wanted = scaling(config), scaling(own)
    if given != wanted:
        is_flow = kind != "vae"
        raise ModelError(
            f"{name} is made for another kind of checkpoint: it scales latents by {told(given, is_flow)}.",
            f"The checkpoint takes {told(wanted, is_flow)}: " + (OF_FLOWS if is_flow else OF_UNETS),
        )
    vae = fill_vae(name, kind, config, read_network(name, weights))
    if any(vae.config.get(key) != own.get(key) for key in ("latents_mean", "latents_std")):
        raise ModelError(
            f"{name} is made for another kind of checkpoint: its latents have another mean or deviation.",
            "Use the VAE of a checkpoint of the same family.",
        )
    return vae


def scaling(config: Mapping[str, Any]) -> tuple[float, float]:
    """The factor and the shift of the latents."""
    return config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0


def told(scaled: tuple[float, float], has_shift: bool) -> str:
    return f"{scaled[0]:g}" + (f" after a shift by {scaled[1]:g}" if has_shift else "")


def fill_vae(name: str, kind: str, config: Mapping[str, Any], weights: State) -> Any:
    """The network, in float32, with these weights under the names of diffusers or of the original code."""
    network = empty_network(name, kind, config)
    state = plain(weights, torch.float32)
    state = {key.removeprefix(OF_A_CHECKPOINT): x for key, x in state.items() if is_of_vae(key)}
    if kind != "qwen_vae" and any(key.startswith("encoder.down.") for key in state):
        state = of_original(name, state, network.config)
    elif any(key.startswith("encoder.downsamples.") for key in state):  # of Wan 2.1, as Qwen-Image's file
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        with reading(name):
            state = convert_wan_vae_to_diffusers(state)
    else:
        network._fix_state_dict_keys_on_load(state)  # pyright: ignore[reportPrivateUsage] names of old files
    if kind == "flux2_vae":
        state["bn.num_batches_tracked"] = torch.zeros(())  # of its training
    return fill(name, network, state, torch.float32)


def of_original(name: str, state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The tensors of an AutoencoderKL from the original code under the names of diffusers."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = {NESTED.sub("", key): x for key, x in state.items()}
    scaling = {key: state.pop(key) for key in [*state] if key.startswith("bn.")}  # of FLUX.2
    names = [*state]
    numbered: Any = {key: torch.tensor(i).expand(state[key].shape) for i, key in enumerate(names)}
    with reading(name):
        placed = convert_ldm_vae_checkpoint(numbered, config).values()
        used = {names[int(x.flatten()[0])] for x in placed if x.numel()}
        refuse_unknown(name, state.keys() - used)
        return convert_ldm_vae_checkpoint(state, config) | scaling


def is_of_vae(key: str) -> bool:
    """Whether a tensor belongs to the network, and not to the code that trained it."""
    return not key.removeprefix(OF_A_CHECKPOINT).startswith(("loss.", "model_ema."))
