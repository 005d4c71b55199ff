"""What the server remembers: the latest pictures with what was computed for them, and the latest results.

All of it is bounded: old entries are dropped, and a request for one gets a sentence that says so.
"""

import hashlib
import io
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Generic, TypeVar

from PIL import Image

from ..errors import DiffeditError
from ..images import colour
from ..images.masks import Masks, load_mask
from ..images.read import Picture, load_image
from ..models import DiffusersDenoiser
from ..session import Session

MOST_PICTURES = 8
MOST_PIXELS = 200_000_000  # of all pictures together; the latest is kept however large it is
MOST_AREAS = 16  # painted areas of one picture
MOST_MAPS = 32  # heat maps and trajectories of one picture
MOST_RESULTS = 200
MOST_BYTES = 512 * 2**20  # of all results together
VIEW_SIDE = 2048  # the longer side of a picture as the page shows it

T = TypeVar("T")


class Gone(DiffeditError):
    """Something that the server does not have, or has no longer."""


class Latest(Generic[T]):
    """The latest values by key: at most `count`, and at most `weight` in all; the newest is always kept."""

    def __init__(self, count: int, weight: int) -> None:
        self.count, self.weight = count, weight
        self.lock = Lock()
        self.items: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def add(self, key: str, value: T, weight: int = 0) -> None:
        with self.lock:
            self.items[key] = value, weight
            self.items.move_to_end(key)
            while len(self.items) > 1 and (
                len(self.items) > self.count or sum(size for _, size in self.items.values()) > self.weight
            ):
                self.items.popitem(last=False)

    def get(self, key: object) -> T | None:
        """The value, which then counts as the newest; None if there is none."""
        with self.lock:
            if not isinstance(key, str) or key not in self.items:
                return None
            self.items.move_to_end(key)
            return self.items[key][0]


@dataclass
class Shown:
    """A picture that was sent: as read, the areas painted in it, and its session."""

    key: str
    picture: Picture
    areas: Latest[Image.Image] = field(default_factory=lambda: Latest(MOST_AREAS, MOST_PIXELS))
    session: Session | None = None

    def session_on(self, model: DiffusersDenoiser) -> Session:
        """The session that holds what earlier runs computed; a new one where that has become too much."""
        if self.session is None or maps_in(self.session) > MOST_MAPS:
            self.session = Session(model, self.picture)
        return self.session

    def add_area(self, body: bytes) -> str:
        """Keep a painted area under its hash. ImageError: it is no picture of this shape."""
        key = hashlib.sha256(body).hexdigest()[:32]
        area = load_mask(body, self.picture.rgb.size)
        self.areas.add(key, area, area.width * area.height)
        return key

    def masks(self, keys: object) -> Masks:
        """The areas that a request names, as the session takes them."""
        named: dict[str, object] = {} if not isinstance(keys, dict) else {str(k): v for k, v in keys.items()}
        use, add, subtract = (self._area(named.get(name)) for name in ("use", "add", "subtract"))
        return Masks(use, add, subtract)

    def _area(self, key: object) -> Image.Image | None:
        if key is None:
            return None
        if (area := self.areas.get(key)) is None:
            raise Gone("The server no longer has this painted area.", "Paint one more stroke.")
        return area


def maps_in(session: Session) -> int:
    return sum(len(source.searches) + len(source.sources) for source in session.sources.values())


@dataclass(frozen=True)
class Result:
    """The files of a finished job by name, and what there is to say of it."""

    files: dict[str, bytes]
    facts: dict[str, Any]


class Store:
    """The pictures and results of all tabs."""

    def __init__(self) -> None:
        self.pictures: Latest[Shown] = Latest(MOST_PICTURES, MOST_PIXELS)
        self.results: Latest[Result] = Latest(MOST_RESULTS, MOST_BYTES)

    def add_picture(self, body: bytes, name: str) -> Shown:
        """Read a picture that was sent. Its name is a label alone. ImageError: it cannot be read."""
        picture = load_image(body)
        notices = tuple(notice.replace(picture.name, name) for notice in picture.notices)
        shown = Shown(secrets.token_hex(8), replace(picture, name=name, notices=notices))
        self.pictures.add(shown.key, shown, picture.rgb.width * picture.rgb.height)
        return shown

    def picture(self, key: object) -> Shown:
        if (shown := self.pictures.get(key)) is None:
            raise Gone(
                f"The server no longer has this picture: it keeps the latest {MOST_PICTURES}.",
                "Open it again.",
            )
        return shown

    def add_result(self, key: str, result: Result) -> None:
        self.results.add(key, result, sum(map(len, result.files.values())))

    def file(self, key: str, name: str) -> bytes:
        result = self.results.get(key)
        if result is None or name not in result.files:
            raise Gone("The server does not have this result, or has it no longer.", "Make it again.")
        return result.files[name]


def label(name: str) -> str:
    """A file's name as it may be stored and shown: its last part, printable, of a sensible length."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[-120:].strip() or "picture.png"


def view_of(image: Image.Image, icc: bytes | None = None, alpha: Image.Image | None = None) -> bytes:
    """An RGB image as the page shows it: a PNG in sRGB of VIEW_SIDE pixels a side at most."""
    shown = colour.to_srgb(image, icc)
    if alpha is not None:
        shown = shown.convert("RGBA")
        shown.putalpha(alpha)
    if max(shown.size) > VIEW_SIDE:
        shown.thumbnail((VIEW_SIDE, VIEW_SIDE), Image.Resampling.LANCZOS)
    return png(shown)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
