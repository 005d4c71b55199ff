"""What a run returns: its result, what it cost, notes on it, and the settings that make it again."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, BinaryIO

from PIL import Image, ImageChops

from . import __version__
from .core.diffedit import Edited, Plan
from .core.types import Heat
from .images import paste, sheets
from .images.canvas import Fit
from .images.masks import Masks, complement, opaque
from .images.read import Picture
from .images.write import save_image
from .models import DiffusersDenoiser
from .notices import guidance_notices, mask_notices, recognition_notices, word_notices, zoom_notices
from .settings import EditConfig, GenerateConfig, MaskConfig, RemoveConfig, flatten

Target = str | PathLike[str] | BinaryIO


@dataclass(frozen=True)
class Run:
    """What a run cost: seconds in all and in the networks, and forward passes of the UNet or transformer.

    results: how many results were made together at this cost.
    """

    seconds: float
    network_seconds: float
    forwards: int
    results: int = 1


class Meter:
    """Measures a run of a model."""

    def __init__(self, model: DiffusersDenoiser) -> None:
        self.model = model
        self.start = time.perf_counter(), model.network_seconds, model.forwards

    def stop(self, results: int = 1) -> Run:
        now = time.perf_counter(), self.model.network_seconds, self.model.forwards
        seconds, network, forwards = (after - before for after, before in zip(now, self.start, strict=True))
        return Run(seconds, network, int(forwards), results)


class Shown:
    """A result whose repr is one line, and that a notebook displays as its picture."""

    def shown(self) -> tuple[str, Image.Image]:
        """What the result is about, and its picture in sRGB."""
        raise NotImplementedError

    def __repr__(self) -> str:
        about, image = self.shown()
        return f"{type(self).__name__}({about}, {image.width}x{image.height})"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.shown()[1].save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True, repr=False)
class OfPicture(Shown):
    """What a mask and an edit have in common: `mask` has mode L and the picture's own size.

    coverage: share of the picture, 0 to 1, that the mask touches. config: the settings as run. origin: the
    model's (load.origin_of). given: hashes of the areas that were given. recognised: how clearly the model
    sees the reference in the mask that it found; about 1 if it does (core.diffedit.recognition).
    """

    picture: Picture
    mask: Image.Image
    coverage: float
    config: EditConfig | RemoveConfig
    origin: Mapping[str, Any]
    given: Mapping[str, str]
    run: Run
    notices: tuple[str, ...]
    recognised: float | None = field(default=None, kw_only=True)

    def seen_facts(self) -> dict[str, Any]:
        """The part of `facts` that says what was seen."""
        return {
            "coverage": self.coverage,
            "recognised": None if self.recognised is None else round(self.recognised, 3),
        }


@dataclass(frozen=True, repr=False)
class MaskResult(OfPicture):
    """A found mask, and its heat (mode L, 255 is hottest) at the picture's own size."""

    config: EditConfig
    heat: Image.Image

    def shown(self) -> tuple[str, Image.Image]:
        return f"mask of {self.config.ref or 'what differs'}, {self.coverage:.1%}", self.mask

    def settings(self) -> dict[str, Any]:
        return provenance("mask", self.origin, self.config, self.picture, self.given)

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {**self.seen_facts(), **costs(self.run, self.notices), "settings": self.settings()}

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        save_image(path, self.mask, settings=self.settings() if metadata else None, overwrite=overwrite)


@dataclass(frozen=True, repr=False)
class Changed(OfPicture):
    """A picture of which a part was redrawn: `image` (RGB) at its own size; heat, if there was a search.

    changed_outside: pixels of `image` outside the mask that differ from the input, by comparison: 0. In a
    JPEG of it more of them differ, since that format stores every pixel approximately.
    """

    image: Image.Image
    heat: Image.Image | None
    changed_outside: int

    def settings(self) -> dict[str, Any]:
        """Everything that is needed to make this picture again."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {
            **self.seen_facts(),
            "changed_outside": self.changed_outside,
            **costs(self.run, self.notices),
            "settings": self.settings(),
        }

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        """Write the picture with the input's alpha, colour profile, EXIF, and its settings."""
        drawn = self.config.as_edit() if isinstance(self.config, RemoveConfig) else self.config
        save_image(
            path,
            self.image,
            picture=self.picture,
            settings=self.settings() if metadata else None,
            parameters=parameters(drawn, drawn.query, self.image.size, self.origin["model"])
            if metadata
            else "",
            overwrite=overwrite,
        )


@dataclass(frozen=True, repr=False)
class EditResult(Changed):
    """An edited picture.

    together: the picture's row in a batch that was edited together, and the number of rows; rounding depends
    on both. objects: with --per-object, what became of each piece of the mask, in the order of the edits.
    """

    config: EditConfig
    together: tuple[int, int] = (0, 1)
    objects: tuple[Mapping[str, Any], ...] = ()

    def shown(self) -> tuple[str, Image.Image]:
        about = f"{self.config.ref or 'what differs'} to {self.config.query or 'nothing named'}"
        return f"{about}, mask {self.coverage:.1%}, seed {self.config.seed}", sheets.shown(
            self.picture, self.image
        )

    def settings(self) -> dict[str, Any]:
        """Everything that is needed to make this picture again."""
        together = {"together": [*self.together]} if self.together[1] > 1 else {}
        return provenance("edit", self.origin, self.config, self.picture, {**self.given, **together})

    def seen_facts(self) -> dict[str, Any]:
        objects = {"objects": [*self.objects]} if self.config.per_object else {}
        return {**super().seen_facts(), **objects}


@dataclass(frozen=True, repr=False)
class RemoveResult(Changed):
    """A picture without one of its objects."""

    config: RemoveConfig

    def shown(self) -> tuple[str, Image.Image]:
        about = f"without {self.config.ref or 'what the mask covers'}, mask {self.coverage:.1%}"
        return f"{about}, seed {self.config.seed}", sheets.shown(self.picture, self.image)

    def settings(self) -> dict[str, Any]:
        """Everything that is needed to make this picture again."""
        return provenance("remove", self.origin, self.config, self.picture, self.given)


@dataclass(frozen=True, repr=False)
class Generated(Shown):
    """A picture made from a text."""

    image: Image.Image
    config: GenerateConfig
    origin: Mapping[str, Any]
    run: Run
    notices: tuple[str, ...]

    def shown(self) -> tuple[str, Image.Image]:
        return f"{self.config.prompt!r}, seed {self.config.seed}", self.image

    def settings(self) -> dict[str, Any]:
        return provenance("generate", self.origin, self.config)

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {**costs(self.run, self.notices), "settings": self.settings()}

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        save_image(
            path,
            self.image,
            settings=self.settings() if metadata else None,
            parameters=parameters(self.config, self.config.prompt, self.image.size, self.origin["model"])
            if metadata
            else "",
            overwrite=overwrite,
        )


def provenance(
    command: str,
    origin: Mapping[str, Any],
    config: Any,
    picture: Picture | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is stored in a result, which is everything needed to make it again: the version, the command, the
    model, the input's name and hash, the hashes of masks that were given, and every setting."""
    source = {} if picture is None else {"input": picture.name, "input_sha256": picture.sha256}
    return {
        "diffedit": __version__,
        "command": command,
        **origin,
        **source,
        **(given or {}),
        **flatten(config),
    }


def costs(run: Run, notices: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "seconds": round(run.seconds, 3),
        "network_seconds": round(run.network_seconds, 3),
        "forwards": run.forwards,
        **({"made_together": run.results} if run.results > 1 else {}),
        "notices": list(notices),
    }


def parameters(config: EditConfig | GenerateConfig, prompt: str, size: tuple[int, int], model: str) -> str:
    """The settings as AUTOMATIC1111 writes them, which other tools read."""
    facts = {
        "Steps": config.step_count,
        "Sampler": {"dpm++": "DPM++ 2M", "lcm": "LCM"}.get(config.solver, "DDIM"),
        "CFG scale": f"{config.guidance.base_scale:g}",
        "Seed": config.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model,
    }
    if isinstance(config, EditConfig):
        facts["Denoising strength"] = f"{config.ratio:g}"
    negative = f"\nNegative prompt: {config.negative_prompt}" if config.negative_prompt else ""
    return f"{prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in facts.items())


def covered(where: Image.Image) -> float:
    """The share of a mask that is not 0."""
    return 1 - where.histogram()[0] / (where.width * where.height)


def put_back(
    model: DiffusersDenoiser, picture: Picture, fit: Fit, edited: Edited, row: int, masks: Masks
) -> EditResult:
    """One row of an edit pasted into its picture, at the picture's size; `run`, `given` are still empty."""
    plan, one = edited.plan, slice(row, row + 1)
    config = plan.config
    where, weights = pasted(plan, row, masks, fit, model.factor)
    image = paste.paste_edit(picture, edited, row, weights, fit)
    coverage = covered(where)
    recognised = None if plan.recognised is None else float(plan.recognised[row])
    return EditResult(
        picture=picture,
        image=image,
        mask=where,
        heat=None if plan.heat is None else paste.full_heat(plan.heat[one], fit, model.factor),
        coverage=coverage,
        changed_outside=paste.changed_outside(picture.rgb, image, where),
        config=replace(config, zoom=fit.is_part),
        origin=model.origin,
        given={},
        run=Run(0, 0, 0),
        notices=(
            *picture.notices,
            *masks.notices,
            *word_notices(model, config.ref, config.query),
            *guidance_notices(config.guidance, config.step_count),
            *zoom_notices(config, fit),
            *mask_notices(coverage, fit, config.mask, searched=masks.use is None),
            *recognition_notices(recognised, config),
        ),
        recognised=recognised,
        together=(row, len(edited.pixels)),
    )


def pasted(plan: Plan, row: int, masks: Masks, fit: Fit, factor: int) -> tuple[Image.Image, Image.Image]:
    """The mask of a row of an edit, and how much of the edit is pasted at each pixel; both mode L."""
    found = masks.use or found_mask(plan.area[row : row + 1], plan.config.mask, fit, factor)
    where = masks.mend(found)
    return where, opaque(where) if plan.by_strength else where


def found_mask(area: Heat, config: MaskConfig, fit: Fit, factor: int) -> Image.Image:
    """A found area (1 1 h w) as the mask for pasting, mode L at the picture's size, with a soft inner edge.

    An inverted one covers every pixel that the mask itself does not touch, so that the object keeps its
    outline.
    """
    soft = paste.full_mask(area, config.feather, fit, factor)
    if not config.invert:
        return soft
    kept = paste.full_mask(1 - area, config.feather, fit, factor)
    return ImageChops.darker(ImageChops.lighter(soft, Image.new("L", soft.size, 1)), complement(kept))
