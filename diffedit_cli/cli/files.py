"""Where pictures come from and results go."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingError

if TYPE_CHECKING:
    from ..images.masks import Masks
    from ..images.read import Picture


def read_picture(source: str) -> "Picture":
    """A picture from a file, or from stdin for `-`."""
    from ..images.read import load_image

    return load_image(sys.stdin.buffer if source == "-" else source)


def read_masks(files: tuple[Path | None, Path | None, Path | None], picture: "Picture") -> "Masks":
    """The masks of --mask, --mask-add and --mask-subtract."""
    from ..images.masks import Masks

    return Masks.read(picture, *files)


def name_for(stem: str, words: str, suffix: str) -> str:
    """A file name from an input's stem and what was asked for."""
    parts = stem, re.sub(r"\W+", "-", words.lower()).strip("-")[:60]
    return ("-".join(filter(None, parts)) or "diffedit") + suffix


def target_for(output: str | None, stem: str, words: str) -> Path | None:
    """The file that a result goes to; None is stdout.

    Without --output, and in a folder, it is called after the input and what was asked for:
    horse.jpg and zebra give horse-zebra.png.
    """
    if output == "-":
        return None
    name = name_for(stem, words, ".png")
    if output is None:
        return Path(name)
    return Path(output) / name if Path(output).is_dir() else Path(output)


def check_targets(
    targets: list[Path | None],
    *,
    overwrite: bool,
    picture: "Picture | None" = None,
    film: Path | None = None,
) -> None:
    """Refuse what cannot be written, before the long work: see images/files.py; and one name twice.

    picture: whose transparency the first target will hold. film: written too, and checked elsewhere.
    """
    from ..images.write import check_target

    seen: set[Path] = set()
    for number, target in enumerate([*targets, film]):
        if target is None:
            continue
        if target is not film:
            check_target(target, overwrite=overwrite, picture=None if number else picture)
        if target.resolve() in seen:
            raise SettingError(f"Two results would go to {target}.", "Give each a name of its own.")
        seen.add(target.resolve())


def write_picture(target: Path | None, save: Callable[..., None], *, overwrite: bool, metadata: bool) -> None:
    """Have a result saved to a file, or as PNG to stdout; the whole file or nothing."""
    if target is not None:
        save(target, overwrite=overwrite, metadata=metadata)
        return
    buffer = io.BytesIO()
    save(buffer, metadata=metadata)
    sys.stdout.buffer.write(buffer.getvalue())
    sys.stdout.flush()
