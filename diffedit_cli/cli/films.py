"""Writing a film so that Ctrl-C keeps the frames that are finished."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


class Film:
    """Counts frames, and ends them at Ctrl-C, so that those that are finished are kept."""

    def __init__(self, target: Path, fps: int, first: int = 0) -> None:
        self.target, self.fps = target, fps
        self.first, self.drawn = first, first
        self.is_interrupted = False

    def until_interrupted(self, frames: "Iterator[Image.Image]") -> "Iterator[Image.Image]":
        try:
            for frame in frames:
                self.drawn += 1
                yield frame
        except KeyboardInterrupt:
            if self.drawn == self.first:  # nothing to keep
                raise
            self.is_interrupted = True

    def sentence(self) -> str:
        return f"Wrote {self.target}: {self.drawn} frames, {self.drawn / self.fps:.1f} s"

    def facts(self) -> dict[str, Any]:
        return {"animation": str(self.target), "frames": self.drawn}

    def end(self) -> None:
        """Go on with an interruption that was held up to keep the frames."""
        if self.is_interrupted:
            raise KeyboardInterrupt


def write_film(
    frames: "Iterator[Image.Image]",
    target: Path,
    *,
    fps: int,
    overwrite: bool,
    settings: Mapping[str, Any] | None,
    first: int | None = None,
) -> Film:
    """Write a film as video.write_frames does, and say how far it came."""
    from ..images.video import write_frames

    film = Film(target, fps, first or 0)
    kept = film.until_interrupted(frames)
    write_frames(kept, target, fps=fps, overwrite=overwrite, settings=settings, first=first)
    return film


def there_and_back(frames: "Iterator[Image.Image]") -> "Iterator[Image.Image]":
    """All frames, then those between the last and the first on the way back."""
    held: list[Image.Image] = []
    for frame in frames:
        held.append(frame)
        yield frame
    yield from held[-2:0:-1]
