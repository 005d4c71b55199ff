"""Write trained parts as one folder in diffusers' Stable Diffusion layout, float16, with diffedit.json."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from diffedit_cli.models import EMBEDDED
from diffedit_cli.models.single_file import scheduler
from training.tokenizer import load_tokenizer
from training.words import COLOURS, PLACES, PLAIN_WORDS, THINGS

NAME = "embedded"
DEFAULTS = {"strength": 1.0, "guidance_scale": 5.0}  # chosen with benchmarks.edit_defaults
MODEL_CARD = EMBEDDED / "README.md"


def export(run: Path, out: Path, trained_samples: int) -> Path:
    """Assemble run/{vae,unet,text_encoder,tokenizer} into `out`, below 40 MB in all.

    The model card is the one in the package. vocab.json and merges.txt are kept next to tokenizer.json:
    older readers of the layout need them.
    """
    tokenizer = load_tokenizer(run / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(run / "vae", torch_dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(run / "text_encoder", dtype=torch.float16),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(run / "unet", torch_dtype=torch.float16),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    card = MODEL_CARD.read_text("utf-8")  # `out` may be the folder that holds it
    if out.exists():
        shutil.rmtree(out)
    pipeline.save_pretrained(out, safe_serialization=True)
    for part in ("unet", "vae"):  # the path of the run does not belong in the result
        config = json.loads((out / part / "config.json").read_text())
        config.pop("_name_or_path", None)
        (out / part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(run / "tokenizer" / name, out / "tokenizer" / name)
    (out / "diffedit.json").write_text(json.dumps(description(trained_samples), indent=2) + "\n")
    (out / "README.md").write_text(card, "utf-8")
    return out


def mean(one: Path, other: Path, out: Path) -> Path:
    """Copy the model folder `one` to `out`, with the mean of its UNet and that of `other`.

    What two trainings of one network are good at is often in the mean of their weights (Wortsman et al. 2022,
    arXiv 2203.05482).
    """
    file = "unet/diffusion_pytorch_model.safetensors"
    weights, others = load_file(one / file), load_file(other / file)
    shutil.copytree(one, out, dirs_exist_ok=True)
    halfway = {name: ((w.float() + others[name].float()) / 2).to(w.dtype) for name, w in weights.items()}
    save_file(halfway, out / file, metadata={"format": "pt"})
    return out


def description(trained_samples: int) -> dict[str, Any]:
    """What the command line reads: the words that the model knows, and its own defaults."""
    words = {
        "objects": [thing.word for thing in THINGS],
        "places": [place.word for place in PLACES],
        "colours": list(COLOURS),
        "small words": PLAIN_WORDS,
    }
    return {"name": NAME, "words": words, "defaults": DEFAULTS, "trained_samples": trained_samples}
