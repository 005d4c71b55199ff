"""One changed object taken from a picture that changed everywhere, back into the original.

Instruction editors return whole pictures, shifted by some pixels, zoomed, recoloured and softened, although
one object was to change. `merge_images` lays such a picture over its original, finds what really differs, and
pastes that alone: every other pixel is the original's. No diffusion model is used.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from .core import align
from .core import mask as finding
from .errors import DiffeditError, ImageError
from .images import canvas, colour, paste
from .images.canvas import Fit
from .images.masks import Masks
from .images.read import Picture
from .images.write import save_image
from .results import Run, Target, costs, covered, provenance
from .settings import MergeConfig

SIDE = 1024  # the pictures are compared in a canvas of about SIDE * SIDE pixels
CELL = 4  # pixels of the canvas in a cell of the mask, along a side
MOST_MOVED = 0.1  # of a side: a larger shift or zoom is taken for another picture
LEAST_LIKENESS = 0.5  # of what did not change; another scene has 0.1 at most
STARTS = ((0, 0, 0, 0), (0, 0, 0, 0.03), (0, 0, 0, -0.03), (0, 0, 0.03, 0), (0, 0, -0.03, 0))  # of placements
MOST_CHANGED = 0.6  # of the picture: beyond it the two are not one picture with one change
FROM_SHAPE = 0.03  # how far the proportions of the two may differ


@dataclass(frozen=True)
class MergeResult:
    """The original with the change pasted in: `image` (RGB) and `mask` (mode L), at the original's size.

    coverage: share of the picture, 0 to 1, that the mask touches. changed_outside: pixels outside the mask
    that differ from the original, by comparison: 0. zoom, shift: how the edited picture had to be scaled, and
    moved in pixels, along each axis to lie on the original.
    """

    picture: Picture
    image: Image.Image
    mask: Image.Image
    coverage: float
    changed_outside: int
    zoom: tuple[float, float]
    shift: tuple[float, float]
    config: MergeConfig
    given: Mapping[str, str]
    run: Run
    notices: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Everything that is needed to make this picture again."""
        return provenance("merge", {}, self.config, self.picture, self.given)

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        return {
            "coverage": self.coverage,
            "changed_outside": self.changed_outside,
            "zoom": self.zoom,
            "shift": self.shift,
            **costs(self.run, self.notices),
            "settings": self.settings(),
        }

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        """Write the picture with the original's alpha, colour profile, EXIF, and the settings."""
        settings = self.settings() if metadata else None
        save_image(path, self.image, picture=self.picture, settings=settings, overwrite=overwrite)


def merge_images(
    original: Picture, edited: Picture, config: MergeConfig | None = None, *, mask: Masks | None = None
) -> MergeResult:
    """Take what was changed in `edited`, and everything else from `original`.

    The edited picture may have a different size, but must show the same view. mask: `Masks` with areas to add
    to the mask that is found and areas to keep as they are, or a mask to use in its place. Raises
    DiffeditError if the two do not match, differ nearly everywhere, or do not differ.
    """
    config, masks, start = config or MergeConfig(), mask or Masks(), time.perf_counter()
    require_one_shape(original, edited)
    fit = compared(original.rgb.size)
    moved = in_space_of(original, edited)
    before = canvas.to_pixels(original, fit)
    after = canvas.image_to_pixels(colour.to_srgb(moved, original.icc), fit.canvas)
    placement, colours, after = laid_over(before, after, config.threshold, edited)
    where = masks.mend(masks.use or change(before, after, config, fit))
    coverage = covered(where)
    require_a_change(coverage, edited)
    source = recoloured(warped(moved, placement), colours)
    image = original.rgb.copy()
    image.paste(source, mask=where)
    a, b, c, d = placement.tolist()
    return MergeResult(
        picture=original,
        image=image,
        mask=where,
        coverage=coverage,
        changed_outside=paste.changed_outside(original.rgb, image, where),
        zoom=(1 / (1 + a), 1 / (1 + b)),
        shift=(0.0 - c * image.width / 2, 0.0 - d * image.height / 2),
        config=config,
        given={"edited": edited.name, "edited_sha256": edited.sha256, **masks.hashes()},
        run=Run(time.perf_counter() - start, 0, 0),
        notices=(*original.notices, *edited.notices),
    )


def compared(size: tuple[int, int]) -> Fit:
    """The canvas in which two pictures are compared: at most about SIDE * SIDE pixels, in whole cells."""
    scale = min(1.0, SIDE / (size[0] * size[1]) ** 0.5)
    width, height = (max(1, round(side * scale / CELL)) * CELL for side in size)
    return Fit(size, (0, 0, *size), (width, height), (width, height), (0, 0))


def require_one_shape(original: Picture, edited: Picture) -> None:
    (width, height), (w, h) = original.rgb.size, edited.rgb.size
    if abs(width * h / (height * w) - 1) > FROM_SHAPE:
        raise ImageError(
            f"{edited.name} is {w} x {h} pixels, which is not the shape of {original.name}, "
            f"{width} x {height}.",
            "Crop it to the original's proportions first.",
        )


def laid_over(
    before: torch.Tensor, after: torch.Tensor, threshold: float, edited: Picture
) -> tuple[align.Placement, align.Colours, torch.Tensor]:
    """The placement and the colour map that align `after` with `before`, and `after` with both applied.

    The search starts from several placements, because repeated structure can trap it at a wrong one.
    DiffeditError: none of them leads to a picture of the same scene.
    """
    one = avg_pool2d(before, CELL)
    for start in STARTS:
        placement = align.register(before, after, start)
        if float(placement.abs().amax()) > 2 * MOST_MOVED:
            continue
        placed = align.place(after, placement, before.shape[2], before.shape[3]).clamp(0, 1)
        colours = align.fit_colours(one, avg_pool2d(placed, CELL))
        matched = align.recolour(placed, colours)
        other = avg_pool2d(matched, CELL)
        kept = (align.difference(one, other, threshold) < 0.5).to(one)
        if align.likeness(one, other, kept) >= LEAST_LIKENESS:
            return placement, colours, matched
    raise DiffeditError(
        f"{edited.name} does not match the original: no small shift or zoom aligns them.",
        "Give the picture from which it was made, uncropped.",
    )


def require_a_change(coverage: float, edited: Picture) -> None:
    if coverage == 0:
        raise DiffeditError(
            f"No part of {edited.name} differs from the original by more than the rest does.",
            "Try a lower --threshold, or paint the change and give it with --mask.",
        )
    if coverage > MOST_CHANGED:
        raise DiffeditError(
            f"{edited.name} differs from the original in {coverage:.0%} of the picture, so no single change "
            "can be told from the rest.",
            "Try a higher --threshold, or paint the change and give it with --mask.",
        )


def in_space_of(original: Picture, edited: Picture) -> Image.Image:
    """The edited picture at the original's size and in its colour space."""
    rgb = colour.to_srgb(colour.to_srgb(edited.rgb, edited.icc), original.icc, back=True)
    size = original.rgb.size
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)


def change(before: torch.Tensor, after: torch.Tensor, config: MergeConfig, fit: Fit) -> Image.Image:
    """What differs between two pictures on the canvas, as the soft mask of the paste."""
    cells = [avg_pool2d(x, CELL) for x in (before, after)]
    heat = align.difference(cells[0], cells[1], config.threshold)
    found = finding.fill_holes(finding.drop_specks((heat >= 0.5).to(heat), heat))
    if config.grow:
        found = finding.grow(found, config.grow)
    return paste.full_mask(found, config.feather, fit, CELL)


def warped(image: Image.Image, placement: align.Placement) -> Image.Image:
    """The picture moved as `align.place` moves the canvas, at its own size."""
    (a, b, c, d), (width, height) = placement.tolist(), image.size
    across, down = (1 + a, 0, (c - a) * width / 2), (0, 1 + b, (d - b) * height / 2)
    return image.transform(image.size, Image.Transform.AFFINE, (*across, *down), Image.Resampling.BICUBIC)


def recoloured(image: Image.Image, colours: align.Colours) -> Image.Image:
    """The picture under `align.fit_colours`' map of its colours."""
    rows = (colours * torch.tensor([[1.0], [1.0], [1.0], [255.0]])).mT
    return image.convert("RGB", tuple(rows.flatten().tolist()))
