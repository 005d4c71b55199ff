"""What `diffedit edit` was asked for, and what it says and writes for each result."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import EditConfig
from .files import read_mask

if TYPE_CHECKING:
    from PIL import Image

    from ..api import EditResult
    from ..images.files import Picture


@dataclass(frozen=True)
class Order:
    """masks: the mask, what is added to it, and what is taken away."""

    pictures: list[str]
    queries: list[str]
    config: EditConfig
    output: str | None
    overwrite: bool
    metadata: bool
    grid: Path | None
    save_mask: Path | None
    masks: tuple[Path | None, Path | None, Path | None]
    dry_run: bool

    def read_masks(self, picture: "Picture") -> dict[str, "Image.Image | None"]:
        names = "mask", "add", "subtract"
        return {name: read_mask(file, picture) for name, file in zip(names, self.masks, strict=True)}

    def forwards(self) -> dict[str, int]:
        """UNet sample-forwards of each stage, over all pictures and queries."""
        from ..edit import count_forwards

        units = count_forwards(self.config, search=self.masks[0] is None)
        shared = {"invert"}
        pictures, queries = len(self.pictures), len(self.queries)
        return {stage: pictures * (1 if stage in shared else queries) * n for stage, n in units.items()}


def cost(units: dict[str, int]) -> str:
    stages = ", ".join(f"{stage} {count}" for stage, count in units.items())
    return f"{sum(units.values())} UNet sample-forwards: {stages}."


def outcome(result: "EditResult") -> str:
    return (
        f" (seed {result.config.seed}). The mask covers {result.coverage:.1%} of the picture; "
        f"{result.changed_outside} pixels changed outside it."
    )


def write_extras(result: "EditResult", grid: Path | None, save_mask: Path | None, *, overwrite: bool) -> None:
    """The picture of all stages and the mask, if they were asked for."""
    from ..images import files, sheets

    if save_mask is not None:
        files.save_image(save_mask, result.mask, overwrite=overwrite)
    if grid is not None:
        columns = [("input", result.picture.rgb), ("mask", result.mask), ("result", result.image)]
        if result.heat is not None:
            columns.insert(1, ("heat", sheets.heat_to_image(result.heat)))
        files.save_image(grid, sheets.grid(columns), overwrite=overwrite)
