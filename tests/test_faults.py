"""Faults while a run is on its way: signals, closed pipes, full memory, networks that return nonsense."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pictures import noise, swapped_profile
from PIL import Image
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.images.read import load_image
from diffedit_cli.images.write import save_image

EDIT = ["edit", "photo.png", "--ref", "horse", "--query", "zebra", "--mask-samples", "2", "--steps", "3"]
COMMAND = [str(Path(sys.executable).parent / "diffedit"), *EDIT, "--seed", "1"]
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
    check_refusal(run(checkpoint), "bug in diffedit (TypeError: cannot add a horse)", "--verbose")
    assert "Traceback" in run(checkpoint, "--verbose").stderr


def test_full_memory_is_one_sentence(folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("diffedit_cli.images.paste.paste", fail)
    check_refusal(run(checkpoint), "Memory ran out", "--size")


def test_the_grid_is_in_srgb(folder: Path, checkpoint: Path) -> None:
    Image.new("RGB", (40, 30), (255, 0, 0)).save("photo.png", icc_profile=swapped_profile())
    assert run(checkpoint, "--grid", "grid.png").exit_code == 0
    grid = load_image("grid.png")
    assert grid.icc is None
    assert (0, 255, 0) in {
        colour for _, colour in grid.rgb.getcolors(1 << 20) or []
    }  # the profile swaps them


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the whole process takes here."""
    where = tmp_path_factory.mktemp("whole")
    noise(40, 30).save(where / "photo.png")
    start = time.monotonic()
    subprocess.run([*COMMAND, "-o", "out.png"], cwd=where, check=True, capture_output=True)
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed"),
    [(kind, seed) for kind in (signal.SIGINT, signal.SIGKILL) for seed in (0, 1)]
    + [(signal.SIGTERM, 2), (signal.SIGHUP, 3)],
)
def test_a_signal_at_a_random_moment_leaves_all_or_nothing(
    folder: Path, seconds: float, kind: signal.Signals, seed: int
) -> None:
    save_image("out.png", noise(9, 9))
    before = Path("out.png").read_bytes()
    share = random.Random(f"{kind}{seed}").uniform(0.1, 1)
    process = subprocess.Popen([*COMMAND, "-o", "out.png", "--overwrite"], stderr=subprocess.PIPE, text=True)
    time.sleep(seconds * share)
    process.send_signal(kind)
    _, stderr = process.communicate(timeout=60)
    ended = -kind if kind == signal.SIGKILL else 128 + kind
    if Path("out.png").read_bytes() == before:
        assert process.returncode == ended
    else:
        assert load_image("out.png").rgb.size == (40, 30)
    if kind != signal.SIGKILL:
        assert {path.name for path in folder.iterdir()} == {"photo.png", "out.png"}
        assert process.returncode in (0, ended), stderr
        assert "Traceback" not in stderr


LOSING = """
import os, signal, sys
class Loses:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
def strike():
    if not os.path.exists("struck"):
        open("struck", "w").close()
        Loses()
{arm}
from diffedit_cli.cli import main
main()
"""
AT_IMPORT = """
sys.addaudithook(lambda event, values: strike() if (event, values[0]) == ("import", "{name}") else None)
"""
AT_WORK = """
from diffedit_cli.core import mask
draw = mask.draw_noise
mask.draw_noise = lambda *values: (strike(), draw(*values))[1]
"""


@pytest.mark.parametrize(
    "arm",
    [AT_IMPORT.format(name="typer"), AT_IMPORT.format(name="regex"), AT_WORK],
    ids=["start", "load", "work"],
)
def test_ctrl_c_is_heard_where_python_loses_it(folder: Path, arm: str) -> None:
    """In a destructor KeyboardInterrupt ends nothing; libraries have some."""
    command = [sys.executable, "-c", LOSING.format(arm=arm), *EDIT, "--mask-samples", "1000", "-o", "out.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("Interrupted; nothing half-written was left.\n")
    assert "Traceback" not in done.stderr
    assert {path.name for path in folder.iterdir()} == {"photo.png", "struck"}


STRUCK = """
import os, signal, sys, torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
count = 0
def strike(module, inputs, output):
    global count
    if isinstance(module, UNet2DConditionModel):
        count += 1
        if count in {at}:
            os.kill(os.getpid(), signal.{name})
torch.nn.modules.module.register_module_forward_hook(strike)
from diffedit_cli.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name"), [("film", "SIGHUP"), ("film.mp4", "SIGTERM")])
def test_a_film_that_is_ended_keeps_its_frames(folder: Path, name: str, target: str) -> None:
    """With a second signal at once, as a terminal sends that closes."""
    script = STRUCK.format(name=name, at="(3, 4)")
    words = ["interpolate", "a horse", "a zebra", "--frames", "9", "--steps", "2", "--seed", "1"]
    words += ["--width", "64", "--height", "64", "--guidance-scale", "1", "-o", target]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 128 + getattr(signal, name), done.stderr
    assert "4 of 9 frames" in done.stderr
    assert done.stderr.endswith("Interrupted; nothing half-written was left.\n")
    assert {path.name for path in folder.iterdir()} == {"photo.png", target}


CLOSING = """
import os, pty, re, sys
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while not re.search(rb"(1[6-9]|2.)/60 ", seen):  # the first four frames are drawn
    seen += os.read(terminal, 65536)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_a_film_that_keeps_its_frames(folder: Path) -> None:
    words = [
        "interpolate",
        "a horse",
        "a zebra",
        "--frames",
        "20",
        "--steps",
        "3",
        "--seed",
        "1",
        "-o",
        "film",
    ]
    done = subprocess.run(
        [sys.executable, "-c", CLOSING, COMMAND[0], *words], capture_output=True, timeout=100
    )
    assert done.returncode == 128 + signal.SIGHUP, done.stderr
    assert 0 < len([*Path("film").glob("frame_*.png")]) < 20
    assert {path.name for path in folder.iterdir()} == {"photo.png", "film"}


@pytest.mark.slow
def test_an_edit_that_is_ended_leaves_nothing(folder: Path) -> None:
    script = STRUCK.format(name="SIGTERM", at="(3,)")
    words = [*EDIT, "-o", "out.png", "--animate", "film.mp4"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 143, done.stderr
    assert done.stderr.endswith("Interrupted; nothing half-written was left.\n")
    assert {path.name for path in folder.iterdir()} == {"photo.png"}


@pytest.mark.slow
def test_a_run_under_nohup_outlives_its_terminal(folder: Path) -> None:
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", f"import os, signal, sys; {ignore}", sys.executable, "-c"]
    script = STRUCK.format(name="SIGHUP", at="(3,)")
    done = subprocess.run(
        [*command, script, *EDIT, "-o", "out.png"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert load_image("out.png").rgb.size == (40, 30)


def test_a_background_job_ignores_ctrl_c(folder: Path) -> None:
    """As a shell starts it: nohup diffedit edit ... &"""
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", f"import os, signal, sys; {ignore}", *COMMAND, "-v", "-o", "out.png"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert next(line for line in process.stderr if "embedded on" in line)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert load_image("out.png").rgb.size == (40, 30)


@pytest.mark.slow
def test_two_runs_on_one_output(folder: Path) -> None:
    both = [
        subprocess.Popen([*COMMAND, "-o", "out.png"], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert [text for text in said if "out.png already exists." in text]
    assert load_image("out.png").rgb.size == (40, 30)
    assert len([*folder.iterdir()]) == 2


@pytest.mark.slow
def test_a_reader_that_goes_away_is_one_sentence(folder: Path) -> None:
    noise(900, 700).save("photo.png")
    inlet, outlet = os.pipe()
    os.close(inlet)
    with os.fdopen(outlet, "wb") as pipe:
        done = subprocess.run([*COMMAND, "-o", "-"], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: The program that reads the output has ended. Write to a file with -o."
    ]
