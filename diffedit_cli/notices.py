"""Notes on a run: sentences about what may be unexpected, and what to do about it."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from .images.canvas import Fit
from .models import DiffusersDenoiser
from .settings import EditConfig, GuidanceConfig, MaskConfig
from .settings.fields import shown

FEW_STEPS = 20  # below it cfg++ is weak: its scale falls with the number of steps
NEAR_WORD = 0.6  # difflib's ratio from which a known word is worth naming
# Syntax of other programs' prompts, with what to do here.
FOREIGN = {
    r"\([^()\n]*:\s*[\d.]+\s*\)|\({2,}[^()\n]+\){2,}": "Words cannot be weighted; try --guidance-scale.",
    r"\[[^\[\]\n]*:\s*[\d.]+\s*\]": "A prompt cannot change during a run.",
    r"<(?:lora|lyco|hypernet):[^<>\n]*>": "Load a LoRA with --lora FILE.safetensors:SCALE.",
    r"\bBREAK\b": "Leave it out.",
}
LITTLE, MUCH = 0.005, 0.85  # shares of the picture below and above which a mask is suspicious
HARDLY = 0.6  # recognition (core.diffedit) below which an edit is likely to be poor; see docs/quality.md


def mask_notices(coverage: float, fit: Fit, config: MaskConfig, *, searched: bool = True) -> tuple[str, ...]:
    """What to say about a mask that covers almost nothing, or almost everything. searched: it was found."""
    if coverage < LITTLE and not fit.is_part:
        hint = " Try a lower --mask-threshold, other words, or a mask of your own with --mask."
        return (
            f"The mask covers {coverage:.1%} of the picture: next to nothing will change."
            + hint * (searched and not config.invert),
        )
    if coverage > MUCH:
        hint = " For a smaller mask try a higher --mask-threshold."
        return (
            f"The mask covers {coverage:.0%} of the picture. This method changes one object and keeps the "
            "rest; a change of the whole picture (style, weather, time of day) is beyond it."
            + hint
            * (searched and not config.invert),
        )
    return ()


def object_notices(config: EditConfig, count: int) -> tuple[str, ...]:
    """What to say where there are more queries than objects."""
    left = config.next_queries[max(0, count - 1) :]
    return (f"The mask has {count} separate pieces; not used: {', '.join(left)}.",) if left else ()


def zoom_notices(config: EditConfig, fit: Fit) -> tuple[str, ...]:
    if fit.is_part and config.zoom is None:
        left, top, right, bottom = fit.region
        return (
            f"The mask covers little, so the edit was made in the {right - left}x{bottom - top} pixels "
            "around it. --no-zoom works on the whole picture.",
        )
    if config.zoom and not fit.is_part:
        return ("There was nothing to zoom in on: the part around the mask would not be shown larger.",)
    return ()


def guidance_notices(config: GuidanceConfig, steps: int) -> tuple[str, ...]:
    if config.method != "cfg++" or steps >= FEW_STEPS:
        return ()
    return (
        f"cfg++ has less effect with fewer steps, and {steps} are few. Use --steps {FEW_STEPS} or more, "
        "or another --guidance-method.",
    )


def word_notices(model: DiffusersDenoiser, *prompts: str) -> tuple[str, ...]:
    """What to tell the user: words that the model does not know or read, syntax of other programs, and memory
    that ran out."""
    notices = [*model.notices, *syntax_notices(prompts)]
    notices += [
        f"The end of this prompt is beyond what {model.name} reads and is ignored: {shown(prompt, bare=True)}"
        for prompt in prompts
        if model.is_too_long(prompt)
    ]
    if model.words is not None and (unknown := model.unknown_words(prompts)):
        notices.append(unknown_notice(model.name, model.words, unknown))
    return tuple(notices)


def unknown_notice(name: str, words: Mapping[str, Sequence[str]], unknown: Sequence[str]) -> str:
    """The nearest words that the model knows, and where all of them are listed."""
    known = [word for group in words.values() for word in group if len(word) > 2]
    near = dict.fromkeys(
        word for one in unknown for word in difflib.get_close_matches(one, known, 2, NEAR_WORD)
    )
    where = "`diffedit models list` shows" if name == "embedded" else "diffedit.json in its folder holds"
    return (
        f"The model {name} does not know: {', '.join(unknown)}. "
        + (f"The nearest words that it knows: {', '.join(near)}. " if near else "")
        + f"{where} all of its words. For others use a full checkpoint, for example --model sd15."
    )


def syntax_notices(prompts: Iterable[str]) -> tuple[str, ...]:
    """Notes on prompt syntax of other programs, which is read as plain words here; one per kind."""
    text = "\n".join(prompts)
    found = [(match[0], hint) for pattern, hint in FOREIGN.items() if (match := re.search(pattern, text))]
    return tuple(
        f"{shown(part, bare=True)} in a prompt is read as plain words. {hint}" for part, hint in found
    )


def recognition_notices(recognised: float | None, config: EditConfig) -> tuple[str, ...]:
    """A note if the model hardly sees the reference in the mask that was found."""
    if recognised is None or recognised >= HARDLY:
        return ()
    return (
        f"The model hardly recognises {config.ref} in the picture ({max(recognised, 0):.2f}; 1 is certain): "
        "the result may be poor. Look at the mask; use other words, a larger model (--model), or a mask of "
        "your own (--mask).",
    )
