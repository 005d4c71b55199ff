"""edit.py on a tiny real network: what an edit leaves alone, what it costs, and what it refuses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import Oracle, sd_schedule
from torch import Tensor

from diffedit_cli.api import make_mask
from diffedit_cli.core.costs import edit_forwards
from diffedit_cli.core.diffedit import Areas, DiffEdit, Texts, encode_source, find_heat, recognition
from diffedit_cli.core.mask import binarise, widen
from diffedit_cli.core.schedules import draw_noise, make_steps
from diffedit_cli.errors import DiffeditError, NumericError
from diffedit_cli.images.read import load_image
from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, load_model
from diffedit_cli.settings import EditConfig, GuidanceConfig, Inversion, MaskConfig

QUICK = EditConfig(
    ref="horse", query="zebra", keep_detail=False, steps=6, mask=MaskConfig(samples=3, threshold=0.5)
)


@pytest.fixture
def half() -> Tensor:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    return mask


@pytest.fixture
def decoded(model: DiffusersDenoiser) -> Iterator[list[Tensor]]:
    """The latents that the VAE was given to decode, as it takes them."""
    seen: list[Tensor] = []
    hook = model.vae.post_quant_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    yield seen
    hook.remove()


def iou(a: Tensor, b: Tensor) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


PAPER = EditConfig(ref="horse", query="zebra", steps=25, strength=1.0)


@pytest.mark.parametrize(
    ("config", "search", "wanted"),
    [
        (PAPER, True, (18, 25, 50)),
        (replace(PAPER, reuse=2), True, (18, 13, 38)),
        (replace(PAPER, reuse=2, strength=0.8), True, (18, 10, 30)),
        (replace(PAPER, reuse=4, guidance=GuidanceConfig(interval="0.2:0.8")), True, (18, 7, 29)),
        (replace(PAPER, guidance=GuidanceConfig(scale=1)), True, (18, 25, 25)),
        (replace(PAPER, mask=MaskConfig(samples=10, evidence=False)), True, (20, 25, 50)),
        (replace(PAPER, ref=""), True, (12, 25, 50)),  # the reference is the empty text
        (replace(PAPER, query=""), True, (12, 25, 50)),
        (replace(PAPER, strength=0.29, steps=100), False, (0, 29, 58)),
        (replace(PAPER, strength=0.01), False, (0, 1, 2)),
        (replace(PAPER, inversion="noise", steps=10, mask=MaskConfig(samples=1)), True, (3, 0, 20)),
        (replace(QUICK, guidance=GuidanceConfig(schedule="linear-down"), strength=1), True, (9, 6, 11)),
    ],
)
def test_an_edit_costs_what_is_counted_and_encodes_once(
    model: DiffusersDenoiser,
    pixels: Tensor,
    half: Tensor,
    unet_rows: list[int],
    encodes: list[int],
    config: EditConfig,
    search: bool,
    wanted: tuple[int, int, int],
) -> None:
    """diffusers takes 140 to 200 sample-forwards and 11 encodes for the first of these."""
    told: list[tuple[str, int, int]] = []
    counted = edit_forwards(config, search=search)
    assert tuple(counted.values()) == wanted
    before = model.forwards
    mask = None if search else half
    DiffEdit(model, pixels[:1]).edit(config, [3], Areas(mask), lambda *now: told.append(now))
    assert sum(unet_rows) == model.forwards - before == sum(wanted)
    assert sum(wanted) <= 95
    assert encodes == [1]
    for stage, forwards in counted.items():
        done = [now for name, now, _ in told if name == stage]
        total = {total for name, _, total in told if name == stage}
        assert bool(done) == bool(forwards)
        if done:
            assert (done[0], {done[-1]}) == (0, total)
            assert done == sorted(done)


def test_outside_the_mask_the_latents_end_as_the_sources(
    model: DiffusersDenoiser, pixels: Tensor, half: Tensor, decoded: list[Tensor]
) -> None:
    """diffusers blends with the level before and ends noisy (fault 1)."""
    x0 = model.encode(pixels) / model.vae.config.scaling_factor
    for config in (
        QUICK,
        replace(QUICK, inversion="noise"),
        replace(QUICK, guidance=GuidanceConfig(norm="both")),
    ):
        DiffEdit(model, pixels).edit(config, [3, 4], Areas(half.expand(2, -1, -1, -1)))
        assert torch.equal(decoded[-1][..., 8:], x0[..., 8:])
        assert (decoded[-1][..., :8] - x0[..., :8]).abs().mean() > 0.01


def test_an_empty_mask_gives_the_vaes_round_trip(model: DiffusersDenoiser, pixels: Tensor) -> None:
    result = DiffEdit(model, pixels).edit(QUICK, [3, 4], Areas(torch.zeros(2, 1, 16, 16)))
    assert torch.equal(result.pixels, model.decode(model.encode(pixels)))


def test_nothing_that_is_handed_in_is_changed(model: DiffusersDenoiser, pixels: Tensor, half: Tensor) -> None:
    """diffusers writes into the caller's mask (fault 7)."""
    given = [pixels[:1].clone(), half / 3, half.flip(-1) / 2, half.flip(-2) / 2]
    before = [x.clone() for x in given]
    DiffEdit(model, given[0]).edit(QUICK, [3], Areas(*given[1:]))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_a_users_mask_replaces_the_search(model: DiffusersDenoiser, pixels: Tensor, half: Tensor) -> None:
    result = DiffEdit(model, pixels[:1]).edit(
        replace(QUICK, ref="zebra"), [3], Areas(half)
    )  # equal texts are allowed
    assert result.plan.heat is None
    assert torch.equal(result.plan.found, half)


def test_there_is_room_round_a_found_mask_alone(
    model: DiffusersDenoiser, pixels: Tensor, half: Tensor, decoded: list[Tensor]
) -> None:
    x0 = model.encode(pixels[:1]) / model.vae.config.scaling_factor
    config = replace(QUICK, room=0.4, mask=replace(QUICK.mask, threshold=0.8))
    editor = DiffEdit(model, pixels[:1])
    result = editor.edit(config, [3])
    assert torch.equal(result.plan.area, widen(result.plan.found, 0.4))
    assert result.plan.found.sum() < result.plan.area.sum() < result.plan.area.numel()
    changed = (decoded[-1] != x0).any(1, keepdim=True).float()
    assert torch.equal(changed, result.plan.area)

    tight = editor.edit(replace(config, room=0.0), [3])
    assert torch.equal(tight.plan.area, tight.plan.found)
    assert torch.equal(tight.plan.found, result.plan.found)
    rest = editor.edit(replace(config, mask=replace(config.mask, invert=True)), [3])
    assert torch.equal(rest.plan.area, 1 - result.plan.found)  # all but the thing, to its outline
    given = editor.edit(config, [3], Areas(half, subtract=half.flip(-2).mT))
    assert torch.equal(given.plan.area, half)
    kept = editor.edit(config, [3], Areas(subtract=half))
    changed = (decoded[-1] != x0).any(1, keepdim=True).float()
    assert torch.equal(changed, kept.plan.area * (1 - half))


def test_areas_are_added_and_kept_out(
    model: DiffusersDenoiser, pixels: Tensor, half: Tensor, decoded: list[Tensor]
) -> None:
    x0 = model.encode(pixels[:1]) / model.vae.config.scaling_factor
    result = DiffEdit(model, pixels[:1]).edit(
        QUICK, [3], Areas(torch.zeros_like(half), half, half.flip(-2).mT)
    )
    changed = (decoded[-1] != x0).any(1, keepdim=True).float()
    assert torch.equal(changed, half * (1 - half.flip(-2).mT))
    assert not result.plan.found.any()


def test_the_mask_is_found_as_in_step_1_alone(model: DiffusersDenoiser, pixels: Tensor) -> None:
    result = DiffEdit(model, pixels).edit(QUICK, [3, 4])
    heat = find_heat(model, pixels, model.encode(pixels), Texts.embed(model, QUICK), QUICK, [3, 4])
    assert result.plan.heat is not None
    assert torch.allclose(result.plan.heat, heat, atol=1e-6)
    assert torch.equal(result.plan.found, binarise(heat, QUICK.mask))
    assert 0 <= heat.amin() < heat.amax() <= 1


def test_guidance_and_inversion_do_not_touch_the_mask(model: DiffusersDenoiser, pixels: Tensor) -> None:
    """In diffusers' mask half of the forwards go into terms that cancel (fault 3)."""
    results = [
        DiffEdit(model, pixels[:1]).edit(replace(QUICK, **changes), [3])
        for changes in (
            {},
            {"guidance": GuidanceConfig(scale=1)},
            {"inversion": "noise", "negative_prompt": "fox"},
            {"inversion": "negative-prompt"},
        )
    ]
    assert all(torch.equal(result.plan.found, results[0].plan.found) for result in results)
    assert not torch.allclose(results[0].pixels, results[1].pixels, atol=1e-3)


@pytest.mark.parametrize("norm", ["none", "both"])
def test_pictures_of_a_batch_do_not_touch_each_other(
    model: DiffusersDenoiser, pixels: Tensor, norm: Any
) -> None:
    """In diffusers the mask depends on the neighbours, and prompts and pictures mix (faults 5 and 8)."""
    mask = replace(QUICK.mask, threshold=0.8)
    config = replace(QUICK, guidance=GuidanceConfig(norm=norm), mask=mask)
    together = DiffEdit(model, pixels).edit(config, [3, 4])
    assert iou(together.plan.found[:1], together.plan.found[1:]) < 0.9
    for i, seed in enumerate([3, 4]):
        alone = DiffEdit(model, pixels[i : i + 1]).edit(config, [seed])
        assert iou(alone.plan.found, together.plan.found[i : i + 1]) >= 0.95
        assert (alone.pixels - together.pixels[i : i + 1]).abs().max() <= 3 / 255


def test_texts_go_where_they_belong(model: DiffusersDenoiser) -> None:
    """diffusers swaps the two embeddings in its mask (fault 2)."""

    def is_text(embeds: Any, prompt: str) -> bool:
        return torch.allclose(embeds.tokens, model.embed([prompt]).tokens, atol=1e-5)

    texts = Texts.embed(model, replace(QUICK, negative_prompt="fox"))
    assert is_text(texts.ref, "horse")
    assert is_text(texts.query, "zebra")
    assert is_text(texts.negative, "fox")
    assert is_text(texts.source, "")
    for one, prompt in zip(texts.compared(QUICK), ["horse", "zebra", ""], strict=True):
        assert is_text(one, prompt)
    texts = Texts.embed(model, replace(QUICK, inversion="negative-prompt"))
    assert is_text(texts.negative, "horse")
    assert is_text(texts.source, "horse")
    assert is_text(texts.empty, "")


@pytest.mark.parametrize("inversion", ["ddim", "negative-prompt", "noise"])
def test_the_source_has_a_level_for_each_step_and_ends_clean(
    model: DiffusersDenoiser, pixels: Tensor, inversion: Inversion
) -> None:
    config = replace(QUICK, inversion=inversion, strength=0.5)
    steps, x0 = make_steps(model.schedule, config.steps, config.strength), model.encode(pixels)
    source = encode_source(model, x0, steps, Texts.embed(model, config), config, [3, 4])
    assert source.latents.shape == (4, 2, 4, 16, 16)
    assert torch.equal(source.latents[-1], x0)
    if inversion == "noise":
        alpha, sigma = steps.level(0)
        wanted = alpha * x0 + sigma * draw_noise((4, 16, 16), [3, 4])
        assert torch.allclose(source.latents[0], wanted)


def test_only_noise_inversion_depends_on_the_seed(
    model: DiffusersDenoiser, pixels: Tensor, half: Tensor
) -> None:
    for inversion, depends in (("ddim", False), ("negative-prompt", False), ("noise", True)):
        config = replace(QUICK, inversion=inversion)
        a, b = (DiffEdit(model, pixels[:1]).edit(config, [seed], Areas(half)).pixels for seed in (3, 4))
        assert torch.equal(a, b) != depends


@pytest.mark.parametrize("g", [1.0, 7.5, 30.0])
def test_negative_prompt_inversion_to_the_same_text_changes_nothing(
    model: DiffusersDenoiser, pixels: Tensor, g: float
) -> None:
    """Exactly so where eps does not depend on the step; a real network is merely left unguided."""
    guidance, same = GuidanceConfig(scale=g), EditConfig(ref="5", query="5", inversion="negative-prompt")
    oracle = Oracle(lambda x, alphas, text: text * pattern, sd_schedule(to_one=True))
    pattern = draw_noise((3, 32, 32), [9])
    whole = torch.ones(1, 1, 32, 32)
    result = DiffEdit(oracle, pixels[:1]).edit(replace(same, guidance=guidance), [3], Areas(whole))
    assert (result.pixels - pixels[:1]).abs().max() < 1e-4
    ddim = replace(same, guidance=guidance, inversion="ddim")
    moved = DiffEdit(oracle, pixels[:1]).edit(ddim, [3], Areas(whole))
    assert (moved.pixels - pixels[:1]).abs().max() > 0.1

    real = replace(QUICK, query="horse", inversion="negative-prompt", steps=10)
    whole = torch.ones(1, 1, 16, 16)
    editor = DiffEdit(model, pixels[:1])
    guided, plain = (
        editor.edit(replace(real, guidance=GuidanceConfig(scale=scale)), [3], Areas(whole)).pixels
        for scale in (g, 1.0)
    )
    assert (guided - plain).abs().max() < 1 / 255


@pytest.mark.parametrize(
    ("ref", "query"), [("horse", "horse"), ("", ""), ("horse", "Horse"), ("a  horse", " a horse")]
)
def test_texts_that_do_not_differ_are_refused(
    model: DiffusersDenoiser, pixels: Tensor, ref: str, query: str
) -> None:
    """diffusers divides 0 by 0 and masks everything (fault 4)."""
    with pytest.raises(DiffeditError, match="nothing would change") as caught:
        DiffEdit(model, pixels[:1]).edit(replace(QUICK, ref=ref, query=query), [3])
    assert caught.value.hint


@pytest.mark.parametrize("seed", [3, 4])
def test_the_same_seed_gives_the_same_edit(model: DiffusersDenoiser, pixels: Tensor, seed: int) -> None:
    a, b = (DiffEdit(model, pixels[:1]).edit(QUICK, [seed]) for _ in range(2))
    assert torch.equal(a.pixels, b.pixels)
    assert a.pixels.shape == (1, 3, 32, 32)
    assert bool(((a.pixels >= 0) & (a.pixels <= 1)).all())


@pytest.fixture
def broken(checkpoint: Path) -> DiffusersDenoiser:
    """A copy of the tiny network that a test may break."""
    return load_model(checkpoint, device="cpu", dtype="float32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_numbers_are_refused(
    broken: DiffusersDenoiser, pixels: Tensor, half: Tensor, bad: float
) -> None:
    """diffusers passes them on as a black picture."""
    spoilt = pixels[:1].clone()
    spoilt[0, 0, 0, 0] = bad
    with pytest.raises(NumericError, match="encoded picture"):
        DiffEdit(broken, spoilt).edit(QUICK, [3])
    for mask, words in (
        (None, "difference map"),
        (half, "predicted picture"),
        (0 * half, "predicted picture"),
    ):
        broken.unet.conv_out.bias[1] = bad
        with pytest.raises(NumericError, match=words):
            DiffEdit(broken, pixels[:1]).edit(QUICK, [3], Areas(mask))
    broken.unet.conv_out.bias[1] = 0
    broken.vae.decoder.conv_out.bias[1] = float("nan")
    with pytest.raises(NumericError, match="decoded picture"):
        DiffEdit(broken, pixels[:1]).edit(QUICK, [3], Areas(half))


@pytest.mark.parametrize(
    "guidance",
    [
        GuidanceConfig(method="apg"),
        GuidanceConfig(method="cfg++"),
        GuidanceConfig(method="adaptive"),
        GuidanceConfig(norm="pred"),
        GuidanceConfig(norm="diff", schedule="linear-down", end=0),
        GuidanceConfig(rescale=0.7, interval="0.2:0.8"),
    ],
)
def test_every_guidance_edits_inside_the_mask_alone(
    model: DiffusersDenoiser,
    pixels: Tensor,
    half: Tensor,
    decoded: list[Tensor],
    unet_rows: list[int],
    guidance: GuidanceConfig,
) -> None:
    config = replace(QUICK, guidance=guidance)
    plain = DiffEdit(model, pixels[:1]).edit(QUICK, [3], Areas(half))
    unet_rows.clear()
    result = DiffEdit(model, pixels[:1]).edit(config, [3], Areas(half))
    assert torch.equal(decoded[0][..., 8:], decoded[1][..., 8:])
    assert not torch.equal(plain.pixels, result.pixels)
    assert sum(unet_rows) <= sum(edit_forwards(config, search=False).values())


def test_the_embedded_models_mask_lies_on_the_horse() -> None:
    """Loose on purpose: the weights may change. The horse fills (37, 80, 180, 178) of 224 x 224 pixels."""
    picture = load_image(EMBEDDED.parents[1] / "examples/horse_park.jpg")
    found = make_mask(load_model(device="cpu"), picture, EditConfig(ref="horse", query="zebra", seed=1)).mask
    inside = sum(found.crop((30, 70, 190, 190)).tobytes())
    assert inside > 0.7 * sum(found.tobytes())
    assert inside > 0.2 * 255 * 160 * 120


def test_a_reference_that_tells_the_noise_is_recognised() -> None:
    """By hand: gain and reach summed over the mask alone."""
    shown = torch.zeros(3, 3, 2, 2)
    shown[0, 1], shown[0, 2] = torch.tensor([[3.0, 1.0], [9.0, 9.0]]), torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    shown[1, 1] = -1.0
    shown[1, 2] = 4.0
    shown[2, 1:] = torch.tensor([3.0, 2.0])[:, None, None]
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).expand(3, 1, 2, 2)
    assert recognition(shown, mask).tolist() == [1.0, -0.25, 1.0]


def test_what_is_recognised_costs_no_forward(
    model: DiffusersDenoiser, pixels: Tensor, half: Tensor, unet_rows: list[int]
) -> None:
    source = DiffEdit(model, pixels)
    plan = source.plan(QUICK, [3, 4])
    assert plan.recognised is not None
    assert plan.recognised.shape == (2,)
    assert sum(unet_rows) == 2 * sum(edit_forwards(QUICK)[stage] for stage in ("mask", "invert"))
    assert source.plan(QUICK, [3, 4], Areas(half.expand(2, -1, -1, -1))).recognised is None
