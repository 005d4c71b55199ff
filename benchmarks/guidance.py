"""Every guidance variant on the same held-out scenes, with one mask and one inversion a scene.

    python -m benchmarks.guidance

Success is the judge's word (benchmarks/classifier.py). A scene has a twin: drawn from the same seed
with the query's thing in the reference's place, on the same ground and in the same light, though in a pose of
its own. Writes one line to results.jsonl and the tables of docs/guides/guidance.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from benchmarks.classifier import Judge, judge, load_judge, verdict
from benchmarks.report import Figures, markdown, means, record, write_block
from diffedit_cli.core.diffedit import DiffEdit
from diffedit_cli.models import DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig, GuidanceConfig, filled_in
from training.evaluate import Case, held_out_cases, psnr
from training.scenes import Scenes, draw_scenes, load_world
from training.sources import DATA

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "guidance.md"
STEPS = 20  # the fewest that cfg++ should have
NORMS = ("pred", "diff", "both", "cond", "token")

VARIANTS = {
    "cfg (the default)": GuidanceConfig(),
    "no guidance (1)": GuidanceConfig(scale=1.0),
    **{f"norm {norm}": GuidanceConfig(norm=norm) for norm in NORMS},
    "rescale 0.7": GuidanceConfig(rescale=0.7),
    "apg": GuidanceConfig(method="apg"),
    "cfg++": GuidanceConfig(method="cfg++"),
    "adaptive": GuidanceConfig(method="adaptive"),
    "linear-down to 1": GuidanceConfig(schedule="linear-down"),
    "cosine-down to 1": GuidanceConfig(schedule="cosine-down"),
    "linear-up from 1": GuidanceConfig(schedule="linear-up"),
    "interval 0.2:0.8": GuidanceConfig(interval="0.2:0.8"),
    "interval 0:0.5": GuidanceConfig(interval="0:0.5"),
}  # fmt: skip


def saturation(pixels: Tensor, mask: Tensor) -> float:
    """Mean of (max - min) / max over the colours, where `mask` (1 1 s s) is; 0 to 1."""
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    return float(((high - low) / high.clamp(min=1e-3) * mask).sum() / mask.sum())


def figures_of(case: Case, twin: Scenes, pixels: Tensor, classifier: Judge) -> Figures:
    """One edit against its twin. PSNR is taken where both things stand."""
    told = judge(classifier, pixels, case.scene.mask)
    shared = (case.scene.mask * twin.mask > 0.5).float()
    drift = saturation(pixels, case.scene.mask) - saturation(twin.pixels, twin.mask)
    return {
        **verdict(told, case.ref, case.query, classifier.sure),
        "psnr": psnr(pixels, twin.pixels, shared),
        "saturation drift": drift,
        "absolute drift": abs(drift),
    }


def run_case(model: DiffusersDenoiser, classifier: Judge, case: Case, twin: Scenes) -> dict[str, Figures]:
    """Every variant on one scene."""
    editor, rows = DiffEdit(model, case.scene.pixels), {}
    base = EditConfig(ref=case.ref, query=case.query, steps=STEPS)
    editor.plan(filled_in(base, model.own_defaults), [case.seed])  # map and inversion, before the counting
    for name, guidance in VARIANTS.items():
        before = model.forwards
        settings = filled_in(replace(base, guidance=guidance), model.own_defaults)
        edited = editor.edit(settings, [case.seed])
        rows[name] = figures_of(case, twin, edited.pixels, classifier)
        rows[name]["forwards"] = float(model.forwards - before)
    return rows


def twins_of(data: Path, cases: list[Case]) -> list[Scenes]:
    """Each scene once more, with the query's thing: the same dice give the same ground, light and place."""
    known, held_out = load_world(data), load_world(data, held_out=True)
    worlds = {
        "known place": (known, "panoramas"),
        "unseen photo": (known.before(held_out), "wallpapers"),
    }
    return [
        draw_scenes(world, 1, case.seed, things=[case.query], backgrounds=backgrounds)
        for case in cases
        for world, backgrounds in [worlds[case.kind]]
    ]


def table(found: dict[str, dict[str, Any]]) -> str:
    """The table of docs/guides/guidance.md."""
    head = (
        "guidance", "success", "query over ref", "PSNR to the twin", "saturation drift", "absolute",
        "forwards", "saved",
    )  # fmt: skip
    most = max(row["forwards"] for row in found.values())
    rows = [
        [
            name, f"{row['success']:.0%}", f"{row['query over ref']:.0%}", f"{row['psnr']:.1f} dB",
            f"{row['saturation drift']:+.3f}", f"{row['absolute drift']:.3f}", f"{row['forwards']:.1f}",
            f"{1 - row['forwards'] / most:.0%}",
        ]
        for name, row in found.items()
    ]  # fmt: skip
    return markdown(head, rows)


def reading(found: dict[str, dict[str, Any]], count: int) -> str:
    """What the table says, in sentences."""
    (default, plain), *others = found.items()
    groups: dict[str, list[str]] = {"more": [], "as": [], "less": []}
    for name, row in others:
        gain = row["success"] - plain["success"]
        groups["as" if abs(gain) < 1e-3 else "more" if gain > 0 else "less"].append(f"`{name}`")
    told = [f"{word} successful: {', '.join(names)}" for word, names in groups.items() if names]
    nearest = min(found, key=lambda name: found[name]["absolute drift"])
    lines = [
        f"Against {default} ({plain['success']:.0%}), where one edit is {1 / count:.0%}: {'; '.join(told)}.",
        f"Nearest to the twin's saturation is `{nearest}` ({found[nearest]['absolute drift']:.3f} off), and "
        f"the default is {plain['absolute drift']:.3f} off.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def main(
    model: Annotated[str, typer.Option("-m", "--model")] = "embedded", data: Path = DATA, count: int = 32,
    page: bool = True,
) -> None:  # fmt: skip
    """Run every variant on every scene; print the table, record the figures, write the page."""
    denoiser, (classifier, _) = load_model(model), load_judge()
    cases = held_out_cases(data, count)
    rows: list[dict[str, Figures]] = []
    for case, twin in zip(cases, twins_of(data, cases), strict=True):
        rows.append(run_case(denoiser, classifier, case, twin))
        typer.echo(f"{len(rows)} of {count}", err=True)
    found = {name: means([row[name] for row in rows]) for name in VARIANTS}
    record("guidance", model=model, edits=count, figures=found)
    typer.echo(table(found))
    if page:
        scale = filled_in(EditConfig(), denoiser.own_defaults).guidance.base_scale
        intro = f"{count} edits of held-out scenes, {STEPS} steps, model {model}, cfg at {scale:g}."
        write_block(PAGE, "guidance", f"{intro}\n\n{table(found)}\n\n{reading(found, count)}")


if __name__ == "__main__":
    typer.run(main)
