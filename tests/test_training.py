"""training/: each stage runs for a few steps on tiny synthetic sources, and does what its docstring says."""

import contextlib
import json
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import OpenEXR
import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.classifier import Judge, chances, examine
from diffedit_cli.core.types import Steps
from diffedit_cli.models import EMBEDDED, load_model
from diffedit_cli.models.single_file import scheduler
from training.classifier import Classifier, through_vae, train_classifier
from training.evaluate import evaluate, held_out_cases, held_out_loss, iou, psnr
from training.examples import Example, draw_examples
from training.export import export, mean
from training.reward import (
    critic_words,
    draw_pair,
    heat_loss,
    kind_of,
    reward_loss,
    thinned,
    train_critic,
)
from training.scenes import (
    WALLPAPER_HORIZON,
    World,
    draw_scenes,
    fill_holes,
    latent_mask,
    load_world,
    paint,
    save_sheet,
    tone_mapped,
)
from training.sources import pack, save_panorama
from training.tokenizer import TOKENS, load_tokenizer, write_tokenizer
from training.train import (
    HELD_OUT_SEED,
    Ema,
    Job,
    Optimizer,
    Peers,
    Pool,
    Settings,
    crops_round,
    debiased_weights,
    fresh_seeds,
    learning_rate,
    load_text_to_image,
    load_unet,
    made_ready,
    new_text_encoder,
    new_unet,
    new_vae,
    random_crops,
    read_unet,
    run_job,
    vae_loss,
    with_weights_of,
    with_words_of,
)
from training.words import (
    BACKDROPS,
    COLOURS,
    HELD_OUT_PANORAMAS,
    NOTHING,
    PLACES,
    THINGS,
    caption,
    caption_words,
    parse,
    with_article,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every source file that training reads, tiny: flat panoramas, one ellipse for each cut-out."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "panoramas").mkdir()
    for name in [*(place.panorama for place in PLACES), *BACKDROPS, *HELD_OUT_PANORAMAS]:
        np.save(root / "panoramas" / f"{name}.npy", rng.uniform(0.2, 0.5, (64, 128, 3)).astype(np.float16))
    for thing in THINGS:
        for photo in thing.photos + thing.held_out:
            path = root / "stamps" / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGBA", (60, 40))
            ImageDraw.Draw(image).ellipse((5, 5, 54, 34), fill=(200, 60, 40, 255))
            image.save(path)
    (root / "wallpapers").mkdir()
    for name in WALLPAPER_HORIZON:
        Image.new("RGB", (80, 50), (90, 140, 60)).save(root / "wallpapers" / f"{name}.jpg")
    return root


@pytest.fixture(scope="module")
def world(data: Path) -> World:
    return load_world(data)


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


# ---------------------------------------------------------------- scenes


def test_a_scene_depends_on_its_seed_alone(world: World) -> None:
    first, again, other = (draw_scenes(world, 3, seed, size=64) for seed in (5, 5, 6))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.pixels, other.pixels)


def test_scenes_hold_what_their_words_say(world: World) -> None:
    scenes = draw_scenes(world, 64, 0, size=32)
    assert scenes.pixels.shape == (64, 3, 32, 32)
    assert 0 <= scenes.pixels.min() <= scenes.pixels.max() <= 1
    covered = scenes.mask.amax((1, 2, 3)) > 0.5
    assert torch.equal(covered, scenes.thing != NOTHING)
    assert (scenes.thing == NOTHING).any()  # an empty place
    assert (scenes.second != NOTHING).any()  # a pair
    assert not ((scenes.second == scenes.thing) & (scenes.thing != NOTHING)).any()


def test_the_mask_is_where_the_object_is(world: World) -> None:
    """The ellipses are red, the panoramas grey: outside mask and shadow no pixel is red."""
    scenes = draw_scenes(world, 4, 1, size=64, things=["horse"])
    redness = scenes.pixels[:, 0] - scenes.pixels[:, 1]
    inside, outside = scenes.mask[:, 0] > 0.99, scenes.mask[:, 0] == 0
    assert redness[inside].min() > 0.15
    assert redness[outside].mean().abs() < 0.05
    assert torch.allclose(latent_mask(scenes.mask).mean(), scenes.mask.mean(), atol=1e-5)


def test_chosen_things_cycle_and_never_come_in_pairs(world: World) -> None:
    scenes = draw_scenes(world, 4, 1, size=32, things=["zebra", "apple"])
    words = [THINGS[index].word for index in scenes.thing.tolist()]
    assert words == ["zebra", "apple", "zebra", "apple"]
    assert (scenes.second == NOTHING).all()


def test_a_thing_can_be_asked_for_beside_another(world: World) -> None:
    alone = draw_scenes(world, 4, 1, size=64, things=["zebra"])
    both = draw_scenes(world, 4, 1, size=64, things=["zebra"], beside="apple")
    assert {THINGS[index].word for index in both.second.tolist()} == {"apple"}
    assert (both.thing == alone.thing).all()
    other = both.objects - both.mask
    assert (other > -1e-6).all()
    assert (other.amax((1, 2, 3)) > 0.9).all()


def test_paint_shows_its_colour_and_keeps_light_and_dark(world: World) -> None:
    names = ["blue car", "white car", "black car", "car"]
    scenes = draw_scenes(world, 4, 2, size=64, things=names)
    inside = (scenes.mask > 0.99).float()
    blue, white, black, bare = ((scenes.pixels * inside).sum((2, 3)) / inside.sum((2, 3))).tolist()
    assert blue[2] > blue[0] + 0.1  # the ellipses are red
    assert bare[0] > bare[2] + 0.1
    assert min(white) > max(black) + 0.2
    assert scenes.colour[3] == NOTHING
    grey = torch.tensor([0.2, 0.4]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    painted = paint(grey, torch.ones(1, 1, 1, 2), torch.tensor([list(COLOURS).index("red")]))
    assert painted[0, 0, 0, 1] > painted[0, 0, 0, 0]


def test_training_scenes_are_painted_where_a_thing_comes_in_colours(world: World) -> None:
    scenes = draw_scenes(world, 256, 3, size=16)
    known = (scenes.thing != NOTHING) & (scenes.colour != NOTHING)
    assert known.any()
    for thing, colour in zip(scenes.thing[known].tolist(), scenes.colour[known].tolist(), strict=True):
        assert list(COLOURS)[colour] in THINGS[thing].colours
    assert (draw_scenes(world, 64, 3, size=16, painted=1e-9).colour == NOTHING).all()


def test_a_bowl_of_fruit_names_the_fruit_and_not_the_bowl(world: World) -> None:
    scenes = draw_scenes(world, 4, 5, size=64, things=["bowl of apples"])
    bowl = scenes.objects - scenes.mask
    assert (bowl > -1e-6).all()
    assert (bowl.mean((1, 2, 3)) > 0.2 * scenes.mask.mean((1, 2, 3))).all()
    fruit = (scenes.mask > 0.99).expand(-1, 3, -1, -1)
    redness = (scenes.pixels[:, 0] - scenes.pixels[:, 1])[:, None].expand(-1, 3, -1, -1)
    assert redness[fruit].mean() > 0.1


def test_held_out_worlds_have_wallpapers_and_second_photos(data: Path, world: World) -> None:
    held_out = load_world(data, held_out=True)
    assert set(held_out.wallpapers) == set(WALLPAPER_HORIZON)
    assert not world.wallpapers
    assert len(held_out.panoramas) == len(HELD_OUT_PANORAMAS)
    scenes = draw_scenes(held_out, 2, 3, size=32, things=["horse"], backgrounds="wallpapers")
    assert (scenes.place == NOTHING).all()
    assert (draw_scenes(held_out, 2, 3, size=32, things=["horse"]).place == NOTHING).all()


def test_the_vae_sees_backdrops_that_have_no_name(data: Path, world: World) -> None:
    wide = load_world(data, backdrops=True)
    assert len(wide.panoramas) == len(PLACES) + len(BACKDROPS)
    assert (draw_scenes(world, 64, 1, size=32).place != NOTHING).all()
    nameless = (draw_scenes(wide, 256, 1, size=32).place == NOTHING).float().mean()
    total = sum(BACKDROPS.values()) + sum(place.share for place in PLACES)
    assert nameless == pytest.approx(sum(BACKDROPS.values()) / total, abs=0.1)
    assert not set(BACKDROPS) & set(HELD_OUT_PANORAMAS)


def test_the_picture_of_a_larger_panorama_is_averaged(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).uniform(0, 50, (8, 16, 3)).astype(np.float32)
    OpenEXR.File({"type": OpenEXR.scanlineimage}, {"RGB": rgb}).write(str(tmp_path / "a.exr"))
    for height, expected in ((8, rgb), (4, rgb.reshape(4, 2, 8, 2, 3).mean((1, 3)))):
        save_panorama(tmp_path / "a.exr", tmp_path / "a.npy", height)
        np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, rtol=1e-3)


def test_tone_mapping_mends_the_codecs_ringing() -> None:
    linear = np.full((32, 80, 3), 0.3, np.float32)
    linear[10, 20] = -0.5  # a hole in a dark place: filled from its neighbours
    mapped = tone_mapped(linear)
    assert mapped.shape == (3, 3, 32, 80 + 128)
    assert mapped.amax() - mapped.amin() < 0.5
    assert torch.allclose(mapped[1, :, 10, 20 + 64], mapped[1, :, 0, 64], atol=1e-4)


def test_holes_are_filled_from_known_neighbours() -> None:
    picture = torch.full((1, 3, 9, 9), 0.25)
    holes = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    holes[..., 2:7, 2:7] = True
    broken = torch.where(holes, torch.tensor(-9.0), picture)
    assert torch.allclose(fill_holes(broken, holes), picture, atol=1e-6)


def test_examples_are_files_of_the_size_asked_for(data: Path, tmp_path: Path) -> None:
    wide = Example("wide", "horse", "dune", 1, size=48, aspect=1.5)
    place = Example("place", "fox", "park", 2, size=32)
    paths = draw_examples(data, tmp_path, (wide, place))
    assert [picture_size(path) for path in paths] == [(48, 32), (32, 32)]
    again = draw_examples(data, tmp_path / "again", (wide, place))
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_what_is_packed_is_all_that_training_reads(data: Path, world: World, tmp_path: Path) -> None:
    (data / "stamps/unused.png").write_bytes(b"x")
    packed = load_world(pack(data, tmp_path / "packed"))
    assert torch.equal(packed.cutouts, world.cutouts)
    assert torch.equal(packed.panoramas, world.panoramas)
    assert not (tmp_path / "packed/stamps/unused.png").exists()
    load_world(tmp_path / "packed", held_out=True)


def test_a_sheet_has_a_row_for_every_eight(tmp_path: Path) -> None:
    save_sheet(torch.rand(9, 3, 10, 10), tmp_path / "sheet.png")
    assert picture_size(tmp_path / "sheet.png") == (8 * 12, 2 * 12)


# ---------------------------------------------------------------- words


def test_captions_are_made_of_known_words_and_sometimes_empty() -> None:
    rng = np.random.default_rng(0)
    apple = next(index for index, thing in enumerate(THINGS) if thing.word == "apple")
    captions = [caption(rng, apple, second, 0) for second in [NOTHING, 0] * 200]
    captions += [caption(rng, NOTHING, NOTHING, 1) for _ in range(50)]
    assert {word for text in captions for word in text.split()} <= set(caption_words())
    assert 0.05 < sum(not text for text in captions) / len(captions) < 0.2
    assert any("an apple and a horse" in text for text in captions)
    assert with_article("apple") == "an apple"


def test_the_world_is_wide_and_colour_words_are_parsed() -> None:
    assert len(THINGS) >= 50
    assert len(PLACES) >= 10
    horse = [thing.word for thing in THINGS].index("horse")
    assert parse("horse") == (horse, NOTHING)
    assert parse("black horse") == (horse, list(COLOURS).index("black"))
    assert parse("bowl of pears") == ([thing.word for thing in THINGS].index("bowl of pears"), NOTHING)
    with pytest.raises(ValueError, match="not in"):
        parse("white unicorn")


def test_a_painted_thing_is_always_called_by_its_colour() -> None:
    rng = np.random.default_rng(1)
    horse, white = parse("white horse")
    captions = [caption(rng, horse, second, 0, white, drop=0) for second in [NOTHING, 1] * 50]
    assert all("white horse" in text for text in captions)
    assert any(text.startswith("a zebra and a white horse") for text in captions)


def test_the_tokenizer_makes_one_token_of_each_word(tmp_path: Path) -> None:
    write_tokenizer(caption_words(), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for word in caption_words():
        assert len(tokenizer.tokenize(word)) == 1, word
    padded = tokenizer(["a unicorn"], padding="max_length").input_ids[0]  # an unknown word is spelt
    assert len(padded) == TOKENS
    assert padded[0] == tokenizer.bos_token_id


def test_a_wider_vocabulary_keeps_what_the_old_one_knew(tmp_path: Path) -> None:
    write_tokenizer(["a", "horse"], tmp_path / "old")
    write_tokenizer(["a", "horse", "house", "zebra"], tmp_path / "new")
    old_tokenizer, tokenizer = load_tokenizer(tmp_path / "old"), load_tokenizer(tmp_path / "new")
    old = new_text_encoder(old_tokenizer)
    new = with_words_of(tokenizer, old, old_tokenizer)

    def embed(model: CLIPTextModel, tokenizer: CLIPTokenizer, text: str) -> torch.Tensor:
        tokens = tokenizer([text], padding="max_length", return_tensors="pt").input_ids
        return model(tokens).last_hidden_state

    same = embed(old, old_tokenizer, "a horse"), embed(new, tokenizer, "a horse")
    assert torch.allclose(*same, atol=1e-6)
    assert not torch.allclose(same[1], embed(new, tokenizer, "a zebra"), atol=1e-2)


def test_a_run_starts_with_every_weight_of_the_shipped_model(tmp_path: Path) -> None:
    """Its vocabulary is as large as a layer's: a weight must not be taken for the embeddings by its shape."""
    job = Job("unet", tmp_path, tmp_path, Settings(), start=EMBEDDED)
    unet, text_encoder, _ = load_unet(job)
    stored = {"text_encoder/model": text_encoder, "unet/diffusion_pytorch_model": unet}
    for name, part in stored.items():
        for key, value in load_file(EMBEDDED / f"{name}.safetensors").items():
            assert torch.equal(part.state_dict()[key], value.float()), key


def test_a_unet_with_less_attention_goes_on_as_it_was() -> None:
    blocks = {
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    old = UNet2DConditionModel.from_config({**new_unet().config, **blocks})
    new = with_weights_of(old)
    inputs = torch.randn(2, 4, 16, 16), torch.tensor([3, 900]), torch.randn(2, 24, 192)
    with torch.no_grad():
        assert torch.equal(new(*inputs).sample, old(*inputs).sample)
    new(*inputs).sample.square().mean().backward()
    attention = new.down_blocks[1].attentions[0]
    assert attention.proj_out.weight.grad.abs().max() > 0  # what adds nothing yet learns

    more = {"down_block_types": ("CrossAttnDownBlock2D",) * 3}
    other = UNet2DConditionModel.from_config({**new_unet().config, **more})
    with pytest.raises(ValueError, match="another shape"):
        with_weights_of(other)


# ---------------------------------------------------------------- the loop


def test_the_learning_rate_warms_up_holds_and_anneals() -> None:
    settings = Settings(learning_rate=1.0, warmup=10, anneal_from=0.5, final_rate=0.1)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(settings, 50, 0.5) == pytest.approx(1.0)
    assert learning_rate(settings, 50, 0.75) == pytest.approx(0.5)
    assert learning_rate(settings, 50, 1.0) == pytest.approx(0.1)


def test_weights_have_mean_one_and_grow_as_the_noise_over_the_signal() -> None:
    alphas_cumprod = scheduler().alphas_cumprod
    weights = debiased_weights(alphas_cumprod)
    assert weights.mean() == pytest.approx(1.0, abs=1e-5)
    ratio = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    assert torch.allclose(weights / weights[0], ratio / ratio[0], rtol=1e-4)


def test_ema_swaps_in_and_out() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    ema = Ema([parameter], decay=0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    ema.update(step=100)
    with ema.applied():
        assert parameter.tolist() == [0.5, 0.5]
    assert parameter.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_hidden_layers_in_all_directions_alike(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 40, 3), torch.nn.Conv2d(40, 36, 3)).to(
        memory_format=layout
    )
    optimizer, rate = Optimizer([model], 1.0), 1e-3
    first, hidden = model[0].weight, model[1].weight
    assert [weight is hidden for weight, _ in optimizer.matrices] == [True]
    before = [parameter.detach().clone() for parameter in (first, hidden)]
    u, _, v = torch.linalg.svd(torch.randn(36, 360), full_matrices=False)
    first.grad = torch.randn_like(first)
    hidden.grad = (u * torch.linspace(1, 2, 36) @ v).view(hidden.shape)
    optimizer.descend(rate)
    moved = before[0] * (1 - rate * 1e-2) - first
    assert torch.allclose(moved.abs(), torch.full_like(moved, rate), rtol=1e-2)  # AdamW's first step
    moved = (before[1] * (1 - rate * 1e-2) - hidden).flatten(1) / (0.2 * rate * 360**0.5)
    along = u.T @ moved @ v.T  # the directions of the gradient stay, their lengths become about 1
    assert along.diagonal().min() > 0.6
    assert along.diagonal().max() < 1.3
    assert (along - along.diagonal().diag()).abs().max() < 0.05
    assert hidden.grad is None
    assert first.grad is None


def test_a_crop_holds_the_whole_object_and_lies_anywhere_else() -> None:
    mask = torch.zeros(4, 1, 8, 8)
    mask[0, 0, 2:5, 6:] = 1
    mask[1, 0, 3, 1:7] = 1  # wider than a crop; the fourth row has none
    mask[2, 0, 7, 7] = 1
    cells = torch.arange(64.0).view(1, 1, 8, 8).expand(4, 2, -1, -1)
    generator, corners = torch.Generator().manual_seed(0), [set() for _ in mask]
    for _ in range(200):
        cropped, inside = crops_round(cells, mask, 5, generator)
        assert inside.sum((1, 2, 3)).tolist() == [6, 5, 1, 0]
        for row, seen in enumerate(corners):
            top, left = divmod(int(cropped[row, 0, 0, 0]), 8)
            assert torch.equal(cropped[row, 1], cells[row, 1, top : top + 5, left : left + 5])
            seen.add((top, left))
    assert corners[0] == {(top, 3) for top in range(3)}
    assert corners[1] == {(top, left) for top in range(4) for left in (1, 2)}
    assert corners[2] == {(3, 3)}
    assert len(corners[3]) == 16


def test_peers_average_gradients_and_the_share_done() -> None:
    peers = Peers(2, numel=3)
    ranks = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    results: dict[int, float] = {}

    def work(rank: int) -> None:
        ranks[rank].grad = torch.full((3,), float(rank * 2))
        results[rank] = peers.average(rank, [ranks[rank]], done=0.25 + rank / 2)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert results == {0: 0.5, 1: 0.5}
    assert all(one.grad is not None and one.grad.tolist() == [1.0, 1.0, 1.0] for one in ranks)


def test_the_pool_uses_each_row_about_reuse_times() -> None:
    drawn = 0

    def draw() -> tuple[torch.Tensor]:
        nonlocal drawn
        drawn += 4
        return (torch.arange(drawn - 4, drawn),)

    pool = Pool(draw, capacity=8, reuse=2, seed=0)
    for _ in range(20):
        (rows,) = pool.take(4)
        assert rows.max() < drawn
    assert drawn == 4 + 20 * 4 // 2
    assert len(pool.rows[0]) == 8
    assert pool.rows[0].min() >= drawn - 8  # the oldest left


def test_every_second_crop_looks_at_the_object() -> None:
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 4, 4] = 1
    crops = random_crops(mask.expand(-1, 3, -1, -1), mask, 8, torch.Generator().manual_seed(0))
    assert crops.shape == (2, 3, 8, 8)
    assert crops[1, 0, 4, 4] == 1


def test_the_decoder_alone_is_trained_on_latents_half_of_which_are_noisy() -> None:
    vae, x, seen = new_vae((16, 16, 16)), torch.rand(64, 3, 16, 16) * 2 - 1, []
    vae.register_to_config(scaling_factor=0.5)
    vae.post_quant_conv.register_forward_pre_hook(lambda _, given: seen.append(given[0].float()))
    for jitter in (0.0, 0.2):
        torch.manual_seed(0)
        vae_loss(vae, x, jitter)
    spread = (seen[1] - seen[0]).std((1, 2, 3))
    assert 16 < (spread == 0).sum() < 48
    assert 0.3 < spread.max() < 0.2 / 0.5 * 1.3  # of so few values it may seem larger than it is


def test_training_draws_by_its_seed_alone() -> None:
    first, again, other = (list(islice(fresh_seeds(seed), 5)) for seed in (3, 3, 4))
    assert first == again != other
    assert max(first + other) < HELD_OUT_SEED


def test_the_squared_error_weighs_as_much_as_it_is_told_to() -> None:
    vae, x, losses = new_vae((16, 16, 16)), torch.rand(4, 3, 16, 16) * 2 - 1, []
    for weight in (1.0, 10.0):
        torch.manual_seed(0)
        loss, numbers = vae_loss(vae, x, mse_weight=weight)
        losses.append(loss.item())
    mse = 4 / 10 ** (numbers["psnr"] / 10)
    assert losses[1] - losses[0] == pytest.approx(9 * mse, rel=1e-3)


# ---------------------------------------------------------------- all stages, end to end


def test_the_model_fits_in_40_mb_of_float16() -> None:
    with torch.device("meta"):
        parts = [new_vae(), new_unet()]
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    text = 1_500_000  # CLIP, 3 layers of width 192
    assert 2 * (parameters + text) < 40e6


@pytest.mark.slow
def test_every_stage_runs_resumes_and_exports_a_model_that_edits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_vae, tiny_unet = partial(new_vae, (16, 16, 16)), partial(new_unet, (32, 32, 32))
    monkeypatch.setattr("training.train.new_vae", tiny_vae)
    monkeypatch.setattr("training.train.new_unet", tiny_unet)
    run, out = tmp_path / "run", tmp_path / "export"
    settings = Settings(samples=4, batch=2, pool=32, reuse=100, warmup=1, learning_rate=1e-3)
    run_job(Job("vae", data, run, settings))
    whole = load_file(run / "vae/diffusion_pytorch_model.safetensors")
    run_job(Job("decoder", data, run, settings))
    for name, value in load_file(run / "vae/diffusion_pytorch_model.safetensors").items():
        is_decoder = name.startswith(("decoder", "post_quant_conv"))
        assert torch.equal(value, whole[name]) != is_decoder, name

    job = Job("unet", data, run, settings)
    run_job(job)
    first = load_file(run / "unet/diffusion_pytorch_model.safetensors")
    run_job(replace(job, settings=replace(settings, samples=6)))  # goes on from the checkpoint
    second = load_file(run / "unet/diffusion_pytorch_model.safetensors")
    assert json.loads((run / "unet.json").read_text())["samples"] == 6
    assert len((run / "unet.log").read_text().splitlines()) == 2
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(value.isfinite().all() for value in second.values())

    export(run, out, trained_samples=6)
    assert (
        load_file(out / "unet/diffusion_pytorch_model.safetensors")["conv_in.weight"].dtype == torch.float16
    )
    assert (out / "tokenizer/vocab.json").exists()
    description = json.loads((out / "diffedit.json").read_text())
    assert "zebra" in description["words"]["objects"]
    assert set(caption_words()) == {
        word for group in description["words"].values() for name in group for word in name.split()
    }
    assert description["trained_samples"] == 6

    figures = evaluate(out, data, count=2, log=tmp_path / "curve.jsonl", samples=6)
    assert 0 <= figures["iou"]["all"] <= 1
    assert set(figures["vae_psnr"]) >= {"known place", "unseen photo"}
    assert json.loads((tmp_path / "curve.jsonl").read_text()) == figures
    assert held_out_loss(out, data, 1) == figures["loss"]
    assert held_out_loss(EMBEDDED, data, 1) < 0.5 * figures["loss"]
    x0 = load_model(out).encode(torch.rand(1, 3, 64, 64))
    assert x0.shape == (1, 4, 16, 16)


@pytest.mark.filterwarnings("default")  # torch.compile's own
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.slow
def test_a_compiled_stage_trains(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.new_vae", partial(new_vae, (16, 16, 16)))
    settings = Settings(samples=2, batch=2, pool=32, reuse=100, warmup=1, learning_rate=1e-3)
    run_job(Job("vae", data, tmp_path, settings))
    before = load_file(tmp_path / "vae/diffusion_pytorch_model.safetensors")
    counters.clear()
    run_job(Job("decoder", data, tmp_path, replace(settings, compile=True)))
    assert counters["stats"]["unique_graphs"] >= 2  # the encoder's and the decoder's
    for name, value in load_file(tmp_path / "vae/diffusion_pytorch_model.safetensors").items():
        assert value.isfinite().all()
        assert torch.equal(value, before[name]) != name.startswith(("decoder", "post_quant_conv")), name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_workers_end_with_their_parent_even_if_a_shell_started_it_in_the_background(
    data: Path, tmp_path: Path
) -> None:
    """What a shell starts with `&` ignores SIGINT, by which torch ends orphans: they went on training."""
    command = [sys.executable, "-m", "training", "vae", "--data", str(data), "--run", str(tmp_path)]
    parent = psutil.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))

    children: list[psutil.Process] = []

    def heeds(child: psutil.Process) -> bool:
        """Whether it does not ignore SIGINT."""
        status = Path(f"/proc/{child.pid}/status").read_text()
        return not int(status.split("SigIgn:")[1].split()[0], 16) >> signal.SIGINT - 1 & 1

    try:
        until = time.monotonic() + 120
        while sum(map(heeds, children)) < 2 and parent.is_running() and time.monotonic() < until:
            time.sleep(0.2)
            children = parent.children()
        workers = list(filter(heeds, children))
        assert len(workers) == 2
        parent.kill()
        assert psutil.wait_procs(workers, timeout=60)[1] == []
    finally:
        for process in (parent, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        parent.wait()


def test_figures_by_hand(data: Path) -> None:
    found = torch.tensor([True, True, False, False])
    assert iou(found, torch.tensor([True, False, True, False])) == pytest.approx(1 / 3)
    black = torch.zeros(1, 3, 2, 2)
    assert psnr(black + 0.1, black) == pytest.approx(20.0, abs=1e-4)
    weight = torch.zeros(1, 1, 2, 2)
    weight[..., 0, 0] = 1
    half = black.clone()
    half[..., 1, 1] = 1  # outside the weight
    assert psnr(half + 0.1, black, weight) == pytest.approx(20.0, abs=1e-4)
    cases = held_out_cases(data, 4)
    assert [case.kind for case in cases] == ["known place"] * 2 + ["unseen photo"] * 2


# ---------------------------------------------------------------- classifiers, and what one of them is for


@pytest.mark.slow
def test_a_classifier_is_fine_tuned(world: World) -> None:
    model, start = (Classifier(["white horse", "black horse"], "lite0") for _ in range(2))
    train_classifier(model, world, load_model("embedded").vae, minutes=0.05)
    layers = [model.body._conv_stem.weight, start.body._conv_stem.weight]
    assert not torch.equal(*layers)
    torch.testing.assert_close(*layers, atol=0.01, rtol=0)  # not far from ImageNet's
    assert torch.equal(model.body._bn0.running_mean, start.body._bn0.running_mean)


@pytest.mark.slow
def test_a_success_is_as_sure_as_nearly_all_photos(world: World) -> None:
    class Lightness(Judge):
        """Says `white horse` as surely as the view is light."""

        def forward(self, views: Tensor) -> Tensor:
            light = 20 * (views[..., 40:56, 40:56].mean((1, 2, 3)) - 0.4)
            return torch.stack([light, torch.zeros_like(light)], 1)

    model, vae = Lightness(["white horse", "black horse"]).eval(), load_model("embedded").vae
    figures, sure = examine(model, {"all": partial(draw_scenes, world)}, vae, scenes=120)
    assert figures["all"] > 0.95
    assert 0.5 <= sure < 1
    scenes = draw_scenes(world, 60, HELD_OUT_SEED + 50_000, things=model.words)
    told = chances(model, through_vae(vae, scenes.pixels), scenes.mask)
    surety = told[torch.arange(60), torch.arange(60) % 2]
    assert float((surety >= sure).float().mean()) == pytest.approx(0.98, abs=0.04)


def test_things_become_things_of_their_kind() -> None:
    rng, words = np.random.default_rng(0), critic_words()
    assert len(set(words)) == len(words)
    assert {"horse", "white horse", "bowl of pears", "red mug"} <= set(words)
    for ref, query in (draw_pair(rng, words) for _ in range(200)):
        assert ref != query
        assert kind_of(ref) == kind_of(query)
        assert not query.endswith(f" {ref}")  # no horse becomes a white horse: it may be one
    pairs = {draw_pair(rng, ["apple", "pineapple"]) for _ in range(20)}
    assert pairs == {("apple", "pineapple"), ("pineapple", "apple")}
    few = ["white horse", "black horse", "lion", "zebra"]
    refs = [ref for ref, query in (draw_pair(rng, few) for _ in range(1000)) if query == "black horse"]
    white = refs.count("white horse") / len(refs)
    assert white == pytest.approx(0.61, abs=0.15)  # a half, and of the other 0.04 of 0.04 + 0.055 + 0.08
    queries = [draw_pair(rng, ["horse", "white horse", "black horse", "zebra"])[1] for _ in range(300)]
    assert queries.count("horse") == pytest.approx(129, abs=35)  # 0.12 of 0.12 + 0.08 + 2 * 0.12 / 3
    assert queries.count("white horse") == pytest.approx(43, abs=25)
    assert [kind_of(word) for word in ("white horse", "car", "mug", "apple", "bowl of apples")] == [
        "animals",
        "vehicles",
        "things",
        "things",
        "bowl",
    ]


def test_a_thinned_run_stops_at_some_levels() -> None:
    alphas = torch.linspace(0.1, 1, 6)
    few = thinned(Steps(torch.tensor([9, 7, 5, 3, 1]), alphas, 1 - alphas, "dpm++"), [1, 2, 5])
    assert few.timesteps.tolist() == [7, 5]
    assert torch.equal(few.alphas, alphas[[1, 2, 5]])
    assert torch.equal(few.sigmas, 1 - few.alphas)
    assert few.solver == "dpm++"
    assert len(thinned(few, [0])) == 0


@pytest.mark.parametrize("which", ["reward", "heat"])
@pytest.mark.slow
def test_the_losses_of_edits_reach_the_unet_and_nothing_else(world: World, which: str) -> None:
    model = load_text_to_image(read_unet(EMBEDDED), EMBEDDED)
    made_ready(model, torch.device("cpu"), compiled=False)
    model.text_encoder.requires_grad_(False)
    torch.manual_seed(0)
    critic = Classifier(["horse", "zebra", "dog"], "lite1").eval().requires_grad_(False)

    def measured() -> tuple[torch.Tensor, dict[str, float]]:
        torch.manual_seed(0)
        if which == "reward":
            return reward_loss(model, critic, world, 3, 2, np.random.default_rng(0))
        return heat_loss(model, critic.words, world, 3, 2, np.random.default_rng(0))

    loss, numbers = measured()
    loss.backward()
    if which == "reward":
        assert set(numbers) == {"critic", "right"}
        assert numbers["critic"] == loss.item()
    else:
        assert numbers == {"dice": pytest.approx(1 - loss.item())}
    assert all(parameter.grad is not None for parameter in model.unet.parameters())
    others = [*model.vae.parameters(), *model.text_encoder.parameters(), *critic.parameters()]
    assert all(parameter.grad is None for parameter in others)
    length = nn.utils.get_total_norm([parameter.grad for parameter in model.unet.parameters()])
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter -= 0.02 * parameter.grad / length
        fallen = loss.item() - measured()[0].item()
    assert fallen == pytest.approx(0.02 * float(length), rel=0.5)  # as steep as the gradient is long


@pytest.mark.slow
def test_the_heat_loss_is_that_of_the_mask_that_is_found(world: World) -> None:
    known = load_text_to_image(read_unet(EMBEDDED), EMBEDDED)
    blind = load_text_to_image((new_unet(), *read_unet(EMBEDDED)[1:]), EMBEDDED)
    told = []
    for model in (known, blind):
        made_ready(model, torch.device("cpu"), compiled=False)
        with torch.no_grad():
            told.append(heat_loss(model, ["horse", "zebra"], world, 3, 4, np.random.default_rng(0))[0].item())
    assert 0 < told[0] < 0.5 < told[1] < 1


@pytest.mark.parametrize("stage", ["heat", "reward"])
@pytest.mark.slow
def test_the_stages_of_edits_leave_the_text_encoder(
    data: Path, world: World, tmp_path: Path, stage: str
) -> None:
    if stage == "reward":
        train_critic(data, world, load_model("embedded").vae, minutes=0.001)
    run = tmp_path / "run"
    for part in ("vae", "unet", "text_encoder", "tokenizer"):
        shutil.copytree(EMBEDDED / part, run / part)
    run_job(Job(stage, data, run, Settings(samples=4, batch=2, pool=32, warmup=1)))
    before, after = read_unet(EMBEDDED), read_unet(run)
    assert not torch.equal(before[0].conv_in.weight, after[0].conv_in.weight)
    torch.testing.assert_close(before[0].conv_in.weight, after[0].conv_in.weight, atol=1e-3, rtol=0)
    for old, new in zip(before[1].parameters(), after[1].parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-6, rtol=0)
    log = (run / f"{stage}.log").read_text()
    assert "dice" in log
    assert ("right" in log) == (stage == "reward")


def test_the_mean_of_two_models_lies_half_way(tmp_path: Path) -> None:
    file = "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(EMBEDDED / file)
    doubled = {name: 2 * value for name, value in weights.items()}
    (tmp_path / "other/unet").mkdir(parents=True)
    save_file(doubled, tmp_path / "other" / file)
    out = mean(EMBEDDED, tmp_path / "other", tmp_path / "out")
    for name, value in load_file(out / file).items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(value.float(), 1.5 * weights[name].float(), rtol=1e-3, atol=1e-6)
    assert {path.name for path in out.iterdir()} == {path.name for path in EMBEDDED.iterdir()}
    load_model(out)
