"""diffedit batch"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import SettingError
from ..settings import MAX_SEED, EditConfig, ModelConfig, TalkConfig
from .interrupt import begin_work
from .options import DryRun, fast_option, paper_option, with_flags
from .session import own_defaults, require_suited, say_few_steps, spare_own_steps
from .terminal import Terminal, plain_errors

if TYPE_CHECKING:
    from ..batch import Batch, Plan

PANEL = "Batch"
Moves = tuple[Callable[[], None], Callable[..., None]]


def option(name: str, help: str, **more: Any) -> Any:
    return typer.Option(name, help=help, rich_help_panel=more.pop("panel", PANEL), **more)


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    engine: Literal["local", "ray"]
    workers: int | None
    address: str | None


@with_flags(
    without=("seed", "per_object", "next_queries"),
    edit_config=EditConfig,
    model_config=ModelConfig,
    talk_config=TalkConfig,
)
def batch(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|FOLDER",
            help="A .jsonl, .csv or .parquet file with one edit per row, or a folder of pictures.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="Folder for the results; a path or a URL.", rich_help_panel="Files"
        ),
    ],
    format: Annotated[
        Literal["folder", "parquet", "webdataset"],
        option(
            "--format", "Files in folders; or, for over 100,000 pictures, one Parquet or tar file per part."
        ),
    ] = "folder",
    engine: Annotated[
        Literal["local", "ray"], option("--engine", "Processes on this machine, or actors on a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        option("--workers", "How many. Default: one per GPU; without GPUs one, or one per Ray node.", min=1),
    ] = None,
    address: Annotated[
        str | None, option("--address", "With --engine ray: an existing cluster, e.g. auto or host:6379.")
    ] = None,
    rows_per_part: Annotated[
        int | None,
        option("--rows-per-part", "Rows saved together. Default: a 64th of all rows, at most 1000.", min=1),
    ] = None,
    retry_failed: Annotated[
        bool, option("--retry-failed/--no-retry-failed", "Edit the failed rows again.")
    ] = False,
    seed: Annotated[
        int,
        option(
            "--seed",
            "Base seed: a row without a seed gets one from a hash of the base seed and the row's id.",
            panel="Sampling",
            max=MAX_SEED,
            min=0,
        ),
    ] = 0,
    mask: Annotated[
        str | None, option("--mask", "With a folder of pictures: the folder with their masks.", panel="Mask")
    ] = None,
    mask_add: Annotated[
        str | None,
        option("--mask-add", "With a folder of pictures: the folder with areas to add.", panel="Mask"),
    ] = None,
    mask_subtract: Annotated[
        str | None,
        option(
            "--mask-subtract",
            "With a folder of pictures: the folder with areas to keep as they are.",
            panel="Mask",
        ),
    ] = None,
    fast: Annotated[bool, fast_option()] = False,
    paper: Annotated[bool, paper_option()] = False,
    dry_run: DryRun = False,
    *,
    edit_config: Callable[..., EditConfig],
    model_config: Callable[..., ModelConfig],
    talk_config: Callable[..., TalkConfig],
) -> None:
    """Edit every row of a manifest, or every picture in a folder, and write a dataset.

    Run the same command again to continue a run that was stopped. A row that fails does not stop the
    others: it is listed in failures.jsonl, and the exit code is 3.
    """
    talk = talk_config()
    with plain_errors(talk):
        if address is not None and engine != "ray":
            raise SettingError("--address needs --engine ray.", "Add that flag, or leave --address out.")
        terminal, checkpoint = Terminal(talk), model_config()
        job = open_batch(
            source=source,
            output=output,
            config=spare_own_steps(edit_config({"seed": seed}), context, own_defaults(checkpoint)),
            checkpoint=checkpoint,
            masks=given(mask=mask, mask_add=mask_add, mask_subtract=mask_subtract),
            format=format,
            rows_per_part=rows_per_part,
        )
        require_suited(checkpoint, inversion=job.config.encoding, spacing=job.config.step_spacing)
        say_few_steps(checkpoint, terminal)
        if dry_run:
            say_what_is_left(job, terminal, retry_failed=retry_failed)
            return
        with terminal.console.status("Reading the manifest and the model"):
            plan = job.plan()
            parts = job.left(plan, retry_failed=retry_failed)
        run(job, plan, parts, terminal, Workers(engine, workers, address))


def given(**paths: str | None) -> dict[str, str]:
    return {name: path for name, path in paths.items() if path is not None}


def open_batch(**facts: Any) -> "Batch":
    try:
        from ..batch import Batch
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("pyarrow", "fsspec"):
            raise SettingError(
                "This command needs packages that are not installed.",
                "Run: pip install 'diffedit-cli[batch]'",
            ) from error
        raise
    return Batch(**facts)


def say_what_is_left(job: "Batch", terminal: Terminal, *, retry_failed: bool) -> None:
    from ..models import check_parts

    check_parts(job.checkpoint)
    plan = job.plan(read_model=False)
    parts = job.left(plan, retry_failed=retry_failed)
    forwards = job.forwards(own_defaults(job.checkpoint))
    facts = {
        "output": job.output,
        "model": job.checkpoint.model,
        "rows": plan.rows,
        "parts": plan.parts,
        "parts_left": len(parts),
        "rows_per_part": plan.rows_per_part,
        "forwards": forwards,
    }
    lines = [
        f"Would edit {plan.rows} rows in {plan.parts} parts of {plan.rows_per_part} with "
        f"{job.checkpoint.model} into {job.output}; {len(parts)} parts are left.",
        f"All rows take at most {forwards} forward passes.",
    ]
    terminal.result(facts, lines)


def run(job: "Batch", plan: "Plan", parts: list[int], terminal: Terminal, who: Workers) -> None:
    """Do what is left, and say how it went. Exit code 3 where rows failed."""
    forwards = 0
    with progress(terminal, sum(plan.rows_of(number) for number in parts)) as (tick, note):
        for done in job.run(plan, parts, tick=tick, **vars(who)):
            forwards += done.forwards
            note(done.rows, done.failed, is_counted=who.engine == "local")
            if terminal.talk.json:
                typer.echo(json.dumps(asdict(done)))
    end = job.finish(plan)
    listed = f"; {end.failed} failed: see failures.jsonl there" if end.failed else ""
    lines = [f"{plan.rows - end.failed} of {plan.rows} results are in {job.output}{listed}."]
    if end.noted:
        lines.append(f"Results with notes: {end.noted}; see the column notices of metadata.parquet.")
    facts = {"rows": plan.rows, "parts": len(parts), **asdict(end), "forwards": forwards}
    terminal.result({"output": job.output, **facts}, lines)
    if end.failed:
        raise typer.Exit(3)


@contextmanager
def progress(terminal: Terminal, rows: int) -> Generator[Moves, None, None]:
    """A bar with rows, rate, time left and failures; yields what moves it by a row, and by a part."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    begin_work()
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    with Progress(
        TextColumn("{task.description}"),
        *columns,
        TextColumn("{task.fields[failed]} failed"),
        console=terminal.console,
        transient=True,
        disable=not terminal.console.is_terminal,
    ) as bar:
        task = bar.add_task("Editing", total=rows, rate="", failed=0)

        def move(count: int) -> None:
            bar.advance(task, count)
            now = bar.tasks[0]
            bar.update(task, rate=f"{60 * now.completed / now.elapsed:.1f} a minute" if now.elapsed else "")

        def note(count: int, failed: int, *, is_counted: bool) -> None:
            move(0 if is_counted else count)
            bar.update(task, failed=bar.tasks[0].fields["failed"] + failed)

        yield lambda: move(1), note
