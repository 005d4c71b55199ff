"""What a browser can ask for, as the session's calls. Every request is checked here, before it is queued."""

import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from PIL import Image

from .. import compare
from ..core import costs
from ..core.text2image import count_frames
from ..core.types import Report
from ..errors import DiffeditError, SettingError
from ..generation import generate_image, interpolate_frames, resolve_interpolation
from ..images import sheets
from ..images.masks import Masks
from ..images.video import SUFFIXES, write_frames
from ..images.write import save_image
from ..models import DiffusersDenoiser
from ..removal import forwards
from ..results import EditResult, RemoveResult, covered, provenance
from ..session import random_seed
from ..settings import (
    EditConfig,
    FilmConfig,
    GenerateConfig,
    InterpolateConfig,
    RemoveConfig,
    build,
    filled_in,
    flatten,
    keys,
    read_lists,
    require_difference,
    require_object,
    require_query,
    require_way_back,
    unknown_setting,
)
from .store import VIEW_SIDE, Result, Shown, Store, png, view_of
from .worker import Job

Work = Callable[[DiffusersDenoiser, Report], Result]
T = TypeVar("T")
MOST_FRAMES = 240


class NoHeat(DiffeditError):
    """A mask was asked for whose heat is not there yet: a job of the kind `find` makes it."""


@dataclass(frozen=True)
class Request:
    """What a browser sent, read with care: `body` is any JSON object."""

    body: Mapping[str, Any]
    model: DiffusersDenoiser
    store: Store

    def text(self, key: str) -> str:
        value = self.body.get(key, "")
        if not isinstance(value, str):
            raise SettingError(f"{key} cannot be {value!r}.", "It takes a text.")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.body.get(key) or {}
        if not isinstance(value, dict):
            raise SettingError(f"{key} cannot be {value!r}.", "It takes an object.")
        return cast(dict[str, Any], value)

    def config(self, schema: type[T], key: str = "settings") -> T:
        return build(schema, self.mapping(key))

    def edit_config(self) -> EditConfig:
        """The settings of an edit, with a seed: what is found is found again by the edit."""
        config = self.config(EditConfig)
        return replace(config, seed=random_seed() if config.seed is None else config.seed)

    def shown(self) -> Shown:
        return self.store.picture(self.body.get("picture"))

    def suffix(self) -> str:
        """The format of a film, or nothing."""
        suffix = self.text("format")
        if suffix and suffix not in SUFFIXES:
            raise SettingError(f"{suffix} is not a film format.", f"Choose {', '.join(SUFFIXES)}.")
        return suffix


def job_of(request: Request) -> Job:
    """The job that a browser asks for. DiffeditError: it could not be done."""
    kind = request.text("kind")
    if kind not in KINDS:
        raise SettingError(f"There is no job {kind!r}.", f"Choose {', '.join(KINDS)}.")
    work, units, settings = KINDS[kind](request)
    about = {**request.body, "settings": settings}
    return Job(kind=kind, tab=request.text("tab")[:64], about=about, work=work, units=units)


Order = tuple[Work, Mapping[str, int], dict[str, Any]]


def find_order(request: Request) -> Order:
    config, shown = request.edit_config(), request.shown()
    require_difference(config)
    masks = shown.masks(request.body.get("masks"))

    def work(model: DiffusersDenoiser, report: Report) -> Result:
        found = shown.session_on(model).mask(config, masks, report, room=True)
        files = {"mask.png": png(found.mask), "heat.png": heat_view(found.heat)}
        return Result(files, {**found.facts(), "seed": config.seed})

    return work, {"mask": 1}, flatten(config)


def edit_order(request: Request) -> Order:
    config, shown, suffix = request.edit_config(), request.shown(), request.suffix()
    masks = shown.masks(request.body.get("masks"))
    if masks.use is None:
        require_query(config)
    film, full = request.config(FilmConfig, "film"), filled_in(config, request.model.own_defaults)
    if suffix:
        require_way_back(full)
        check_frames(film.frames)
    units = costs.edit_forwards(
        full,
        search=masks.use is None,
        frames=film.frames if suffix else 0,
    )

    def work(model: DiffusersDenoiser, report: Report) -> Result:
        session = shown.session_on(model)
        if not suffix:
            (result,) = session.edit(config, masks, report)
            return edit_result(result)
        result, frames = session.film(config, film.frames, masks, report)
        drawn = list(frames)
        there_and_back = drawn + (drawn[-2:0:-1] if film.loop else [])
        stored = {**result.settings(), **flatten(film)}
        return edit_result(result, {f"film{suffix}": film_bytes(there_and_back, suffix, film.fps, stored)})

    return work, units, flatten(config)


def remove_order(request: Request) -> Order:
    config, shown = request.config(RemoveConfig), request.shown()
    config = replace(config, seed=random_seed() if config.seed is None else config.seed)
    masks = shown.masks(request.body.get("masks"))
    has_mask = masks.use is not None
    require_object(config, has_mask=has_mask)
    units = forwards(config, request.model.words, request.model.own_defaults, has_mask=has_mask)

    def work(model: DiffusersDenoiser, report: Report) -> Result:
        return edit_result(shown.session_on(model).remove(config, masks, report))

    return work, units, {**request.mapping("settings"), "seed": config.seed}


def generate_order(request: Request) -> Order:
    config = request.config(GenerateConfig)
    config = replace(config, seed=random_seed() if config.seed is None else config.seed)
    if not config.prompt:
        raise SettingError("There is no prompt.", "Say what the picture shows.")

    def work(model: DiffusersDenoiser, report: Report) -> Result:
        result = generate_image(model, config, report=report)
        return Result({"picture.png": saved(result.save)}, {**result.facts(), "suggestion": config.prompt})

    return work, {"generate": 1}, flatten(config)


def compare_order(request: Request) -> Order:
    """The lists are texts as on the command line: {"steps": "10,25"}."""
    texts = {key: str(value) for key, value in request.mapping("settings").items() if str(value)}
    known = [key for key, *_ in keys(EditConfig)]
    for key in texts:
        if key not in known:
            raise unknown_setting(key, known)
    lists = read_lists(EditConfig, texts)
    shown = request.shown() if request.body.get("picture") else None
    masks = None if shown is None else shown.masks(request.body.get("masks"))
    has_use = masks is not None and masks.use is not None
    own = request.model.own_defaults
    compare.count_forwards(lists, own, has_picture=shown is not None, search=not has_use)

    def work(model: DiffusersDenoiser, report: Report) -> Result:
        picture = None if shown is None else shown.picture
        result = compare.compare(model, picture, lists, mask=masks, report=report)
        return Result({"picture.png": saved(result.save)}, {**result.facts(), "suggestion": "compare"})

    return work, {"compare": 1}, texts


def interpolate_order(request: Request) -> Order:
    config, suffix = request.config(InterpolateConfig), request.suffix() or ".mp4"
    config = resolve_interpolation(request.model, config)
    check_frames(count_frames(config))

    def work(model: DiffusersDenoiser, report: Report) -> Result:
        frames = list(interpolate_frames(model, config, report=report))
        stored = provenance("interpolate", model.origin, config)
        film = film_bytes(frames, suffix, config.fps, stored)
        poster = io.BytesIO()
        save_image(poster, frames[0])
        files = {f"film{suffix}": film, "picture.png": poster.getvalue()}
        return Result(
            files, {"frames": len(frames), "settings": stored, "suggestion": "morph", "notices": []}
        )

    return work, {"frame": 1}, flatten(config)


KINDS: Mapping[str, Callable[[Request], Order]] = {
    "find": find_order,
    "edit": edit_order,
    "remove": remove_order,
    "generate": generate_order,
    "compare": compare_order,
    "interpolate": interpolate_order,
}


def mask_of(request: Request) -> Callable[[DiffusersDenoiser], tuple[bytes, dict[str, Any]]]:
    """The mask that an edit under these settings has, from heat that is there: no forward of the network."""
    config, shown = request.edit_config(), request.shown()
    masks, to_save = shown.masks(request.body.get("masks")), request.body.get("save") is True
    if masks.use is not None:
        own = masks.inverted() if config.mask.invert else masks
        return lambda _: given_mask(own)
    require_difference(config)

    def work(model: DiffusersDenoiser) -> tuple[bytes, dict[str, Any]]:
        found = shown.session_on(model).mask(config, masks, refuse_search, room=not to_save)
        facts = {"coverage": found.coverage, "forwards": found.run.forwards, "notices": found.notices}
        return saved(found.save) if to_save else png(found.mask), facts

    return work


def given_mask(masks: Masks) -> tuple[bytes, dict[str, Any]]:
    """The mask of an edit whose area the user gave."""
    area = masks.mend(cast(Image.Image, masks.use))
    return png(area), {"coverage": covered(area), "forwards": 0, "notices": []}


def refuse_search(stage: str, done: int, total: int) -> None:
    """A Report that ends a search before its first forward."""
    raise NoHeat("These settings need another search.", "Find the mask again.")


def check_frames(count: int) -> None:
    """SettingError for a film that is too long to be held in memory."""
    if count > MOST_FRAMES:
        raise SettingError(
            f"A film of {count} frames is too long for the page.", f"Ask for {MOST_FRAMES} or fewer."
        )


def edit_result(result: EditResult | RemoveResult, more: Mapping[str, bytes] | None = None) -> Result:
    files = {"picture.png": saved(result.save), "mask.png": png(result.mask), **(more or {})}
    picture = result.picture
    if max(result.image.size) > VIEW_SIDE or picture.icc is not None:
        files["view.png"] = view_of(result.image, picture.icc, picture.alpha)
    if result.heat is not None:
        files["heat.png"] = heat_view(result.heat)
    stem = Path(picture.name).stem
    words = result.config.query if isinstance(result, EditResult) else f"without-{result.config.ref}"
    return Result(files, {**result.facts(), "suggestion": f"{stem}-{words}"})


def heat_view(heat: Image.Image) -> bytes:
    return view_of(sheets.heat_to_image(heat))


def saved(save: Callable[..., None]) -> bytes:
    """The bytes that a result's `save` writes."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def film_bytes(frames: list[Image.Image], suffix: str, fps: int, settings: Mapping[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"film{suffix}"
        write_frames(frames, target, fps=fps, settings=settings)
        return target.read_bytes()
