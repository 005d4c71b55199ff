"""What `diffedit edit` was asked for, and what it says and writes for each result."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import EditConfig, FilmConfig, ModelConfig, filled_in, flatten, require_way_back
from .files import read_masks
from .films import Film, there_and_back, write_film
from .session import own_defaults

if TYPE_CHECKING:
    from PIL import Image

    from ..images.masks import Masks
    from ..images.read import Picture
    from ..results import EditResult


@dataclass(frozen=True)
class Order:
    """masks: the mask, what is added to it, and what is taken away."""

    pictures: list[str]
    queries: list[str]
    config: EditConfig
    checkpoint: ModelConfig
    output: str | None
    overwrite: bool
    metadata: bool
    grid: Path | None
    save_mask: Path | None
    masks: tuple[Path | None, Path | None, Path | None]
    animate: Path | None
    film: FilmConfig
    dry_run: bool

    def read_masks(self, picture: "Picture") -> "Masks":
        return read_masks(self.masks, picture)

    def forwards(self) -> dict[str, int]:
        """UNet sample-forwards of each stage, over all pictures and queries."""
        from ..core.costs import batch_forwards

        return batch_forwards(
            filled_in(self.config, own_defaults(self.checkpoint)),
            len(self.pictures),
            len(self.queries),
            search=self.masks[0] is None,
            frames=0 if self.animate is None else self.film.frames,
        )

    def check_film(self, size: tuple[int, int]) -> None:
        """Refuse a film of this size that could not be made, before the long work."""
        if self.animate is not None:
            from ..images.video import check_film

            require_way_back(self.config)
            check_film(self.animate, fps=self.film.fps, overwrite=self.overwrite, size=size)

    def write_film(self, frames: "Iterator[Image.Image]", result: "EditResult") -> Film | None:
        """Write the film of an edit; after Ctrl-C what there is of it."""
        if self.animate is None:
            return None
        return write_film(
            there_and_back(frames) if self.film.loop else frames,
            self.animate,
            fps=self.film.fps,
            overwrite=self.overwrite,
            settings={**result.settings(), **flatten(self.film)} if self.metadata else None,
        )


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
    from ..images import sheets
    from ..images.write import save_image

    if save_mask is not None:
        save_image(save_mask, result.mask, overwrite=overwrite)
    if grid is not None:
        before, after = sheets.shown(result.picture), sheets.shown(result.picture, result.image)
        columns = [("input", before), ("mask", result.mask), ("result", after)]
        if result.heat is not None:
            columns.insert(1, ("heat", sheets.heat_to_image(result.heat)))
        save_image(grid, sheets.grid(columns), overwrite=overwrite)
