"""One picture, or one prompt, with several settings: the tiles, their labels, and the grid."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from PIL import Image

from .core.costs import generate_forwards, shared_forwards
from .core.types import Report, silent
from .errors import SettingError
from .generation import compare_prompts
from .images import sheets
from .images.masks import Masks
from .images.read import Picture
from .images.write import save_image
from .models import DiffusersDenoiser
from .results import EditResult, Generated, Meter, Run, Shown, Target, costs, provenance
from .session import Mask, Session
from .settings import (
    EditConfig,
    GenerateConfig,
    GuidanceConfig,
    build,
    filled_in,
    idle_settings,
    keys,
    option_name,
    require_query,
)

Lists = Mapping[str, Sequence[Any]]  # the values of each setting, as settings.read_lists gives them
Own = Mapping[str, float]  # the model's own defaults

MOST_TILES = 100
ROW = 5  # tiles side by side, where one list is broken into rows
LEAST_SIDE, MOST_SIDE = 256, 1024  # of a tile, in pixels
SHEET = 4096  # pixels a side of a grid: what H.264 and most viewers can show
FADE = (0.0,) * 10 + (0.25, 0.5, 0.75) + (1.0,) * 12 + (0.75, 0.5, 0.25)  # share of the result in each frame
FPS = 12

GUIDANCE = tuple(key for key, *_ in keys(GuidanceConfig, "guidance_"))
OF_PROMPTS = ("query", "negative_prompt", "steps", "seed", "size", *GUIDANCE)  # what needs no picture


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Results with several settings, in the order of the grid, each with its label."""

    picture: Picture | None
    lists: Lists
    labels: Sequence[str]
    tiles: tuple[EditResult | Generated, ...]
    origin: Mapping[str, Any]
    run: Run

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(notice for tile in self.tiles for notice in tile.notices))

    def shown(self) -> tuple[str, Image.Image]:
        return "; ".join(self.labels), self.sheet()

    def settings(self) -> dict[str, Any]:
        """The settings of the first tile, the hashes of the masks, and under `compare` the lists."""
        tile = self.tiles[0]
        given = tile.given if isinstance(tile, EditResult) else None
        first = provenance("compare", self.origin, tile.config, self.picture, given)
        return {**first, "compare": {key: self.lists[key] for key in varied(self.lists)}}

    def facts(self) -> dict[str, Any]:
        """The outcome in plain values, as --json prints it."""
        named = zip(self.labels, self.tiles, strict=True)
        return {
            "tiles": [{"label": label, **tile.facts()} for label, tile in named],
            **costs(self.run, self.notices),
            "settings": self.settings(),
        }

    def sheet(self, share: float = 1.0) -> Image.Image:
        """The grid in sRGB: the source first, tiles of one size, each under its label.

        share: 0 shows the source in every tile, 1 the results, and between them both are mixed.
        """
        picture = self.picture
        images = [tile.image for tile in self.tiles]
        shown = images if picture is None else [sheets.shown(picture, image) for image in images]
        before = None if picture is None else sheets.shown(picture)
        if before is not None and share < 1:
            shown = [Image.blend(before, image, share) for image in shown]
        named = list(zip(self.labels, shown, strict=True))
        source = [] if before is None else [("source", before)]
        keys = varied(self.lists)
        across = len(self.lists[keys[-1]])
        if len(keys) == 1:
            named = source + named
            source = []
            across = math.ceil(len(named) / math.ceil(len(named) / ROW))
        rows = [source + named[i : i + across] for i in range(0, len(named), across)]
        return sheets.grid(*rows, side=side_of_tile(shown[0].size, rows))

    def frames(self) -> Iterator[Image.Image]:
        """The grid as a film that goes from the source to the results and back; meant to be repeated."""
        sheets = {share: self.sheet(share) for share in sorted(set(FADE))}
        yield from (sheets[share] for share in FADE)

    def save(self, path: Target, *, overwrite: bool = False, metadata: bool = True) -> None:
        settings = self.settings() if metadata else None
        save_image(path, self.sheet(), settings=settings, overwrite=overwrite)


def compare(
    model: DiffusersDenoiser,
    picture: Picture | None,
    lists: Lists,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> Comparison:
    """Draw every combination of the lists' values; masks, maps and inversions that they share are computed
    once.

    lists: {key of an EditConfig: its values}; without a picture the prompt is `query`, and `size` both sides.
    mask: as in `edit_image`. Raises SettingError if there is nothing to compare, a value is out of range, or
    a setting has no use without a picture.
    """
    meter = Meter(model)
    if picture is None:
        tiles = tuple(compare_prompts(model, prompt_configs(lists), report=report))
    else:
        configs = edit_configs(lists, search=Masks.of(mask).use is None)
        tiles = tuple(Session(model, picture).compare(configs, mask, report))
    return Comparison(picture, lists, labels(lists, model.own_defaults), tiles, model.origin, meter.stop())


def varied(lists: Lists) -> list[str]:
    """The keys that have several values, the one with the most last: that one runs across the grid."""
    return sorted((key for key, values in lists.items() if len(values) > 1), key=lambda key: len(lists[key]))


def combinations(lists: Lists) -> list[dict[str, Any]]:
    """The settings of each tile, in the order of the grid. SettingError if there are none, or too many."""
    order = varied(lists)
    if not order:
        raise SettingError(
            "There is nothing to compare.", "Give a flag several values, e.g. --guidance-norm none,pred."
        )
    count = math.prod(len(lists[key]) for key in order)
    if count > MOST_TILES:
        raise SettingError(f"That would be {count} tiles.", f"Ask for {MOST_TILES} or fewer.")
    same = {key: values[0] for key, values in lists.items() if key not in order}
    products = product(*(lists[key] for key in order))
    return [same | dict(zip(order, values, strict=True)) for values in products]


def edit_configs(lists: Lists, *, search: bool = True) -> list[EditConfig]:
    """The settings of each tile. SettingError: no query, or a list of a setting that does nothing."""
    configs = [build(EditConfig, values) for values in combinations(lists)]
    if search:
        for config in configs:
            require_query(config)
    refuse_idle(lists, configs, has_mask=not search)
    return configs


def refuse_idle(
    lists: Lists, configs: Sequence[EditConfig] | Sequence[GenerateConfig], *, has_mask: bool = False
) -> None:
    """SettingError where tiles would differ by a setting that does nothing in any of them."""
    idle = idle_in_all(configs, has_mask=has_mask)
    for key in varied(lists):
        if key in idle:
            raise SettingError(
                f"{option_name(key)} does nothing {idle[key]}, so its tiles would be the same.",
                "Give it one value, or leave it out.",
            )


def idle_in_all(
    configs: Sequence[EditConfig] | Sequence[GenerateConfig], *, has_mask: bool = False
) -> dict[str, str]:
    """The settings that do nothing in any tile, each with the reason (see `idle_settings`)."""
    first, *rest = (idle_settings(config, has_mask=has_mask) for config in configs)
    return {key: why for key, why in first.items() if all(key in idle for idle in rest)}


def idle(lists: Lists, own: Own, *, has_picture: bool, search: bool = True) -> dict[str, str]:
    """The settings of a comparison that do nothing in any tile, each with the reason."""
    return idle_in_all(filled(lists, own, has_picture=has_picture, search=search), has_mask=not search)


def filled(
    lists: Lists, own: Own, *, has_picture: bool, search: bool = True
) -> list[EditConfig] | list[GenerateConfig]:
    """The settings of each tile, with the model's own values; SettingError as in `compare`."""
    if has_picture:
        return [filled_in(config, own) for config in edit_configs(lists, search=search)]
    return [filled_in(config, own) for config in prompt_configs(lists)]


def prompt_configs(lists: Lists) -> list[GenerateConfig]:
    """The settings of tiles without a picture. SettingError for a setting that only an edit has."""
    for key in lists:
        if key not in OF_PROMPTS:
            raise SettingError(
                f"{option_name(key)} needs a picture.", "Name one first, or leave that flag out."
            )
    configs: list[GenerateConfig] = []
    for values in combinations(lists):
        size = values.pop("size", None)
        values["prompt"] = values.pop("query", "")
        configs.append(build(GenerateConfig, values, {"width": size, "height": size}))
    refuse_idle(lists, configs)
    return configs


def count_forwards(lists: Lists, own: Own, *, has_picture: bool, search: bool = True) -> int:
    """The most forward passes that a comparison can take; SettingError as in `compare`."""
    edits: list[EditConfig] = []
    drawn = 0
    for config in filled(lists, own, has_picture=has_picture, search=search):
        if isinstance(config, EditConfig):
            edits.append(config)
        else:
            drawn += generate_forwards(config)
    return drawn + shared_forwards(edits, search=search)


def labels(lists: Lists, own: Own) -> list[str]:
    """What is said over each tile: what varies, and the scale if norms or methods imply different ones."""
    texts: list[str] = []
    guides = [filled_in(build(EditConfig, values), own).guidance.base_scale for values in combinations(lists)]
    for values, scale in zip(combinations(lists), guides, strict=True):
        parts = [f"{name_of(key)} {shown(values[key])}".strip() for key in varied(lists)]
        if "guidance_scale" not in lists and len(set(guides)) > 1:
            parts.append(f"scale {scale:g}")
        texts.append(", ".join(parts))
    return texts


def name_of(key: str) -> str:
    return "" if key == "query" else key.removeprefix("guidance_").replace("_", " ")


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "+".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value) or "(empty)"


def side_of_tile(size: tuple[int, int], rows: Sequence[Sequence[object]]) -> int:
    """The longer side of a tile: the picture's own, within bounds, and so that the grid fits SHEET."""
    across, down = max(map(len, rows)), len(rows)
    room = min(SHEET / across / 1.1, SHEET / down / 1.4)  # a tile with its margins, and with its label
    return int(min(max(*size, LEAST_SIDE), MOST_SIDE, room))
