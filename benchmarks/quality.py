"""Edits of held-out scenes with exact masks, side by side on the same weights.

    python -m benchmarks.quality --count 240

Ours, ours with the true mask, the same redrawing without a mask (SDEdit), and diffusers' deprecated DiffEdit
pipeline at its defaults and at our number of steps; and, to check the judge, a photo of what was asked for in
place of the thing. Needs the sources (`python -m training sources`). Writes one line to results.jsonl and the
tables of docs/quality.md and the model card.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from benchmarks.classifier import Judge, judge, load_judge, verdict
from benchmarks.report import Figures, markdown, means, record, write_block
from benchmarks.speed import Hooks, diffedit_pipeline
from diffedit_cli.core.diffedit import Areas, DiffEdit, Plan, Texts, encode_source, redraw
from diffedit_cli.core.mask import binarise, enlarge, feather, widen
from diffedit_cli.core.schedules import make_steps
from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig, GuidanceConfig, filled_in
from training.evaluate import Case, edit_sheet, grouped, iou, psnr
from training.scenes import Scenes, World, draw_scenes, latent_mask, load_world
from training.sources import DATA
from training.train import HELD_OUT_SEED
from training.words import PLACES, THINGS

PAIRS = (
    ("horse", "zebra"), ("zebra", "horse"), ("dog", "fox"), ("fox", "dog"), ("apple", "pear"),
    ("pear", "apple"), ("cow", "zebra"), ("horse", "donkey"), ("sheep", "cow"), ("lion", "tiger"),
    ("tiger", "lion"), ("bear", "elephant"), ("apple", "orange"), ("duck", "rooster"), ("rabbit", "squirrel"),
    ("car", "bus"), ("white horse", "black horse"), ("black horse", "white horse"),
    ("bowl of apples", "bowl of pears"), ("bowl of oranges", "bowl of lemons"),
)  # fmt: skip
KINDS = ("known place", "unseen photo", "two things", "unseen cut-out")
NEIGHBOURS = ("dog", "cow")  # stands beside the thing to edit: the first that the edit does not name
ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/quality.md"
MODEL_CARD = EMBEDDED / "README.md"
SEED = HELD_OUT_SEED + 70_000


@dataclass
class Attempt:
    """Its picture before any paste (1 3 s s), the latent mask that it found, and the area that it redrew."""

    pixels: Tensor
    mask: Tensor | None
    area: Tensor | None


@dataclass
class JudgedCase(Case):
    """A case, and the same scene with a photo of the query in place of the thing."""

    perfect: Scenes


Contender = Callable[[JudgedCase], Attempt]
OURS = ("diffedit", "diffedit, true mask")
PHOTO = "a photo in its place"


# ---------------------------------------------------------------- scenes


def cases_of(data: Path, words: dict[str, list[str]], count: int, first: int = SEED) -> list[JudgedCase]:
    """`count` cases over PAIRS, of the seeds from `first` on.

    Each four of a pair: one in a known place, one on a wallpaper, one in a known place beside another thing,
    and one with a panorama that no training saw, and such a photo where there is one of the thing.
    """
    world, held_out = load_world(data), load_world(data, held_out=True)
    known = [index for index, place in enumerate(PLACES) if place.word in words["places"]]
    world = world.at(known)
    worlds: dict[str, tuple[World, str]] = {
        "known place": (world, "panoramas"),
        "unseen photo": (world.before(held_out), "wallpapers"),
        "two things": (world, "panoramas"),
        "unseen cut-out": (held_out, "panoramas"),
    }
    cases = []
    for index in range(count):
        ref, query = PAIRS[index % len(PAIRS)]
        kind = KINDS[index // len(PAIRS) % len(KINDS)]
        source, backgrounds = worlds[kind]
        beside = (
            next(word for word in NEIGHBOURS if word not in (ref, query)) if kind == "two things" else None
        )
        seed, known_photos = first + index, world.before(source)
        draw = partial(draw_scenes, batch=1, seed=seed, beside=beside, backgrounds=backgrounds)
        scene, perfect = draw(source, things=[ref]), draw(known_photos, things=[query])
        cases.append(JudgedCase(scene, ref, query, kind, seed, perfect))
    return cases


# ---------------------------------------------------------------- contenders


def ours(model: DiffusersDenoiser, config: EditConfig | None = None, *, true_mask: bool = False) -> Contender:
    """`edit` at its defaults, or with the scene's own mask, with the same room round it."""
    base = config or EditConfig()

    def run(case: Case) -> Attempt:
        settings = filled_in(replace(base, ref=case.ref, query=case.query), model.own_defaults)
        editor = DiffEdit(model, case.scene.pixels)
        if not true_mask:
            result = editor.edit(settings, [case.seed])
            return Attempt(result.pixels, result.plan.found, result.plan.area)
        mask = binarise(latent_mask(case.scene.mask), replace(base.mask, threshold=0.5))
        area = widen(mask, settings.room)
        return Attempt(editor.edit(settings, [case.seed], Areas(area)).pixels, mask, area)

    return run


def sdedit(model: DiffusersDenoiser) -> Contender:
    """Noised to the same level and redrawn everywhere (Meng et al. 2021): no mask, no inversion."""

    def run(case: Case) -> Attempt:
        config = filled_in(EditConfig(ref=case.ref, query=case.query, inversion="noise"), model.own_defaults)
        everywhere = torch.ones_like(latent_mask(case.scene.mask))
        edited = DiffEdit(model, case.scene.pixels).edit(config, [case.seed], Areas(everywhere))
        return Attempt(edited.pixels, None, None)

    return run


def round_trip(model: DiffusersDenoiser) -> Contender:
    """Inversion and decoding with no text, no guidance and no mask: what the encoding alone keeps."""

    def run(case: Case) -> Attempt:
        config = filled_in(EditConfig(guidance=GuidanceConfig(scale=1)), model.own_defaults)
        texts, x0 = Texts.embed(model, config), model.encode(case.scene.pixels)
        steps = make_steps(model.schedule, config.steps, config.ratio)
        source = encode_source(model, x0, steps, texts, config, [case.seed])
        everywhere = torch.ones_like(latent_mask(case.scene.mask))
        plan = Plan(config, [case.seed], texts, steps, source, everywhere, everywhere, everywhere, heat=None)
        return Attempt(redraw(model, plan), None, None)

    return run


def photo_in_place(model: DiffusersDenoiser) -> Contender:
    """No edit: a photo of what was asked for stands there, seen through the VAE. A good judge passes it."""

    def run(case: JudgedCase) -> Attempt:
        return Attempt(model.decode(model.encode(case.perfect.pixels)).clamp(0, 1), None, None)

    return run


def diffusers_pipeline(model: DiffusersDenoiser, **settings: Any) -> Contender:
    """StableDiffusionDiffEditPipeline on the same parts, called as its documentation does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is deprecated
        pipeline = diffedit_pipeline(model)

    def run(case: Case) -> Attempt:
        image, noise = case.scene.pixels * 2 - 1, torch.Generator().manual_seed(case.seed)
        mask = pipeline.generate_mask(
            image, target_prompt=case.query, source_prompt=case.ref, generator=noise, **settings
        )
        latents = pipeline.invert(case.ref, image, generator=noise, **settings).latents
        pixels = pipeline(
            case.query, mask, latents, negative_prompt=case.ref, generator=noise, output_type="pt", **settings
        ).images
        found = torch.from_numpy(mask).float()[:, None]
        return Attempt(pixels.float(), found, found)

    return run


def contenders(model: DiffusersDenoiser) -> dict[str, Contender]:
    """All of them, by the name that the table prints."""
    steps = EditConfig().step_count
    return {
        "diffedit": ours(model),
        "diffedit, true mask": ours(model, true_mask=True),
        "SDEdit": sdedit(model),
        "diffusers, its defaults": diffusers_pipeline(model),
        f"diffusers, {steps} steps": diffusers_pipeline(model, num_inference_steps=steps),
        "invert and decode": round_trip(model),
        PHOTO: photo_in_place(model),
    }


# ---------------------------------------------------------------- figures


def ssim(picture: Tensor, reference: Tensor, weight: Tensor) -> float:
    """Mean of the structural similarity map over `weight` (1 1 s s)."""
    _, full = structural_similarity_index_measure(picture, reference, data_range=1.0, return_full_image=True)  # type: ignore[misc]
    return float((full.mean(1, keepdim=True) * weight).sum() / weight.sum())


def pasted(case: Case, attempt: Attempt, factor: int) -> Tensor:
    """The edit laid over the source as the command does it: nothing changes outside the area."""
    if attempt.area is None:
        return attempt.pixels
    soft = feather(enlarge(attempt.area, factor), EditConfig().mask.feather)
    return torch.lerp(case.scene.pixels, attempt.pixels, soft)


def figures_of(case: Case, attempt: Attempt, model: DiffusersDenoiser, classifier: Judge) -> Figures:
    """Every figure of one edit. Outside: what neither the object nor its soft edge covers."""
    scene: Scenes = case.scene
    outside = (F.max_pool2d(scene.mask, 9, 1, 4) < 0.01).float()
    told = judge(classifier, attempt.pixels, scene.mask)
    decoded, final = model.decode(model.encode(scene.pixels)), pasted(case, attempt, model.factor)
    figures = {
        **verdict(told, case.ref, case.query, classifier.sure),
        "psnr outside": psnr(attempt.pixels, scene.pixels, outside),
        "psnr outside, against the VAE": psnr(attempt.pixels, decoded, outside),
        "ssim outside": ssim(attempt.pixels, scene.pixels, outside),
        "psnr whole": psnr(attempt.pixels, scene.pixels),
        "changed outside": float(
            ((final != scene.pixels).any(1, keepdim=True) * outside).sum() / outside.sum()
        ),
    }
    if attempt.mask is not None:
        found, true = attempt.mask > 0.5, latent_mask(scene.mask) > 0.5
        both = float((found & true).sum())
        figures["iou"] = iou(found, true)
        figures["precision"] = both / max(1.0, float(found.sum()))
        figures["recall"] = both / float(true.sum())
        other = (latent_mask(scene.objects) > 0.5) & (latent_mask(scene.mask) < 0.1)
        if other.any() and not THINGS[int(scene.thing)].in_bowl:  # the other of two things, and not a bowl
            figures["spill"] = float((found & other).sum()) / float(other.sum())
    return figures


def run_case(
    case: JudgedCase,
    runs: dict[str, Contender],
    model: DiffusersDenoiser,
    hooks: Hooks,
    classifier: Judge,
) -> dict[str, Figures]:
    """All contenders on one case, in a random order, with seconds and sample-forwards."""
    rows = {}
    order = torch.randperm(len(runs), generator=torch.Generator().manual_seed(case.seed)).tolist()
    for name, run in [list(runs.items())[index] for index in order]:
        with torch.no_grad():
            attempt, cost = hooks.measure(partial(run, case))
        rows[name] = figures_of(case, attempt, model, classifier)
        rows[name] |= {"seconds": cost["seconds"], "forwards": float(cost["forwards"])}
    return rows


def due(names: list[str], index: int) -> list[str]:
    """Who tries case `index`: all but OURS and PHOTO take every third edit of a pair: of all kinds."""
    others_too = OURS[0] not in names or index // len(PAIRS) % 3 == 0
    return [name for name in names if others_too or name in (*OURS, PHOTO)]


Row = tuple[str, str, dict[str, Figures]]  # kind, pair, {contender: figures}
Make = Callable[[DiffusersDenoiser], dict[str, Contender]]


def work(
    rank: int, workers: int, name: str, dtype: str, data: Path, count: int, make: Make, queue: Any
) -> None:
    """One process, single-threaded: every `workers`-th case."""
    torch.set_num_threads(1)
    model = load_model(name, dtype=dtype)
    hooks, (classifier, _) = Hooks(model), load_judge()
    cases = cases_of(data, model.words or {}, count)
    runs = make(model)
    for index in range(rank, count, workers):
        case, names = cases[index], due(list(runs), index)
        rows = run_case(case, {name: runs[name] for name in names}, model, hooks, classifier)
        queue.put((index, (case.kind, f"{case.ref} to {case.query}", rows)))


def measure(model: str, dtype: str, data: Path, count: int, workers: int, make: Make) -> list[Row]:
    """All contenders that `make` gives on `count` cases, over some processes; in the order of the cases."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=work, args=(rank, workers, model, dtype, data, count, make, queue))
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    rows: dict[int, Row] = {}
    while len(rows) < count:
        index, row = queue.get(timeout=900)
        rows[index] = row
        if len(rows) % len(PAIRS) == 0:
            typer.echo(f"{len(rows)} of {count}", err=True)
    for process in processes:
        process.join()
    return [rows[index] for index in range(count)]


def summary(rows: list[Row], names: list[str]) -> dict[str, dict[str, Any]]:
    """{contender: {figure: mean}}, and under "success by pair" and "by kind" the means of the groups."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        done = [(kind, pair, figures[name]) for kind, pair, figures in rows if name in figures]
        spills = [row.pop("spill") for _, _, row in done if "spill" in row]
        found[name] = {"edits": len(done), **means([row for _, _, row in done])}
        if spills:
            found[name]["spill"] = round(sum(spills) / len(spills), 4)
        found[name]["success by pair"] = grouped([((pair,), row["success"]) for _, pair, row in done])
        found[name]["success by kind"] = grouped([((kind,), row["success"]) for kind, _, row in done])
        if "iou" in found[name]:
            found[name]["iou by kind"] = grouped([((kind,), row["iou"]) for kind, _, row in done])
            found[name]["iou by pair"] = grouped([((pair,), row["iou"]) for _, pair, row in done])
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The table of docs/quality.md."""
    columns = {
        "": "", "edits": "edits", "success": "success", "query over ref": "query over ref", "iou": "mask IoU",
        "precision": "precision", "recall": "recall", "psnr outside": "PSNR outside",
        "ssim outside": "SSIM outside",
        "forwards": "forwards", "seconds": "seconds",
    }  # fmt: skip
    percent = {"success", "query over ref"}
    shown = {"invert and decode": set(columns) - percent, PHOTO: {"edits"} | percent}
    decimals = {"edits": 0, "psnr outside": 1, "forwards": 0, "seconds": 1}
    rows: list[list[str]] = []
    for name, figures in found.items():
        cells = [name]
        for key in list(columns)[1:]:
            value = figures.get(key)
            if value is None or key not in shown.get(name, columns):
                cells.append("")
            elif key in percent:
                cells.append(f"{100 * value:.3g} %")
            else:
                cells.append(f"{value:.{decimals.get(key, 2)}f}")
        rows.append(cells)
    return markdown(list(columns.values()), rows)


def pair_table(figures: dict[str, Any]) -> str:
    """The model card's table: each pair, then each kind of scene."""
    rows = [
        [name, f"{100 * success:.0f} %", f"{figures[f'iou by {group}'][name]:.2f}"]
        for group in ("pair", "kind")
        for name, success in figures[f"success by {group}"].items()
    ]
    return markdown(["edits", "success", "mask IoU"], rows)


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 240,
    workers: Annotated[int, typer.Option(help="Single-threaded processes.")] = 2, dtype: str = "auto",
    pages: bool = True,
    sheet: Annotated[Path | None, typer.Option(help="Only draw 24 of the edits, to look at.")] = None,
) -> None:  # fmt: skip
    """Run every contender on every case; print the table, record the figures."""
    if sheet is not None:
        denoiser = load_model(model, dtype=dtype)
        # one less than the even distance, so that the pairs change
        edit_sheet([denoiser], cases_of(data, denoiser.words or {}, count)[:: count // 24 - 1][:24], sheet)
        return
    rows = measure(model, dtype, data, count, workers, contenders)
    found = summary(rows, list(contenders(load_model(model))))
    facts = {"model": model, "dtype": dtype, "edits": count, "judge": load_judge()[1]}
    record("quality", **facts, figures=found)
    typer.echo(table(found))
    if pages:
        write_block(PAGE, "quality", table(found))
        write_block(MODEL_CARD, "pairs", pair_table(found["diffedit"]))


if __name__ == "__main__":
    typer.run(main)
