"""Edits of PIE-Bench (Ju et al. 2024, arXiv 2310.01506), with its own measures.

    python -m benchmarks.pie_bench DATA -m sd15
    python -m benchmarks.pie_bench DATA -m sd15 --paper --clip FOLDER --dino FOLDER

DATA holds mapping_file.json and annotation_images/. `blended_word` gives the reference and the query where
it has two different words; otherwise, and with --prompts, they are the two prompts without their brackets.
Type 9 (style) changes the whole picture and is left out.

The background is measured as PIE-Bench does: both pictures are black inside the annotated mask, whose
outermost pixels count as edited, and PSNR, MSE and SSIM are taken over the whole. `before` is what the
model drew, `after` the result with the picture's own pixels outside the mask that was found. IoU compares
that mask with the annotated one. --clip (a folder of openai/clip-vit-large-patch14) adds the similarity of
the result to the query's prompt, whole and in the annotated mask; --dino (a folder of facebook/dino-vitb8)
the distance in structure (Tumanyan et al. 2022, arXiv 2201.00424) of source and result. LPIPS needs
torchvision, which this project does not have.

No run on the published data is on record here. Prints a table, by type; --out keeps the results and a line
of JSON for each.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from benchmarks.report import Figures, markdown
from diffedit_cli import DiffeditError, Masks, Picture, load_image
from diffedit_cli.core.diffedit import DiffEdit
from diffedit_cli.images import canvas
from diffedit_cli.images.paste import paste
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.results import EditResult, put_back
from diffedit_cli.settings import PAPER, EditConfig, build, filled_in

SIDE = 512
STYLE = "9"
TYPES = {
    "0": "random", "1": "change object", "2": "add object", "3": "delete object", "4": "change content",
    "5": "change pose", "6": "change colour", "7": "change material", "8": "change background",
}  # fmt: skip
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sample:
    """One row of mapping_file.json. mask: (512, 512), True where the picture should change."""

    name: str
    path: Path
    kind: str
    ref: str
    query: str
    prompt: str  # of the query
    mask: np.ndarray


def decode_mask(runs: list[int], side: int = SIDE) -> np.ndarray:
    """start, length, start, length, ... over the rows, as a mask (side, side)."""
    flat = np.zeros(side * side, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    return flat.reshape(side, side)


def with_rim(mask: np.ndarray) -> np.ndarray:
    """The mask with its outermost pixels set: annotations are unsure there."""
    return np.pad(mask[1:-1, 1:-1], 1, constant_values=True)


def read_samples(data: Path, *, prompts: bool = False) -> Iterator[Sample]:
    """Every sample but those of style, in the order of the file."""
    for name, row in json.loads((data / "mapping_file.json").read_text()).items():
        if str(row["editing_type_id"]) == STYLE:
            continue
        before, after = (
            row[key].replace("[", "").replace("]", "") for key in ("original_prompt", "editing_prompt")
        )
        words = row["blended_word"].split()
        by_words = len(words) == 2 and words[0] != words[1] and not prompts
        ref, query = words if by_words else (before, after)
        path = data / "annotation_images" / row["image_path"]
        kind = str(row["editing_type_id"])
        yield Sample(name, path, kind, ref, query, after, decode_mask(row["mask"]))


def edit(model: DiffusersDenoiser, picture: Picture, config: EditConfig) -> tuple[Image.Image, EditResult]:
    """What the model drew, at the picture's size, and the result after the paste."""
    fit = canvas.fit(picture.rgb.size, config.size or model.size, model.multiple)
    source = DiffEdit(model, canvas.to_pixels(picture, fit).to(model.device))
    edited = source.edit(config, [config.seed or 0])
    everywhere = Image.new("L", picture.rgb.size, 255)
    drawn = paste(picture, edited.pixels.cpu(), everywhere, fit)
    return drawn, put_back(model, picture, fit, edited, 0, Masks())


def tensor_of(image: Image.Image) -> Tensor:
    """(1 3 h w) in [0, 1]."""
    return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]


def background_figures(source: Tensor, result: Tensor, mask: np.ndarray) -> Figures:
    """PSNR, MSE and SSIM of the pictures (1 3 s s), black inside the mask (s s)."""
    outside = torch.from_numpy(~with_rim(mask)).float()
    one, other = source * outside, result * outside
    mse = F.mse_loss(other, one)
    ssim = structural_similarity_index_measure(other, one, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {"psnr": float(-10 * torch.log10(mse)), "mse": float(mse), "ssim": float(ssim)}


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / max(1, (found | true).sum()))


class Clip:
    """Similarity of a picture and a text, 100 times the cosine of their embeddings (CLIPScore)."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def __call__(self, picture: Tensor, text: str) -> float:
        side = self.model.config.vision_config.image_size
        pixels = scaled(picture, side, "bicubic", CLIP_MEAN, CLIP_STD)
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer([text], truncation=True, max_length=longest, return_tensors="pt")
        told = self.model(pixel_values=pixels, **tokens)
        return max(0.0, float(100 * F.cosine_similarity(told.image_embeds, told.text_embeds)))


class Dino:
    """Distance in structure: the mean squared difference of the last layer's self-similarities of keys."""

    def __init__(self, folder: Path) -> None:
        from transformers import ViTModel

        self.model: Any = ViTModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False
        ).eval()
        self.keys: list[Tensor] = []
        last: Any = [layer for name, layer in self.model.named_modules() if name.endswith(KEYS)][-1]
        last.register_forward_hook(lambda *found: self.keys.append(found[-1]))

    @torch.no_grad()
    def similarity(self, picture: Tensor) -> Tensor:
        self.model(scaled(picture, self.model.config.image_size, "bilinear", DINO_MEAN, DINO_STD))
        keys = F.normalize(self.keys.pop(), dim=-1)
        return keys @ keys.transpose(1, 2)

    def __call__(self, one: Tensor, other: Tensor) -> float:
        return float(F.mse_loss(self.similarity(one), self.similarity(other)))


KEYS = (".key", ".k_proj")


def scaled(picture: Tensor, side: int, mode: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """A square picture (1 3 s s) as a network wants it."""
    small = F.interpolate(picture, (side, side), mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    return (small - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def figures_of(
    sample: Sample, source: Tensor, drawn: Tensor, result: Tensor, found: np.ndarray,
    clip: Clip | None, dino: Dino | None,
) -> Figures:  # fmt: skip
    figures: Figures = {"iou": iou(found, sample.mask)}
    for name, picture in (("before", drawn), ("after", result)):
        told = background_figures(source, picture, sample.mask)
        figures |= {f"{key} {name}": value for key, value in told.items()}
    if clip is not None:
        inside = result * torch.from_numpy(with_rim(sample.mask)).float()
        figures["clip"], figures["clip in the mask"] = (
            clip(picture, sample.prompt) for picture in (result, inside)
        )
    if dino is not None:
        figures["structure"] = dino(source, result)
    return figures


def run_sample(
    model: DiffusersDenoiser, sample: Sample, base: EditConfig, out: Path | None,
    clip: Clip | None, dino: Dino | None,
) -> Figures:  # fmt: skip
    picture = load_image(sample.path)
    if picture.rgb.size != (SIDE, SIDE):
        raise DiffeditError(
            f"{sample.path} is not {SIDE}x{SIDE}.", "Use the pictures of PIE-Bench as they are."
        )
    config = filled_in(replace(base, ref=sample.ref, query=sample.query), model.own_defaults)
    drawn, result = edit(model, picture, config)
    if out is not None:
        result.save(out / f"{sample.name}.png", overwrite=True)
    tensors = tensor_of(picture.rgb), tensor_of(drawn), tensor_of(result.image)
    return figures_of(sample, *tensors, np.asarray(result.mask) > 127, clip, dino)


def mean_rows(rows: list[tuple[str, Figures]]) -> dict[str, Figures]:
    """The means of each type, then of all. PSNR of pictures that are equal is infinite, and left out."""
    kinds = [kind for kind in TYPES if any(kind == one for one, _ in rows)]
    groups = {TYPES[kind]: [row for one, row in rows if one == kind] for kind in kinds}
    groups["all"] = [row for _, row in rows]
    return {
        name: {
            "edits": float(len(group)),
            **{key: finite_mean([row[key] for row in group]) for key in (group[0] if group else {})},
        }
        for name, group in groups.items()
    }


def finite_mean(values: list[float]) -> float:
    found = [value for value in values if np.isfinite(value)]
    return sum(found) / len(found) if found else float("inf")


def main(
    data: Annotated[Path, typer.Argument(help="The folder with mapping_file.json.")],
    model: Annotated[str, typer.Option("-m", "--model")] = "sd15",
    prompts: Annotated[bool, typer.Option(help="Always use the whole prompts as texts.")] = False,
    count: Annotated[int | None, typer.Option(help="Only the first few.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to keep the results.")] = None,
    clip: Annotated[Path | None, typer.Option(help="A folder of CLIP.")] = None,
    dino: Annotated[Path | None, typer.Option(help="A folder of DINO.")] = None,
    paper: Annotated[bool, typer.Option(help="With the published settings, as edit --paper.")] = False,
    seed: int = 0,
) -> None:
    """Edit every sample and print the figures by type."""
    config = build(EditConfig, PAPER if paper else {}, {"seed": seed})
    denoiser = load_model(model)
    clip_of, dino_of = Clip(clip) if clip else None, Dino(dino) if dino else None
    rows: list[tuple[str, Figures]] = []
    failed: list[str] = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for sample in list(read_samples(data, prompts=prompts))[:count]:
        try:
            row = run_sample(denoiser, sample, config, out, clip_of, dino_of)
        except DiffeditError as error:
            failed.append(f"{sample.name}: {error.message}")
            continue
        rows.append((sample.kind, row))
        if out is not None:
            with (out / "figures.jsonl").open("a") as file:
                file.write(json.dumps({"id": sample.name, "type": sample.kind, **row}) + "\n")
        typer.echo(f"{len(rows)} done", err=True)
    found = mean_rows(rows)
    names = list(found["all"])
    typer.echo(
        markdown(["", *names], [[name, *(f"{row[key]:.4g}" for key in names)] for name, row in found.items()])
    )
    for line in failed:
        typer.echo(f"Failed: {line}", err=True)


if __name__ == "__main__":
    typer.run(main)
