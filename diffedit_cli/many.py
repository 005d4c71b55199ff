"""Several pictures under several settings: those of one shape together; one error does not stop the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from .core import diffedit
from .core.types import Report, silent
from .errors import DiffeditError, SettingError
from .images import canvas
from .images.masks import Masks
from .images.read import Picture
from .models import DiffusersDenoiser
from .results import EditResult
from .session import Mask, Session, random_seed
from .settings import EditConfig


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
    stop the rest. All have one seed. Pictures of one shape are worked on together, and the queries of a
    picture share its inversion; up to the rounding of float32 a result is that of `edit_image`. mask: for a
    single picture. report: starts anew with each group and query.
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
    """As `edit_images`, under each of several settings with seeds that may differ, but not in size."""
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
    """Neighbouring pictures of one canvas, as many as are worked on together."""
    shape = config.size or model.size, model.multiple
    for (width, height), group in groupby(pictures, lambda one: canvas.fit(one.rgb.size, *shape).canvas):
        members = list(group)
        count = diffedit.pictures_together(height // model.factor, width // model.factor)
        for start in range(0, len(members), count):
            yield members[start : start + count]
