"""`diffedit remove` on composed scenes whose true background is known.

    python -m training sources && python -m benchmarks.remove --dtype bfloat16 --count 100

Each held-out scene is drawn twice from one seed, with the object and without it and its shadow: the second
is the truth. Beside `remove`: the same with the scene's exact mask; the same mask noised and redrawn as
`edit --inversion noise` does; and the smooth filling alone, with nothing drawn. A scene that is refused
counts as unchanged and not gone. The scenes without the object, and those with it under another word, say
how often the search is refused where it should be.
Writes one line to results.jsonl and the table of docs/quality.md.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image, ImageFilter
from torch import Tensor

from benchmarks.classifier import WORDS, Judge, judge, load_judge
from benchmarks.quality import KINDS, NEIGHBOURS, PAGE
from benchmarks.report import Figures, markdown, means, record, write_block
from benchmarks.zoom import as_pixels
from diffedit_cli import DiffeditError, EditConfig, Picture, RemoveConfig, edit_image, remove_object
from diffedit_cli.core.fill import bridge
from diffedit_cli.images import canvas, paste
from diffedit_cli.images.canvas import pixels_to_image
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.removal import FAINT
from training.evaluate import psnr
from training.scenes import World, draw_scenes, load_world, save_sheet
from training.sources import DATA
from training.train import HELD_OUT_SEED
from training.words import PLACES, parse

SEED = HELD_OUT_SEED + 120_000
THINGS = [word for word in WORDS if not word.startswith("bowl")]  # of a bowl only the fruit is masked
PAINTED = 6  # pixels of 128 by which a mask painted by hand is wider than the object
GONE = 0.5  # the judge's probability of the object below which it is gone
CONTENDERS = ("remove", "remove, true mask", "redrawn from noise", "smooth filling", "nothing done", "truth")


@dataclass
class Case:
    """A scene with the object, the same without it, both (1 3 s s), and the object's alpha (1 1 s s)."""

    pixels: Tensor
    truth: Tensor
    mask: Tensor
    ref: str
    other: str  # that is not in the scene
    kind: str
    seed: int

    def picture(self, pixels: Tensor) -> Picture:
        return Picture(pixels_to_image(pixels), None, None, None, "scene", "")


def noun_of(word: str) -> str:
    """`white horse` is a horse."""
    return word.split()[-1]


def without(world: World, word: str) -> World:
    """The same world in which a thing is invisible, so that nothing else of a scene changes."""
    cutouts = world.cutouts.clone()
    cutouts[world.thing_of == parse(word)[0]] = 0
    return replace(world, cutouts=cutouts)


def cases_of(data: Path, words: dict[str, list[str]], count: int, offset: int) -> Iterator[Case]:
    """`count` scenes over THINGS, a quarter of each of quality.py's kinds."""
    world, held_out = load_world(data), load_world(data, held_out=True)
    world = world.at([index for index, place in enumerate(PLACES) if place.word in words["places"]])
    worlds = {
        "known place": (world, "panoramas"),
        "unseen photo": (world.before(held_out), "wallpapers"),
        "two things": (world, "panoramas"),
        "unseen cut-out": (held_out, "panoramas"),
    }
    for index in range(count):
        ref, kind = THINGS[index % len(THINGS)], KINDS[index % len(KINDS)]
        source, backgrounds = worlds[kind]
        beside = next(word for word in NEIGHBOURS if word != ref) if kind == "two things" else None
        seed = SEED + offset + index
        draw = partial(draw_scenes, batch=1, seed=seed, things=[ref], beside=beside, backgrounds=backgrounds)
        scene, truth = draw(source), draw(without(source, ref)).pixels
        absent = [word for word in THINGS if noun_of(word) not in (noun_of(ref), beside)]
        other = absent[7 * index % len(absent)]
        yield Case(scene.pixels, truth, scene.mask, ref, other, kind, seed)


def attempts(model: DiffusersDenoiser, case: Case) -> dict[str, tuple[Image.Image, Image.Image, float]]:
    """Each contender's picture, the mask that it is measured in, and its seconds; those that use the found
    mask measure in it. Without "remove" where that is refused."""
    picture, config = case.picture(case.pixels), RemoveConfig(ref=case.ref, seed=case.seed)
    true = pixels_to_image(case.mask.expand(1, 3, -1, -1)).convert("L")
    done: dict[str, tuple[Image.Image, Image.Image, float]] = {}
    start = time.perf_counter()
    try:
        found = remove_object(model, picture, config)
        done["remove"] = found.image, found.mask, time.perf_counter() - start
        mask = found.mask
    except DiffeditError:
        mask = with_room(true)
    given = remove_object(model, picture, config, mask=with_room(true))
    done["remove, true mask"] = given.image, given.mask, given.run.seconds
    noised = EditConfig(inversion="noise", seed=case.seed)
    redrawn = edit_image(model, picture, noised, mask=mask)
    done["redrawn from noise"] = redrawn.image, mask, redrawn.run.seconds
    fit = canvas.fit(mask.size, model.size, model.multiple)
    smooth = bridge(case.pixels, canvas.mask_to_cells(mask, fit, 1))
    done["smooth filling"] = paste.paste(picture, smooth, mask, fit), mask, 0.0
    done["nothing done"] = picture.rgb, mask, 0.0
    done["truth"] = case.picture(case.truth).rgb, mask, 0.0
    return done


def with_room(true: Image.Image) -> Image.Image:
    """The true outline (mode L) with a margin for its rim and its shadow, as a user would paint it."""
    return true.point(lambda level: 255 * (level > 25)).filter(ImageFilter.MaxFilter(2 * PAINTED + 1))


def figures_of(case: Case, image: Image.Image, mask: Image.Image, classifier: Judge) -> Figures:
    """Gone by the judge; PSNR against the truth in the mask; the object's share that the mask left out."""
    pixels, inside = as_pixels(image), (as_pixels(mask) > 0).float()
    told = judge(classifier, pixels, case.mask)
    noun = noun_of(case.ref)
    left = sum(chance for word, chance in told.items() if word == noun or word.endswith(f" {noun}"))
    return {
        "gone": float(left < GONE),
        "psnr": psnr(pixels, case.truth, inside),
        "left out": float((case.mask * (1 - inside)).sum() / case.mask.sum()),
    }


def is_refused(model: DiffusersDenoiser, case: Case, pixels: Tensor, ref: str) -> bool:
    """Whether the removal of something that is not there is refused."""
    try:
        remove_object(model, case.picture(pixels), RemoveConfig(ref=ref, seed=case.seed, steps=1))
    except DiffeditError:
        return True
    return False


def block(found: dict[str, Figures], by_kind: dict[str, Figures], count: int) -> str:
    """The table of docs/quality.md, and what stands below it."""
    head = "", "gone", "PSNR in the mask", "seconds"
    rows = [
        (
            name,
            f"{row['gone']:.0%}",
            f"{row['psnr']:.1f}" if name != "truth" else "",
            f"{row['seconds']:.1f}" if row["seconds"] else "",
        )
        for name, row in found.items()
    ]
    refused = [f"{count * found[name]['refused']:.0f}" for name in ("remove", "truth", "nothing done")]
    kinds = ", ".join(f"{kind} {row['gone']:.0%}" for kind, row in by_kind.items())
    return (
        f"{markdown(head, rows)}\n\nGone by kind of scene: {kinds}. Refused: {refused[0]} of {count} scenes, "
        f"{refused[1]} of the same without the object, and {refused[2]} under the word for another object."
    )


def run_case(model: DiffusersDenoiser, classifier: Judge, case: Case) -> tuple[dict[str, Figures], Tensor]:
    """Each contender's figures, and the scene, its mask, the result and the truth side by side (4 3 s s)."""
    done, rows = attempts(model, case), {}
    refused = "remove" not in done
    done.setdefault("remove", done["nothing done"])
    for name in CONTENDERS:
        image, mask, seconds = done[name]
        rows[name] = figures_of(case, image, mask, classifier) | {"seconds": seconds}
    if refused:
        rows["remove"]["gone"] = 0.0
    rows["remove"]["refused"] = float(refused)
    rows["truth"]["refused"] = float(is_refused(model, case, case.truth, case.ref))
    rows["nothing done"]["refused"] = float(is_refused(model, case, case.pixels, case.other))
    pictures = [done[name][0] for name in ("nothing done", "remove", "truth")]
    pictures.insert(1, Image.new("L", pictures[0].size) if refused else done["remove"][1])
    return rows, torch.cat([as_pixels(one.convert("RGB")) for one in pictures])


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 100,
    dtype: str = "auto", page: bool = True,
    offset: Annotated[int, typer.Option(help="Added to the seeds: other scenes, to choose settings on.")] = 0,
    sheet: Annotated[Path | None, typer.Option(help="Also draw 24 of them, at even distances.")] = None,
) -> None:  # fmt: skip
    """Every contender on `count` scenes: print the table, record the figures, write the page."""
    denoiser, (classifier, _) = load_model(model, dtype=dtype), load_judge()
    rows: list[dict[str, Figures]] = []
    kinds: list[str] = []
    shown: list[Tensor] = []
    with torch.no_grad():
        for index, case in enumerate(cases_of(data, denoiser.words or {}, count, offset)):
            figures, pictures = run_case(denoiser, classifier, case)
            rows.append(figures)
            kinds.append(case.kind)
            if index * 24 // count >= len(shown):
                shown.append(pictures)
            if index % 10 == 9:
                typer.echo(f"{index + 1} of {count}", err=True)
    found = {name: means([row[name] for row in rows]) for name in CONTENDERS}
    by_kind = {
        kind: means([row["remove"] for row, one in zip(rows, kinds, strict=True) if one == kind])
        for kind in KINDS
    }
    facts = {"model": model, "dtype": dtype, "scenes": count, "offset": offset, "faint": FAINT}
    record("remove", **facts, figures=found, by_kind=by_kind)
    text = block(found, by_kind, count)
    typer.echo(text)
    if sheet is not None:
        save_sheet(torch.cat(shown), sheet, columns=12)
    if page:
        write_block(PAGE, "remove", text)


if __name__ == "__main__":
    typer.run(main)
