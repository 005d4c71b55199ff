"""Where pictures come from and results go."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, SettingError

if TYPE_CHECKING:
    from ..images.masks import Masks
    from ..images.read import Picture

MOST_BYTES = 60  # of the words in a file name
STEM_BYTES = 180  # of the input's stem in it; with words, number and suffix that is less than the usual 255


def read_picture(source: str) -> "Picture":
    """A picture from a file, or from stdin for `-`."""
    from ..images.read import load_image

    return load_image(sys.stdin.buffer if source == "-" else source)


def read_masks(files: Iterable[Path | None], picture: "Picture") -> "Masks":
    """The masks of --mask, --mask-add and --mask-subtract."""
    from ..images.masks import Masks

    return Masks.read(picture, *files)


def picture_suffixes() -> set[str]:
    """The suffixes of the pictures that can be read, in lower case."""
    from PIL import Image

    from ..images.read import READ_FORMATS

    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in READ_FORMATS}


def name_for(stem: str, words: str, suffix: str, end: str = "") -> str:
    """A file name from an input's stem and what was asked for; never the stem alone, which is the input.

    end: words that are never cut.
    """
    said = cut(re.sub(r"\W+", "-", words.lower()).strip("-"), MOST_BYTES - len(end))
    said = said or ("edited" if stem else "")
    return ("-".join(filter(None, (cut(stem, STEM_BYTES), said, end))) or "diffedit") + suffix


def cut(text: str, size: int) -> str:
    """The text, or as much of it as fits this many bytes of a file name."""
    data = os.fsencode(text)
    return text if len(data) <= size else data[:size].decode("utf-8", "ignore")


def is_folder(place: str) -> bool:
    """Whether results go into a place under names of their own: a folder, or a name like that of one."""
    return place.endswith(("/", os.sep)) or not Path(place).suffix or os.path.isdir(place)


def target_for(output: str | None, stem: str, words: str, end: str = "") -> Path | None:
    """The file that a result goes to; None is stdout.

    Without --output, and in a folder, it is called after the input and what was asked for:
    horse.jpg and zebra give horse-zebra.png. A folder that does not exist is made with the result. end: as in
    `name_for`.
    """
    if output == "-":
        return None
    name = name_for(stem, words, ".png", end)
    if output is None:
        return Path(name)
    return Path(output) / name if is_folder(output) else Path(output)


def check_targets(
    targets: Iterable[Path | None],
    *,
    overwrite: bool,
    picture: "Picture | None" = None,
    film: Path | None = None,
    places: Iterable[Path | str | None] = (),
) -> None:
    """Refuse what cannot be written, before the long work: see images/write.py; and one name twice.

    picture: whose transparency the first target holds. film: written too, and checked elsewhere. places: what
    the user named for the targets; those that are folders need not exist yet.
    """
    from ..images.write import check_target

    folders = [Path(place) for place in places if place is not None and is_folder(str(place))]
    seen: set[Path] = set()
    for number, target in enumerate([*targets, film]):
        if target is None:
            continue
        if any(target.is_relative_to(folder) for folder in folders) and not target.parent.exists():
            check_new_folder(target.parent)
        elif target is not film:
            check_target(target, overwrite=overwrite, picture=None if number else picture)
        if target.resolve() in seen:
            raise SettingError(f"Two results would go to {target}.", "Give each a name of its own.")
        seen.add(target.resolve())


def check_new_folder(folder: Path) -> None:
    """ImageError for a folder that could not be made."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ImageError(f"The folder {folder} cannot be made in {above}.", "Choose another one with -o.")


def keep_off_stdout(output: str | None) -> None:
    """SettingError where several results would go to stdout."""
    if output == "-":
        raise SettingError("Several results cannot go to stdout.", "Name a folder with -o.")


def make_folder(folder: Path) -> None:
    """Make a folder for results, with those above it, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Choose another one with -o."
        ) from error


def write_picture(target: Path | None, save: Callable[..., None], *, overwrite: bool, metadata: bool) -> None:
    """Have a result saved to a file, or as PNG to stdout; the whole file or nothing."""
    if target is not None:
        make_folder(target.parent)
        save(target, overwrite=overwrite, metadata=metadata)
        return
    buffer = io.BytesIO()
    save(buffer, metadata=metadata)
    sys.stdout.buffer.write(buffer.getvalue())
    sys.stdout.flush()
