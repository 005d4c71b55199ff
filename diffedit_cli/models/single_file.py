"""A single-file checkpoint, whole or only its UNet, in the layout that A1111, ComfyUI and Civitai use.

Such a file does not hold its configuration. Its kind is recognised by its tensors, and the configs and CLIP's
vocabulary come from the package: no network is needed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .clip_tokenizer import clip_tokenizer
from .networks import empty_network, read_config, read_json, reading
from .parts import Parts, Rest, for_text_encoder
from .quantised import Quantised
from .schedulers import plain_config, read_schedule
from .weights import State, fill, plain, read_network, refuse_unknown

CONFIGS = Path(__file__).parent / "configs"
UNET = "model.diffusion_model."
IN_UNET = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
BESIDE_UNET = ("first_stage_model.", "cond_stage_model.", "conditioner.")
FIRST, FIRST_OF_DIFFUSERS = f"{UNET}input_blocks.0.0.weight", "conv_in.weight"
ENCODERS = {  # the prefix of a text encoder's tensors tells what the file is
    "cond_stage_model.transformer.": "sd1",
    "cond_stage_model.model.": "sd2",
    "conditioner.embedders.1.model.": "sdxl",
}
TEXT_PREFIXES = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
TELLS_V = (
    f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
NAMES = {"unet": "UNet", "vae": "VAE", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}
OTHERS = {  # a piece of a tensor's name, and what a file with it is
    "control_model.": ("a ControlNet", "Use a whole checkpoint."),
    "edm_vpred": ("CosXL, with a noise schedule of its own", "Use another checkpoint of XL."),
    "edm_mean": ("a Playground v2.5 checkpoint, with a noise schedule of its own", "Use another one."),
    "conditioner.embedders.0.model.": ("the SDXL refiner, which only polishes pictures", "Use SDXL base."),
    "lora": ("a LoRA", "It changes a checkpoint but is not one itself."),
    "hada_w1": ("a LoHa adapter", "It changes a checkpoint but is not one itself."),
    "emb_params": ("a textual inversion", "It adds a word to a checkpoint but is not one itself."),
    "clip_l": ("a textual inversion", "It adds a word to a checkpoint but is not one itself."),
}


def load_single_file(
    name: str,
    path: Path,
    dtype: torch.dtype,
    *,
    has_own_vae: bool = True,
    rest: Rest | None = None,
    room: int | None = None,
) -> Parts:
    """Load every part of a single-file checkpoint. ModelError if it is not one, or lacks a part.

    has_own_vae: its VAE is used; otherwise it may be missing, and then it has no weights. rest: has the text
    encoders in place of its own, and what else it lacks. room: for the UNet; see weights.fill.
    """
    state = with_prefix(read_network(name, path))
    lacks_vae = not has_own_vae or (rest is not None and rest.vae is not None)
    kind = recognise(name, state, has_own_vae=not lacks_vae, has_own_texts=rest is None)
    parts = convert(name, state, kind, dtype, room=room)
    if rest is None:
        return parts
    tells_schedule = kind_by_texts(state) or kind == "sd2" or {"v_pred", "ztsnr"} & {*state}
    if rest.schedule is not None and not tells_schedule:
        parts = replace(parts, schedule=rest.schedule, predicts_v=rest.predicts_v)
    if rest.vae is not None and not has_vae(state):
        parts = replace(parts, vae=rest.vae)
    return rest.given_to(name, parts)


def with_prefix(state: State) -> State:
    """The tensors of a UNet alone under the names that they have in a whole checkpoint."""
    if "input_blocks.0.0.weight" not in state:
        return state
    return {f"{UNET}{key}" if key.startswith(IN_UNET) else key: x for key, x in state.items()}


def recognise(
    name: str,
    state: Mapping[str, Tensor | Quantised],
    *,
    has_own_vae: bool = True,
    has_own_texts: bool = True,
) -> str:
    """sd1, sd2 or sdxl, from the names of the tensors; ModelError says what else the file is."""
    for piece, (what, hint) in OTHERS.items():
        if any(piece in key for key in state):
            raise ModelError(f"{name} is {what}.", hint)
    if has_own_texts and any(key.startswith(("down_blocks.", "encoder.down_blocks.")) for key in state):
        raise ModelError(
            f"{name} is one network of several.",
            "Give the folder that holds all of them, or with a UNet --text-encoder.",
        )
    first = state.get(FIRST, state.get(FIRST_OF_DIFFUSERS))
    kind = kind_by_texts(state) or kind_of_unet(state)
    lacks = [
        part
        for part, is_there in {
            "a UNet": first is not None,
            "a text encoder": kind_by_texts(state) or not has_own_texts,
            "a VAE": has_vae(state) or not has_own_vae,
        }.items()
        if not is_there
    ]
    if lacks or first is None:
        raise ModelError(
            f"{name} lacks {' and '.join(lacks)}: it is not a whole Stable Diffusion 1.x, 2.x or XL "
            "checkpoint.",
            hint_for(lacks),
        )
    channels = first.shape[1] if len(first.shape) == 4 else 0
    if channels != 4:
        task = {9: "inpainting", 8: "instructions (InstructPix2Pix)"}.get(channels, "another task")
        raise ModelError(
            f"{name} takes {channels} channels: it is made for {task}.",
            "Use the plain text-to-image checkpoint.",
        )
    if not kind:
        raise ModelError(
            f"{name} holds a UNet that is not of Stable Diffusion 1.x, 2.x or XL.",
            "Use one of these.",
        )
    return kind


def hint_for(lacks: list[str]) -> str:
    """A hint on what to do about the parts that a file lacks."""
    if "a UNet" in lacks:
        return "Get the full file, with text encoder and VAE baked in."
    if lacks == ["a VAE"]:
        return "Give a VAE with --vae."
    return "Get the full file, or name a checkpoint that has the rest with --text-encoder."


def kind_by_texts(state: Mapping[str, Tensor | Quantised]) -> str:
    """The kind that the text encoders in a file tell; nothing where it has none."""
    return next(
        (kind for prefix, kind in ENCODERS.items() if any(key.startswith(prefix) for key in state)), ""
    )


def kind_of_unet(state: Mapping[str, Tensor | Quantised]) -> str:
    """The kind whose texts are as wide as those that a UNet takes; nothing where none is."""
    widths = {x.shape[-1] for key, x in state.items() if key.endswith("attn2.to_k.weight") and x.shape}
    for kind in ENCODERS.values():
        config = CONFIGS / kind / "unet/config.json"
        if config.is_file() and widths == {read_json(config)["cross_attention_dim"]}:
            return kind
    return ""


def has_vae(state: Mapping[str, Tensor | Quantised]) -> bool:
    return any(key.startswith("first_stage_model.") for key in state)


def convert(name: str, state: State, kind: str, dtype: torch.dtype, *, room: int | None = None) -> Parts:
    """The parts of a file of a known kind, by diffusers' own conversion and the package's configs.

    A UNet or a VAE that it lacks has no weights.
    """
    folders = [CONFIGS / kind / part for part in NAMES if (CONFIGS / kind / part).is_dir()]
    configs = {folder.name: read_config(name, folder) for folder in folders}
    networks = {part: empty_network(name, part, config) for part, config in configs.items()}
    refuse_unknown(name, state.keys() - used_tensors(name, state, kind, networks))
    is_v = predicts_v(state, kind)
    if kind == "sd2" and is_v:
        networks["unet"].register_to_config(sample_size=96)  # trained on v at 768 pixels, on eps at 512
    others = {key: x for key, x in state.items() if key.startswith(BESIDE_UNET)}
    own = converted(name, {**state, **plain(others, torch.float32)}, kind, networks)  # it cuts and turns them
    for part, weights in own.items():
        as_type = torch.float32 if part == "vae" else dtype
        wanted = networks[part].state_dict()
        used = {key: values for key, values in weights.items() if key in wanted}
        networks[part] = fill(f"{name}, its {NAMES[part]},", networks[part], used, as_type, room=room)
    schedule, _ = read_schedule(name, scheduler_config(state, kind))
    has_texts = "text_encoder" in own
    return Parts(
        unet=networks["unet"],
        vae=networks["vae"],
        text_encoders=[networks[part] for part in TEXT_PREFIXES[kind]] if has_texts else [],
        tokenizers=tokenizers(kind) if has_texts else [],
        schedule=schedule,
        predicts_v=is_v,
        has_zero_empty_prompt=kind == "sdxl",
    )


def used_tensors(name: str, state: State, kind: str, networks: Mapping[str, Any]) -> set[str]:
    """The names of the tensors that end up in a network.

    Found by converting numbers in place of the weights: a tensor may be renamed, transposed or cut in parts.
    """
    names = [*state]
    numbered: State = {key: torch.tensor(i).expand(state[key].shape) for i, key in enumerate(names)}
    found: set[str] = set()
    for part, own in converted(name, numbered, kind, networks).items():
        wanted = networks[part].state_dict()
        placed = [x for key, x in own.items() if key in wanted and isinstance(x, Tensor) and x.numel()]
        found |= {names[int(x.flatten()[0])] for x in placed}
    return found


def converted(name: str, state: State, kind: str, networks: Mapping[str, Any]) -> dict[str, State]:
    """The tensors of a file under the names of diffusers and transformers, by part."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )

    own: dict[str, State] = {}
    found: Any = dict(state)  # the text encoders and the VAE are tensors already
    with reading(name):
        if FIRST in state:
            own["unet"] = convert_ldm_unet_checkpoint(found, networks["unet"].config)
        elif FIRST_OF_DIFFUSERS in state:
            own["unet"] = found
        if has_vae(state):
            own["vae"] = convert_ldm_vae_checkpoint(found, networks["vae"].config)
        for part, prefix in TEXT_PREFIXES[kind].items() if kind_by_texts(state) else ():
            if prefix.endswith("model."):
                text = convert_open_clip_checkpoint(networks[part], found, prefix=prefix)
            else:
                text = {key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix)}
            own[part] = {**for_text_encoder(networks[part], text)}
    return own


def tokenizers(kind: str) -> list[Any]:
    """OpenCLIP's encoders, those of 2.x and the second of XL, see token 0 after the text's end."""
    if kind == "sd1":
        return [clip_tokenizer()]
    return [clip_tokenizer("!")] if kind == "sd2" else [clip_tokenizer(), clip_tokenizer("!")]


def scheduler(*, is_v: bool = False, has_zero_snr: bool = False, ends_clean: bool = False) -> Any:
    """The schedule of all Stable Diffusion, rescaled to end in pure noise where the file says so.

    ends_clean: as the scheduler of XL's repository does.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=ends_clean,
        steps_offset=1,
        prediction_type="v_prediction" if is_v else "epsilon",
        rescale_betas_zero_snr=has_zero_snr,
        timestep_spacing="trailing" if has_zero_snr else "leading",
    )


def scheduler_config(state: Mapping[str, Tensor | Quantised], kind: str) -> dict[str, Any]:
    """The config of the scheduler for a file of this kind."""
    has_zero_snr, ends_clean = "ztsnr" in state, kind == "sdxl"
    return plain_config(
        scheduler(is_v=predicts_v(state, kind), has_zero_snr=has_zero_snr, ends_clean=ends_clean)
    )


def predicts_v(state: Mapping[str, Tensor | Quantised], kind: str) -> bool:
    """Whether the network predicts v: fine-tunes carry a tensor `v_pred` that says so.

    2.x does not say; its v networks are told apart by the spread of one bias, above .09 in them, as
    ComfyUI does.
    """
    if "v_pred" in state or kind != "sd2":
        return "v_pred" in state
    bias = plain({key: state[key] for key in TELLS_V if key in state}, torch.float32)
    return any(float(values.float().std(correction=0)) > 0.09 for values in bias.values())
