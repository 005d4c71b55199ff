"""Change one object in a picture by naming it: DiffEdit on Stable Diffusion and flow-matching models.

    from diffedit_cli import EditConfig, edit_image, load_image, load_model

    model = load_model("embedded")
    result = edit_image(model, load_image("in.jpg"), EditConfig(ref="horse", query="zebra"))
    result.save("out.png")

Names are imported when they are first used, so that `import diffedit_cli` alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.5.0"

if TYPE_CHECKING:
    from .api import (
        animate_edit,
        compare_edits,
        edit_image,
        edit_images,
        make_mask,
        remove_object,
    )
    from .errors import DiffeditError
    from .generation import compare_prompts, generate_image, interpolate_frames
    from .images.masks import Masks, load_mask
    from .images.read import Picture, load_image
    from .merge import MergeResult, merge_images
    from .models import load_model
    from .results import EditResult, Generated, MaskResult, RemoveResult
    from .session import Session
    from .settings import (
        EditConfig,
        GenerateConfig,
        GuidanceConfig,
        InterpolateConfig,
        MaskConfig,
        MergeConfig,
        RemoveConfig,
    )

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
    "Masks",
    "MergeConfig",
    "MergeResult",
    "Picture",
    "RemoveConfig",
    "RemoveResult",
    "Session",
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
    "merge_images",
    "remove_object",
]

_MODULES = {
    "errors": ["DiffeditError"],
    "generation": ["compare_prompts", "generate_image", "interpolate_frames"],
    "images.masks": ["Masks", "load_mask"],
    "images.read": ["Picture", "load_image"],
    "models": ["load_model"],
    "results": ["EditResult", "Generated", "MaskResult", "RemoveResult"],
    "merge": ["MergeResult", "merge_images"],
    "api": ["animate_edit", "compare_edits", "edit_image", "edit_images", "make_mask", "remove_object"],
    "session": ["Session"],
    "settings": [
        "EditConfig",
        "GenerateConfig",
        "GuidanceConfig",
        "InterpolateConfig",
        "MaskConfig",
        "MergeConfig",
        "RemoveConfig",
    ],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
