"""morph.py on a tiny real network: where a film begins and ends, and what it costs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffedit_cli.core.costs import edit_forwards
from diffedit_cli.core.diffedit import DiffEdit
from diffedit_cli.core.film import MorphFrame, morph
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import EditConfig, GuidanceConfig, Inversion, MaskConfig

QUICK = EditConfig(
    ref="horse", query="zebra", steps=6, keep_detail=False, mask=MaskConfig(samples=3, threshold=0.5)
)


def film(model: DiffusersDenoiser, pixels: Tensor, frames: int, **settings: Any) -> list[MorphFrame]:
    """The film of an edit of the first picture, in order."""
    edit = DiffEdit(model, pixels[:1]).edit(replace(QUICK, **settings), [3])
    drawn = morph(model, pixels[:1], edit, frames)
    return [frame for _, frame in sorted(drawn, key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    "guidance",
    [
        GuidanceConfig(),
        GuidanceConfig(norm="diff"),
        GuidanceConfig(norm="both"),
        GuidanceConfig(method="apg"),
        GuidanceConfig(method="cfg++"),
        GuidanceConfig(interval="0.2:0.8"),
    ],
    ids=str,
)
@pytest.mark.parametrize("inversion", ["ddim", "negative-prompt"])
def test_a_film_leads_from_the_source_to_the_edit(
    model: DiffusersDenoiser, pixels: Tensor, guidance: GuidanceConfig, inversion: Inversion
) -> None:
    config = replace(QUICK, guidance=guidance, inversion=inversion)
    shown = film(model, pixels, 6, guidance=guidance, inversion=inversion)
    assert torch.equal(shown[0].pixels, pixels[:1])
    assert torch.equal(shown[-1].pixels, DiffEdit(model, pixels[:1]).edit(config, [3]).pixels)
    assert (float(shown[0].keep.amin()), float(shown[-1].keep.amax())) == (1, 0)
    keeps = [float(frame.keep.mean()) for frame in shown]
    assert keeps == sorted(keeps, reverse=True)


def test_a_film_starts_without_a_jump(model: DiffusersDenoiser, pixels: Tensor) -> None:
    """Near weight 0 a frame is the source, even for norms that give every update the same length."""
    one = pixels[:1]
    for norm in ("none", "diff", "both"):
        edit = DiffEdit(model, one).edit(replace(QUICK, guidance=GuidanceConfig(norm=norm)), [3])
        seen = {weight: frame.pixels for weight, frame in morph(model, one, edit, 12)}
        nearest = min(weight for weight in seen if weight > 0)
        far = float((seen[1.0] - one).abs().mean())
        assert float((seen[nearest] - one).abs().mean()) < 0.5 * far


def test_a_film_costs_one_run_less_than_it_has_frames(
    model: DiffusersDenoiser, pixels: Tensor, unet_rows: list[int]
) -> None:
    edit = DiffEdit(model, pixels[:1]).edit(QUICK, [3])
    unet_rows.clear()
    seen: list[tuple[str, int, int]] = []
    list(morph(model, pixels[:1], edit, 7, lambda *step: seen.append(step)))
    assert sum(unet_rows) == 6 * edit_forwards(QUICK)["decode"]
    steps = edit_forwards(QUICK)["invert"]
    assert {(stage, total) for stage, _, total in seen} == {("frame", 6 * steps)}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == 6 * steps


def test_a_film_ends_with_the_detail_of_its_edit(model: DiffusersDenoiser, pixels: Tensor) -> None:
    one = pixels[:1]
    edit = DiffEdit(model, one).edit(replace(QUICK, keep_detail=True), [3])
    drawn = dict(morph(model, one, edit, 5))
    assert edit.detail is not None
    kept = edit.detail.keep * (one - edit.detail.base)
    assert torch.equal(drawn[1.0].pixels, (edit.pixels + edit.detail.tone + kept).clamp(0, 1))
    assert torch.equal(drawn[1.0].keep, edit.detail.keep)
    assert torch.equal(drawn[0.0].pixels, one)
