"""diffedit doctor"""

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from ..errors import ModelError
from ..settings import TalkConfig
from .options import with_flags
from .terminal import Terminal, plain_errors

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow", "av", "typer")


@with_flags(talk_config=TalkConfig)
def doctor(*, talk_config: Callable[..., TalkConfig]) -> None:
    """Show what this machine has, and try the embedded model on it."""
    talk = talk_config()
    with plain_errors(talk):
        terminal = Terminal(talk)
        facts: dict[str, str] = {
            "diffedit": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            **{name: installed(name) for name in PACKAGES},
        }
        missing = [name for name, value in facts.items() if value == "missing"]
        if missing:
            raise ModelError(
                f"Packages are missing: {', '.join(missing)}.",
                f"Install them: {sys.executable} -m pip install diffedit-cli.",
            )
        for name in ("openvino", "nncf"):
            facts[name] = installed(name).replace("missing", "not installed (optional)")
        with terminal.status("Trying the embedded model"):
            facts |= devices() | trial()
        terminal.answer(facts, [f"{name:14} {value}" for name, value in facts.items()])


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def devices() -> dict[str, str]:
    """The accelerators that torch finds, with their memory."""
    import torch

    found = {"devices": "cpu"}
    if torch.cuda.is_available():
        one = torch.cuda.get_device_properties(0)
        found["devices"] += f", cuda ({one.name}, {one.total_memory / 2**30:.0f} GiB)"
    if torch.backends.mps.is_available():
        found["devices"] += ", mps"
    return found


def trial() -> dict[str, str]:
    """Draw a small picture with the embedded model on the device that `auto` picks."""
    from ..generation import generate_image
    from ..models import load_model
    from ..settings import GenerateConfig

    model = load_model("embedded")
    run = generate_image(model, GenerateConfig(prompt="a horse", steps=5, seed=0)).run
    return {"embedded model": f"works on {model.device.type}: 5 steps in {run.seconds:.1f} s"}
