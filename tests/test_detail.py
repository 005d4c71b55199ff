"""core/detail.py: hand cases, and what an edit gains."""

from dataclasses import replace

import torch
from torch import Tensor

from diffedit_cli.core.detail import KEPT, KEPT_IN_ROOM, kept_at, membrane, recover, unchanged
from diffedit_cli.core.diffedit import Areas, DiffEdit
from diffedit_cli.core.mask import enlarge
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import EditConfig, MaskConfig

QUICK = EditConfig(ref="horse", query="zebra", steps=6, mask=MaskConfig(samples=3, threshold=0.5))


def test_detail_is_kept_where_nothing_has_changed() -> None:
    base = torch.zeros(1, 3, 4, 4)
    edited = base.clone()
    edited[:, :, :, 2:] = 0.5
    keep = unchanged(edited, base, factor=1, kept=0.08)
    assert torch.equal(keep[..., :2], torch.ones(1, 1, 4, 2))
    assert float(keep[..., 2:].amax()) < 1e-16


def test_more_comes_back_in_the_room_than_where_the_object_was() -> None:
    found, area = torch.zeros(1, 1, 1, 5), torch.zeros(1, 1, 1, 5)
    found[..., 3], area[..., 1:] = 1, 1
    low, high = KEPT, KEPT_IN_ROOM
    assert torch.equal(kept_at(found, area, 1), torch.tensor([[[[low, high, high, low, high]]]]))
    wide = kept_at(found, area, 4)
    assert (wide[enlarge(found, 4) > 0] == low).all()
    assert (wide[..., :2, 6:10] == high).all()


def test_a_membrane_spans_what_is_known() -> None:
    """A linear surface solves Laplace's equation, so it comes back from its border alone."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(33.0), indexing="ij")
    plane = (0.02 * x - 0.03 * y + 0.1)[None, None]
    known = torch.ones(1, 1, 24, 33)
    known[..., 5:19, 6:27] = 0
    found = membrane(plane * known, known)
    assert torch.equal(found * known, plane * known)
    assert float((found - plane).abs().amax()) < 0.02
    assert torch.equal(membrane(torch.zeros(1, 2, 9, 9), torch.zeros(1, 1, 9, 9)), torch.zeros(1, 2, 9, 9))


def test_what_an_edit_left_alone_is_the_source_again() -> None:
    """An edit that changed nothing gives the source back, whatever the VAE lost and whatever its tone."""
    source = draw_noise((3, 32, 32), [1, 2]).sigmoid()
    base = source.mean((2, 3), keepdim=True).expand_as(source)
    area = torch.zeros(2, 1, 8, 8)
    area[:, :, 2:6, 2:6] = 1
    kept = kept_at(area, area, 4)
    detail = recover(base, source, base, area, kept, 4)
    assert torch.allclose(base + detail.tone + detail.keep * (source - base), source, atol=1e-6)
    shifted = (base + 0.03).clamp(0, 1)
    detail = recover(shifted, source, base, area, kept, 4)
    again = shifted + detail.tone + detail.keep * (source - base)
    assert float((again - source).abs().mean()) < 0.015 < 0.03


def test_the_latents_do_not_depend_on_it(model: DiffusersDenoiser, pixels: Tensor) -> None:
    half = torch.zeros(1, 1, 16, 16)
    half[..., 8:] = 1
    with_detail, without = (
        DiffEdit(model, pixels[:1]).edit(replace(QUICK, keep_detail=keep), [3], Areas(half))
        for keep in (True, False)
    )
    assert torch.equal(with_detail.pixels, without.pixels)
    assert without.detail is None
    assert with_detail.detail is not None
    assert 0 < float(with_detail.detail.keep.mean()) <= 1


def test_the_reconstruction_is_decoded_once(model: DiffusersDenoiser, pixels: Tensor) -> None:
    source = DiffEdit(model, pixels[:1])
    first, second = (source.edit(replace(QUICK, negative_prompt=text), [3]).detail for text in ("", "dog"))
    assert first is not None
    assert second is not None
    assert first.base is second.base


def test_an_inverted_mask_keeps_no_detail(model: DiffusersDenoiser, pixels: Tensor) -> None:
    """The whole rest is redrawn there, and outlines of the old background would show in the new one."""
    rest = replace(QUICK, mask=replace(QUICK.mask, invert=True))
    assert DiffEdit(model, pixels[:1]).edit(rest, [3]).detail is None
