"""diffedit info"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..settings import TalkConfig
from .options import with_flags
from .terminal import Terminal, plain_errors


@with_flags(talk_config=TalkConfig)
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture, a film or a folder of frames.")],
    *,
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Show how a result was made: the settings that are stored in it."""
    talk = talk_config()
    with plain_errors(talk):
        from ..images.video import read_film_settings

        stored = read_film_settings(file)
        picture = {} if file.is_dir() or file.suffix.lower() == ".mp4" else describe(file)
        lines = [f"{key:22} {value}" for key, value in picture.items() if value is not None]
        lines += [f"{key:22} {value}" for key, value in (stored or {}).items() if value not in (None, "", [])]
        Terminal(talk).answer(
            {"file": file.name, **picture, "settings": stored},
            lines if stored else [*lines, "It holds no settings of this program."],
        )


def describe(file: Path) -> dict[str, Any]:
    """The size of any picture, and what it holds besides pixels."""
    from ..images.read import load_image

    picture = load_image(file)
    return {
        "width": picture.rgb.width,
        "height": picture.rgb.height,
        "has_alpha": picture.alpha is not None,
        "has_profile": picture.icc is not None,
        "has_exif": picture.exif is not None,
    }
