"""diffedit generate"""

from collections.abc import Callable
from typing import Annotated

import typer

from ..settings import GenerateConfig, ModelConfig, TalkConfig, filled_in, idle_of_model, idle_settings
from .files import check_targets, target_for, write_picture
from .idle import note_idle
from .options import NoMetadata, Output, Overwrite, with_flags
from .session import open_model, own_defaults
from .terminal import Terminal, plain_errors


@with_flags(without=("prompt",), config=GenerateConfig, model_config=ModelConfig, talk_config=TalkConfig)
def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    output: Output = None,
    overwrite: Overwrite = False,
    no_metadata: NoMetadata = False,
    *,
    config: Callable[..., GenerateConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Make a picture from a text prompt."""
    talk = talk_config()
    with plain_errors(talk, output):
        terminal, settings = Terminal(talk, output), config({"prompt": prompt})
        target = target_for(output, "", prompt)
        check_targets([target], overwrite=overwrite, places=[output])
        checkpoint = model_config()
        known = filled_in(settings, own_defaults(checkpoint))
        note_idle(context, terminal, {**idle_settings(known), **idle_of_model(checkpoint)})
        model = open_model(checkpoint, terminal)

        from ..generation import generate_image

        with terminal.progress({"generate": 1}) as report:
            result = generate_image(model, settings, report=report)
        write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
        terminal.finish(result, target, f" (seed {result.config.seed}).")
