"""Faults while a run is on its way: networks that return nonsense, files that vanish, full memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pictures import noise
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.images.files import load_image

EDIT = ["edit", "photo.png", "--ref", "horse", "--query", "zebra", "--mask-samples", "2", "--steps", "3"]
PLAIN = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}

Hook = Callable[[type, Callable[[torch.nn.Module, Any, Any], Any]], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")
    return tmp_path


@pytest.fixture
def after_forward() -> Iterator[Hook]:
    """Change what networks of a kind return, or do something after it."""
    handles: list[Any] = []

    def watch(kind: type, change: Callable[[torch.nn.Module, Any, Any], Any]) -> None:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
            return change(module, inputs, output) if isinstance(module, kind) else None

        handles.append(torch.nn.modules.module.register_module_forward_hook(hook))

    yield watch
    for handle in handles:
        handle.remove()


def run(checkpoint: Path, *flags: str) -> Any:
    arguments = [*EDIT, "-o", "out.png", "--model", str(checkpoint), "--device", "cpu", *flags]
    return CliRunner().invoke(app, arguments, env=PLAIN)


def check_refusal(result: Any, *words: str) -> None:
    """Exit code 1, one sentence and what to do, and no new file."""
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    assert not [word for word in words if word not in result.stderr], result.stderr
    assert [path.name for path in Path().iterdir()] == ["photo.png"]


def test_nan_in_the_unet_is_an_error(folder: Path, checkpoint: Path, after_forward: Hook) -> None:
    def spoil(module: Any, inputs: Any, output: Any) -> None:
        output.sample[0, 0, 0, 0] = float("nan")

    after_forward(UNet2DConditionModel, spoil)
    check_refusal(run(checkpoint))


def test_overflow_in_the_vae_is_an_error(folder: Path, checkpoint: Path, after_forward: Hook) -> None:
    after_forward(Decoder, lambda module, inputs, output: output * float("inf"))
    check_refusal(run(checkpoint))


def test_an_input_that_vanishes_after_it_was_read(
    folder: Path, checkpoint: Path, after_forward: Hook
) -> None:
    after_forward(UNet2DConditionModel, lambda *_: Path("photo.png").unlink(missing_ok=True))
    assert run(checkpoint).exit_code == 0
    assert load_image("out.png").rgb.size == (40, 30)


def test_a_fault_of_the_program_is_one_sentence(folder: Path, checkpoint: Path, after_forward: Hook) -> None:
    def fail(*_: Any) -> None:
        raise TypeError("cannot add a horse\nto a zebra")

    after_forward(UNet2DConditionModel, fail)
    check_refusal(run(checkpoint), "fault of the program (TypeError: cannot add a horse)", "--verbose")
    assert "Traceback" in run(checkpoint, "--verbose").stderr


def test_full_memory_is_one_sentence(folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("diffedit_cli.images.canvas.paste", fail)
    check_refusal(run(checkpoint), "memory is full", "--size")
