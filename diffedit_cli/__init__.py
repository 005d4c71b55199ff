"""Change one thing in a picture by naming it: DiffEdit on any Stable Diffusion checkpoint.

    from diffedit_cli import EditConfig, edit_image, load_image, load_model

    model = load_model("embedded")
    result = edit_image(model, load_image("in.jpg"), EditConfig(ref="horse", query="zebra"))
    result.save("out.png")

Names are imported when they are first used, so that `import diffedit_cli` alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.4.0"

if TYPE_CHECKING:
    from .api import (
        animate_edit,
        compare_edits,
        compare_prompts,
        edit_image,
        edit_images,
        generate_image,
        interpolate_frames,
        make_mask,
    )
    from .errors import DiffeditError
    from .images.files import Picture, load_image, load_mask
    from .models import load_model
    from .results import EditResult, Generated, MaskResult
    from .settings import EditConfig, GenerateConfig, GuidanceConfig, InterpolateConfig, MaskConfig

__all__ = [
    "DiffeditError",
    "EditConfig",
    "EditResult",
    "GenerateConfig",
    "Generated",
    "GuidanceConfig",
    "InterpolateConfig",
    "MaskConfig",
    "MaskResult",
    "Picture",
    "animate_edit",
    "compare_edits",
    "compare_prompts",
    "edit_image",
    "edit_images",
    "generate_image",
    "interpolate_frames",
    "load_image",
    "load_mask",
    "load_model",
    "make_mask",
]

_MODULES = {
    **dict.fromkeys(
        ["EditConfig", "GenerateConfig", "GuidanceConfig", "InterpolateConfig", "MaskConfig"], "settings"
    ),
    **dict.fromkeys(["Picture", "load_image", "load_mask"], "images.files"),
    "DiffeditError": "errors",
    "load_model": "models",
    **dict.fromkeys(["EditResult", "Generated", "MaskResult"], "results"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES.get(name, 'api')}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
