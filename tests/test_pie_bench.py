"""benchmarks/pie_bench.py on a small set in the layout of PIE-Bench, its measures against plain loops."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.pie_bench import (
    SIDE,
    Clip,
    Dino,
    background_figures,
    decode_mask,
    iou,
    main,
    mean_rows,
    read_samples,
    tensor_of,
    with_rim,
)

EXAMPLES = Path(__file__).parents[1] / "examples"


def row(path: str, kind: str, words: str, **more: Any) -> dict[str, Any]:
    prompts = {
        "original_prompt": "a [brown] horse in a park",
        "editing_prompt": "a [striped] zebra in a park",
    }
    mask = [SIDE * y + 150 for y in range(200, 400)]
    runs = [number for start in mask for number in (start, 220)]
    named = {"image_path": path, "editing_type_id": kind, "blended_word": words, "mask": runs}
    return {**prompts, "editing_instruction": "", **named, **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pie")
    images = folder / "annotation_images"
    for path, source in (("1_change_object_80/a.jpg", "horse_park"), ("0_random_140/b.jpg", "fox_forest")):
        (images / path).parent.mkdir(parents=True)
        Image.open(EXAMPLES / f"{source}.jpg").convert("RGB").resize((SIDE, SIDE)).save(images / path)
    rows = {
        "000": row("1_change_object_80/a.jpg", "1", "horse zebra"),
        "001": row("9_change_style_80/c.jpg", "9", ""),
        "002": row("0_random_140/b.jpg", "0", "fox fox"),
    }
    (folder / "mapping_file.json").write_text(json.dumps(rows))
    return folder


def test_samples_are_read(data: Path) -> None:
    first, second = read_samples(data)
    assert (first.name, first.ref, first.query, first.kind) == ("000", "horse", "zebra", "1")
    assert (second.ref, second.query) == ("a brown horse in a park", "a striped zebra in a park")
    assert next(read_samples(data, prompts=True)).ref == "a brown horse in a park"
    assert first.mask.sum() == 200 * 220
    assert first.mask[200, 150]
    assert not first.mask[200, 149]


def test_masks_are_decoded_as_by_a_plain_loop() -> None:
    runs, flat = [2, 3, 30, 9], [0] * 36  # the last run would leave the picture
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for index in range(start, min(start + length, 36)):
            flat[index] = 1
    found = decode_mask(runs, 6)
    assert found.flatten().tolist() == [bool(value) for value in flat]
    rim = with_rim(np.zeros((6, 6), bool))
    assert [int(line.sum()) for line in rim] == [6, 2, 2, 2, 2, 6]
    assert iou(found, found) == 1
    assert iou(found, ~found) == 0


def test_figures_are_those_of_plain_loops() -> None:
    noise = np.random.default_rng(0)
    side = 16
    one, other = noise.random((2, side, side, 3))
    mask = np.zeros((side, side), bool)
    mask[4:9, 5:12] = True
    total = 0.0
    for y in range(side):
        for x in range(side):
            inside = mask[y, x] or y in (0, side - 1) or x in (0, side - 1)
            for channel in range(3):
                total += 0.0 if inside else (one[y, x, channel] - other[y, x, channel]) ** 2
    mse = total / (side * side * 3)
    first, second = (torch.from_numpy(values).permute(2, 0, 1)[None].float() for values in (one, other))
    told = background_figures(first, second, mask)
    assert told["mse"] == pytest.approx(mse, rel=1e-5)
    assert told["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    outside = [tensor[0].double().numpy() * ~with_rim(mask) for tensor in (first, second)]
    assert told["ssim"] == pytest.approx(plain_ssim(*outside), abs=2e-4)
    same = background_figures(first, first, mask)
    assert (same["psnr"], same["mse"]) == (math.inf, 0)


def plain_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004 with a Gaussian of 11 pixels and sigma 1.5, pixel by pixel."""
    taps = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    window = np.outer(taps, taps) / sum(taps) ** 2
    c1, c2, values = 0.01**2, 0.03**2, list[float]()
    for x, y in zip(one, other, strict=True):
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                a, b = (around(plane, row, column) for plane in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
                both = (window * a * b).sum() - mean_a * mean_b
                top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
                values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return sum(values) / len(values)


def around(plane: np.ndarray, row: int, column: int) -> np.ndarray:
    return np.pad(plane, 5, mode="reflect")[row : row + 11, column : column + 11]


def test_means_by_type_leave_out_what_is_infinite() -> None:
    found = mean_rows([("1", {"psnr": 20.0}), ("1", {"psnr": math.inf}), ("0", {"psnr": 30.0})])
    assert list(found) == ["random", "change object", "all"]
    assert found["change object"] == {"edits": 2, "psnr": 20}
    assert found["all"]["psnr"] == 25


def test_clip_and_dino_compare_pictures(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    from diffedit_cli.models import EMBEDDED

    torch.manual_seed(0)
    small: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision: dict[str, Any] = {**small, "image_size": 32, "patch_size": 8}
    text: dict[str, Any] = {**small, "max_position_embeddings": 77}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        tmp_path / "clip"
    )
    for file in (EMBEDDED / "tokenizer").iterdir():
        (tmp_path / "clip" / file.name).write_bytes(file.read_bytes())
    ViTModel(ViTConfig(**vision), add_pooling_layer=False).save_pretrained(tmp_path / "dino")
    picture = tensor_of(Image.open(EXAMPLES / "horse_park.jpg").convert("RGB").resize((64, 64)))
    assert 0 <= Clip(tmp_path / "clip")(picture, "a horse") <= 100
    dino = Dino(tmp_path / "dino")
    assert dino(picture, picture) == 0
    assert dino(picture, picture.flip(3)) > 0


@pytest.mark.slow
def test_the_whole_way(data: Path, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(data), "-m", "embedded", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert [(line["id"], line["type"]) for line in lines] == [("000", "1"), ("002", "0")]
    assert lines[0]["iou"] > 0.3
    assert all(line["psnr after"] > line["psnr before"] for line in lines)
    assert "change object" in done.stdout
    assert {path.name for path in tmp_path.glob("*.png")} == {"000.png", "002.png"}
