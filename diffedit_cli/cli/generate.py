"""diffedit generate"""

from collections.abc import Callable
from typing import Annotated

import typer

from ..settings import GenerateConfig, ModelConfig, TalkConfig, filled_in, idle_settings
from .files import check_targets, keep_off_stdout, target_for, write_picture
from .idle import note_idle
from .options import NoMetadata, Output, Overwrite, SeedCount, Seeds, each_seed, with_flags
from .session import open_model, own_defaults, require_suited
from .terminal import Terminal, plain_errors


@with_flags(
    without=("prompt", "seed"), config=GenerateConfig, model_config=ModelConfig, talk_config=TalkConfig
)
def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    seed: Seeds = [],  # noqa: B006 Typer makes a new one
    seeds: SeedCount = 1,
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
        terminal, checkpoint = Terminal(talk, output), model_config()
        chosen = each_seed(seed, seeds)
        if len(chosen) > 1:
            keep_off_stdout(output)
        ends = [f"seed-{one}" if len(chosen) > 1 else "" for one in chosen]
        targets = [target_for(output, "", prompt, end) for end in ends]
        check_targets(targets, overwrite=overwrite, places=[output])
        configs = [config({"prompt": prompt, "seed": one}) for one in chosen]
        known = filled_in(configs[0], own_defaults(checkpoint))
        require_suited(checkpoint, spacing=known.step_spacing)
        note_idle(context, terminal, idle_settings(known))

        from ..generation import check_generation, generate_image
        from ..models import foresee

        if foreseen := foresee(checkpoint):
            check_generation(foreseen, known)
        model = open_model(checkpoint, terminal)
        for one, target in zip(configs, targets, strict=True):
            with terminal.progress({"generate": 1}) as report:
                result = generate_image(model, one, report=report)
            write_picture(target, result.save, overwrite=overwrite, metadata=not no_metadata)
            terminal.finish(result, target, f" (seed {one.seed}).")
