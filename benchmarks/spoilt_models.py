"""Seeded mutations of a tiny model folder: each must load and run, or be refused in one sentence.

    python -m benchmarks.spoilt_models --count 3000

A mutation changes one value or some bytes of one file: a config, an index, the card, a tokenizer's file, or
the header of a file of weights. Prints the faults and appends a line to results.jsonl.
"""

import json
import random
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks.report import record
from benchmarks.robustness import MOST_SECONDS, in_a_process, mutate
from diffedit_cli.errors import MemoryShort, ModelError, SettingError
from diffedit_cli.models import EMBEDDED, describe, load_model

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 10**6, 10**12, 0.5, -0.0, 1e308, float("nan"), "", "x", "../x",
    "/etc/x", "float32", [], {}, [None], [0], [-1, 2], [[1]], ["x"], {"a": 1}, {"x": "../y"}, [16] * 40,
]  # fmt: skip
DEEP = b"[" * 50_000
A_PROCESS = 100  # mutations


def make_folder(folder: Path) -> Path:
    """A tiny Stable Diffusion 1.x of random weights; the UNet's lie in several files."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer: Any = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=2, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, hidden_size=32,
        intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    vae.save_pretrained(folder / "vae")
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    card = {"words": {"objects": ["horse"]}, "defaults": {"strength": 0.7}}
    (folder / "diffedit.json").write_text(json.dumps(card))
    return folder


def spoil(folder: Path, seed: int) -> str:
    """Mutate one file of a folder; returns what was done."""
    dice = random.Random(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "merges.txt")
    file = dice.choice(files)
    data = file.read_bytes()
    is_weights = file.suffix == ".safetensors"
    length = int.from_bytes(data[:8], "little") if is_weights else 0
    text, rest = (data[8 : 8 + length], data[8 + length :]) if is_weights else (data, b"")
    way = dice.choice(("value", "value", "value", "key", "bytes", "deep"))
    if way == "deep":
        text = DEEP
    elif way == "bytes":
        text = mutate(text, dice)
    else:
        content = json.loads(text)
        change(content, dice, way)
        text = json.dumps(content).encode()
    file.write_bytes((len(text).to_bytes(8, "little") if is_weights else b"") + text + rest)
    return f"{file.relative_to(folder)}: {way}"


def change(content: Any, dice: random.Random, way: str) -> None:
    """Replace one value somewhere within, or take one out."""
    while True:
        places = list(content) if isinstance(content, dict) else list(range(len(content)))
        place = dice.choice(places)
        inner = content[place]
        if isinstance(inner, (dict, list)) and inner and dice.random() < 0.7:
            content = inner
            continue
        if way == "key":
            del content[place]
        else:
            content[place] = dice.choice(VALUES)
        return


def outcome(folder: Path) -> str:
    """`runs`, `refused`, or what it should not be."""
    try:
        describe(str(folder))
        model = load_model(folder, device="cpu")
        latents = torch.zeros(1, model.latent_channels, 8, 8)
        model.predict(latents, torch.tensor([500]), model.embed(["a horse"]))
        model.decode(model.encode(torch.zeros(1, 3, 16, 16)))
        model.unknown_words(["a horse"])
    except (ModelError, SettingError, MemoryShort) as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"raised {type(error).__name__}: {str(error)[:150]}"
    return "runs"


def try_one(whole: Path, work: Path, seed: int) -> str:
    """The outcome of one mutation of a copy of a whole folder; with what was done where it is a fault."""
    folder = work / str(seed)
    shutil.copytree(whole, folder)
    done = spoil(folder, seed)
    found = outcome(folder)
    shutil.rmtree(folder)
    return found if found in ("runs", "refused") else f"{found} [{seed}: {done}]"


def main(count: int = 3000) -> None:
    """Try the mutations, some in each process; print the faults; record the figures."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        whole, work = Path(name) / "whole", Path(name)

        def prepare() -> tuple[str, str]:
            signal.alarm(0)
            return str(make_folder(whole)), outcome(whole)

        in_a_process("a whole folder", prepare)  # in a child: torch must not run before a fork
        for first in range(0, count, A_PROCESS):

            def trials(first: int = first) -> tuple[str, str]:
                found: list[str] = []
                warnings.simplefilter("ignore")
                signal.alarm(0)
                outcome(whole)  # imports what the first trial would be charged for
                for seed in range(first, min(first + A_PROCESS, count)):
                    signal.alarm(MOST_SECONDS)
                    found.append(try_one(whole, work, seed))
                return "counted", json.dumps(found)

            part = in_a_process(f"mutations from {first}", trials)
            found = json.loads(part.message) if part.outcome == "counted" else [part.outcome]
            faults = [one for one in found if one not in ("runs", "refused")]
            outcomes.update("fault" if one in faults else one for one in found)
            slowest = max(slowest, part.seconds / A_PROCESS)
            print(*faults, sep="\n", end="\n" if faults else "", flush=True)
    print(dict(outcomes))
    record("spoilt_models", count=count, outcomes=dict(outcomes), seconds_each=round(slowest, 2))


if __name__ == "__main__":
    typer.run(main)
