"""`python -m training STAGE`: every stage of making the embedded model, in order. See training/README.md."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from diffedit_cli.models import EMBEDDED
from training.sources import DATA

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
DataOption = Annotated[Path, typer.Option("--data", help="Where the sources lie.")]
RunOption = Annotated[
    Path, typer.Option("--run", help="Folder of the training run: checkpoints, logs, weights.")
]
RUN = DATA / "run"


@app.command()
def sources(data: DataOption = DATA) -> None:
    """Fetch and unpack the photos (about 350 MB) with apt-get, dpkg and npm."""
    from training.sources import fetch

    fetch(data)


@app.command()
def pack(out: Path, data: DataOption = DATA) -> None:
    """Copy what training reads, about 25 MB, to carry it to another machine; there give it as --data."""
    from training.sources import pack as copy

    typer.echo(copy(data, out))


@app.command()
def scenes(
    out: Path = DATA / "scenes.png",
    data: DataOption = DATA,
    count: int = 48,
    seed: int = 0,
    held_out: bool = False,
) -> None:
    """Draw a sheet of scenes to look at."""
    from training.scenes import draw_scenes, load_world, save_sheet

    world = load_world(data, held_out=held_out)
    backgrounds = "wallpapers" if held_out else "panoramas"
    save_sheet(draw_scenes(world, count, seed, backgrounds=backgrounds).pixels, out)
    typer.echo(out)


@app.command()
def examples(out: Path = Path("examples"), data: DataOption = DATA) -> None:
    """Draw the example pictures again from their seeds."""
    from training.examples import draw_examples

    for path in draw_examples(data, out):
        typer.echo(path)


StartOption = Annotated[
    Path | None, typer.Option(help="Model folder to start from; random weights without it.")
]
MinutesOption = Annotated[float, typer.Option(help="The run ends after this training time ...")]
SamplesOption = Annotated[int, typer.Option(help="... or this many samples.")]
BatchOption = Annotated[int, typer.Option(help="Samples a step of each worker.")]
WorkersOption = Annotated[int, typer.Option(help="Processes; on a CPU one a core, on a GPU 1.")]
RateOption = Annotated[float, typer.Option("--learning-rate")]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the networks first: minutes, then faster steps.")
]
ReuseOption = Annotated[float, typer.Option(help="How often a scene is used; 1 where drawing is fast (GPU).")]


def add_stage(
    stage: str, about: str, *, minutes: float, samples: int, batch: int, reuse: float, warmup: int,
    rate: float = 5e-4, ema: float = 0.998,
) -> None:  # fmt: skip
    """A command that trains one stage, with its usual numbers."""

    def train(
        run: RunOption = RUN, data: DataOption = DATA, start: StartOption = None,
        minutes: MinutesOption = minutes, samples: SamplesOption = samples, batch: BatchOption = batch,
        workers: WorkersOption = 2, learning_rate: RateOption = rate, reuse: ReuseOption = reuse,
        device: str = "cpu", compile: CompileOption = False,
    ) -> None:  # fmt: skip
        from training.train import Job, Settings, run_job

        settings = Settings(
            minutes=minutes, samples=samples, batch=batch, workers=workers, learning_rate=learning_rate,
            reuse=reuse, anneal_from=0.5, final_rate=0.02, warmup=warmup, ema=ema, compile=compile,
            seed=time.time_ns() % 2**32,  # a run that goes on draws other scenes than before
        )  # fmt: skip
        run_job(Job(stage, data, run, settings, start, device))

    app.command(stage, help=f"{about} Run it again to go on from its checkpoint.")(train)


for vae_stage, about in {
    "vae": "Train the VAE.",
    "decoder": "Train the VAE's decoder alone, so that the latents, and a UNet trained on them, stay valid.",
}.items():
    add_stage(vae_stage, about, minutes=60, samples=10_000_000, batch=6, reuse=24, warmup=100)
add_stage(
    "unet",
    "Train UNet and text encoder on the latents of run/vae.",
    minutes=240,
    samples=100_000_000,
    batch=10,
    reuse=6,
    warmup=150,
)


@app.command()
def critic(
    data: DataOption = DATA, minutes: float = 15,
    model: Annotated[Path, typer.Option(help="Model folder whose VAE it is trained for.")] = EMBEDDED,
) -> None:  # fmt: skip
    """Train the classifier that stage `reward` uses."""
    from diffusers import AutoencoderKL

    from training.reward import train_critic
    from training.scenes import load_world

    vae = AutoencoderKL.from_pretrained(model / "vae").float().eval()
    typer.echo(train_critic(data, load_world(data, backdrops=True), vae, minutes))


for edit_stage, about in {
    "heat": "Train the UNet on the masks that it finds.",
    "reward": "Train the UNet on edits of its own that the critic judges, and on the masks that it finds.",
}.items():
    add_stage(
        edit_stage, about, minutes=60, samples=10_000_000, batch=8, reuse=3, warmup=30, rate=1e-4, ema=0.99
    )


@app.command()
def mean(one: Path, other: Path, out: Path) -> None:
    """Write the model folder ONE to OUT with the mean of its UNet and that of the model folder OTHER."""
    from training.export import mean as write

    typer.echo(write(one, other, out))


@app.command()
def export(out: Path = DATA / "export", run: RunOption = RUN, already: int = 0) -> None:
    """Write run/ as a float16 model folder. `already`: samples behind the weights that it started from."""
    from training.export import export as write

    seen = run / "unet.json"  # not there where a later stage began with a finished model
    samples = json.loads(seen.read_text())["samples"] if seen.exists() else 0
    typer.echo(write(run, out, already + samples))


@app.command()
def evaluate(
    folder: Path = DATA / "export", data: DataOption = DATA, count: int = 64, samples: int = 0,
    log: Path = DATA / "evaluation.jsonl", sheet: Path | None = None, sheet_cases: int = 24,
) -> None:  # fmt: skip
    """Measure a model folder on held-out scenes; with --sheet also draw edits to look at."""
    from diffedit_cli import load_model
    from training.evaluate import edit_sheet, held_out_cases
    from training.evaluate import evaluate as measure

    typer.echo(json.dumps(measure(folder, data, count, log, samples), indent=2))
    if sheet is not None:
        cases = held_out_cases(data, count)
        every = max(1, count // sheet_cases)
        edit_sheet([load_model(folder)], cases[::every][:sheet_cases], sheet)
        typer.echo(sheet)


if __name__ == "__main__":
    app()
