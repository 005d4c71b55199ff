"""benchmarks/speed.py: what is counted, on a tiny real checkpoint, and how it is put together."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.speed import Hooks, contenders, fill_randomly, many, quiet, summary, table
from diffedit_cli.models import load_model


@pytest.mark.parametrize(
    ("name", "forwards", "encodes"),
    [
        ("ours", 3 * 2 + 4 + 2 * 4, 1),
        ("diffusers DiffEdit", 4 * 2 + 2 * 4 + 2 * 4, 3),
        ("diffusers img2img", 8, 1),
    ],
)
def test_samples_are_counted_whoever_runs_the_networks(
    checkpoint: Path, name: str, forwards: int, encodes: int
) -> None:
    """By hand, 4 of 5 steps and 2 maps: diffusers guides its mask and its inversion too."""
    model = load_model(checkpoint, device="cpu")
    hooks = Hooks(model)
    with quiet():
        _, row = hooks.measure(contenders(model, Image.new("RGB", (32, 32), "red"), steps=5, maps=2)[name])
    assert (row["forwards"], row["encodes"]) == (forwards, encodes)
    assert 0 < row["unet"] < row["networks"] < row["seconds"]


def test_random_weights_keep_the_variance_and_are_the_same_each_time() -> None:
    layers = [torch.nn.Sequential(torch.nn.Linear(400, 300), torch.nn.GroupNorm(2, 300)) for _ in range(2)]
    one, two = (fill_randomly(layer, torch.float32) for layer in layers)
    assert torch.equal(one[0].weight, two[0].weight)
    assert float(one(torch.randn(64, 400)).std()) == pytest.approx(1, rel=0.1)
    assert float(one[0].weight.std()) == pytest.approx(400**-0.5, rel=0.02)


def test_figures_by_hand() -> None:
    rows = [
        {"seconds": s, "forwards": 10, "encodes": 1, "networks": 0.9 * s, "unet": 0.5 * s, "cpu": 2 * s}
        for s in (3.0, 1.0, 2)
    ]
    found = summary(rows, unet_flops=1e11, peak=2.0)
    assert found == {
        "forwards": 10,
        "encodes": 1,
        "median_s": 2.0,
        "p95_s": 3.0,
        "median_cpu_s": 4.0,
        "network_share": 0.9,
        "unet_tflops": 1.0,
        "of_peak": 0.5,
    }
    shown = table({"contenders": {"ours": found, "diffusers DiffEdit": {**found, "median_s": 4.0}}})
    assert "| ours | 2.00 | 3.00 | 0.50 | 4.00 | 1.00 | 10 | 90.0% | 50% |" in shown.splitlines()


def test_a_batch_is_set_against_single_edits(checkpoint: Path) -> None:
    found = many(load_model(checkpoint, device="cpu"), Image.new("RGB", (32, 32), "red"), 2)
    assert found["pictures"] == 2
    assert found["ratio"] == pytest.approx(found["one_call_s"] / 2 / found["single_s"], rel=0.05)
