"""The Python API: one run of a session in one call, and several pictures under several settings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from PIL import Image

from .core import diffedit
from .core.types import Report, silent
from .errors import DiffeditError, SettingError
from .images import canvas
from .images.masks import Masks
from .images.read import Picture
from .models import DiffusersDenoiser
from .results import EditResult, MaskResult, RemoveResult
from .session import Mask, Session, random_seed
from .settings import EditConfig, RemoveConfig


def edit_image(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> EditResult:
    """Change `config.ref` into `config.query` and leave every other pixel as it was.

    mask: where to edit, in place of a search (mode L at the picture's size; white is edited); or `Masks`,
    which can also add areas to a found mask and keep areas out of it. report: called after each step. Raises
    DiffeditError: texts that do not differ, numbers that are not finite.
    """
    return Session(model, picture).edit(config, mask, report)[0]


def make_mask(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> MaskResult:
    """Find where `config.ref` is, by comparison with `config.query`: only step 1 of `edit_image`.

    mask: `Masks` with areas to add and to subtract. Raises SettingError if a mask to use is given, and
    DiffeditError if the texts are the same or the model sees no difference.
    """
    return Session(model, picture).mask(config, mask, report)


def remove_object(
    model: DiffusersDenoiser,
    picture: Picture,
    config: RemoveConfig,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> RemoveResult:
    """Take `config.ref` out of a picture and draw what may be behind it; every other pixel stays as it was.

    The object is found as in `make_mask`, by comparison with a similar one if the model lists its words. The
    hole is filled smoothly from its edge, and the filling is noised and redrawn, so it starts without a trace
    of the object. mask, report: as in `edit_image`. Raises SettingError if it is not clear what to remove,
    and DiffeditError if the model does not see it in the picture.
    """
    return Session(model, picture).remove(config, mask, report)


def animate_edit(
    model: DiffusersDenoiser,
    picture: Picture,
    config: EditConfig,
    frames: int,
    *,
    mask: Mask = None,
    report: Report = silent,
) -> tuple[EditResult, Iterator[Image.Image]]:
    """An edit as `edit_image` makes it, and its film: `frames` RGB pictures, 2 or more.

    The first frame is the picture and the last the edit; neighbours look about equally different, and outside
    the mask every frame is the picture, bit for bit. All are drawn when the first one is requested (stage
    "frame" of `report`). After Ctrl-C the finished frames are yielded in order, followed by
    KeyboardInterrupt.
    """
    return Session(model, picture).film(config, frames, mask, report)


def compare_edits(
    model: DiffusersDenoiser,
    picture: Picture,
    configs: Sequence[EditConfig],
    *,
    mask: Mask = None,
    report: Report = silent,
) -> Iterator[EditResult]:
    """`edit_image` under each of several settings, in order; what they share is computed once.

    Configs without a seed share one. report: called as ("compare", forward passes done, forward passes in
    all).
    """
    return Session(model, picture).compare(configs, mask, report)


def edit_images(
    model: DiffusersDenoiser,
    pictures: Sequence[Picture],
    config: EditConfig,
    queries: Sequence[str] = (),
    *,
    mask: Mask = None,
    report: Report = silent,
) -> Iterator[EditResult | DiffeditError]:
    """Change `config.ref` into each of `queries` (or `config.query`) in several pictures.

    Yields, picture by picture and query by query, a result or the error that stopped it; one error does not
    stop the rest. All use the same seed. Pictures of the same shape are edited together, and the queries of a
    picture share its inversion; up to float32 rounding a result equals that of `edit_image`. mask: only for a
    single picture. report: starts again with each group and query.
    """
    config = replace(config, seed=random_seed() if config.seed is None else config.seed)
    configs = [replace(config, query=query) for query in queries or [config.query]]
    yield from edit_each(model, pictures, configs, mask=mask, report=report)


def edit_each(
    model: DiffusersDenoiser,
    pictures: Sequence[Picture],
    configs: Sequence[EditConfig],
    *,
    mask: Mask = None,
    report: Report = silent,
) -> Iterator[EditResult | DiffeditError]:
    """As `edit_images`, with each of several settings. Their seeds may differ, but not their size."""
    if len(pictures) > 1 and not Masks.of(mask).is_empty:
        raise SettingError("A mask belongs to one picture.", "Edit the pictures one by one.")
    for group in groups_of_one_shape(model, pictures, configs[0]):
        session, columns = Session(model, *group), list[Sequence[EditResult | DiffeditError]]()
        for config in configs:
            try:
                columns.append(session.edit(config, mask, report))
            except DiffeditError as error:
                if len(group) == 1:
                    columns.append([error])
                else:  # each is tried alone
                    alone = (edit_each(model, [picture], [config]) for picture in group)
                    columns.append([one for outcomes in alone for one in outcomes])
        for row in zip(*columns, strict=True):
            yield from row


def groups_of_one_shape(
    model: DiffusersDenoiser, pictures: Sequence[Picture], config: EditConfig
) -> Iterator[list[Picture]]:
    """Consecutive pictures with the same canvas, as many as are edited together."""
    shape = config.size or model.size, model.multiple
    for (width, height), group in groupby(pictures, lambda one: canvas.fit(one.rgb.size, *shape).canvas):
        members = list(group)
        count = diffedit.pictures_together(height // model.factor, width // model.factor)
        for start in range(0, len(members), count):
            yield members[start : start + count]
