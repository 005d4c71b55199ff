"""benchmarks/: the figures that they report, by hand, and the tables that they write."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import forwards, guidance, remove
from benchmarks.classifier import Judge, judge, load_judge, save_judge, verdict
from benchmarks.quality import PAIRS, PHOTO, due, pair_table, ssim, summary, table
from benchmarks.report import means, write_block
from training.classifier import VIEW, views_of
from training.scenes import World
from training.words import THINGS

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_view_is_the_square_round_the_object() -> None:
    pixels = torch.zeros(1, 3, 128, 128)
    pixels[..., 40:60, 30:70] = 1  # 40 wide, 20 high
    view = views_of(pixels, pixels[:, :1])[0, 0] > 0.5
    assert view.shape == (VIEW, VIEW)
    columns, rows = view.any(0).nonzero().flatten(), view.any(1).nonzero().flatten()
    assert columns[[0, -1]].tolist() == pytest.approx(
        [0.1 * VIEW, 0.9 * VIEW - 1], abs=1
    )  # 1.25 of its width
    assert rows[[0, -1]].tolist() == pytest.approx([0.3 * VIEW, 0.7 * VIEW - 1], abs=1)


def test_the_judge_gives_every_word_a_probability() -> None:
    told = judge(Judge(["horse", "zebra"]).eval(), torch.rand(1, 3, 128, 128), torch.ones(1, 1, 128, 128))
    assert set(told) == {"horse", "zebra"}
    assert sum(told.values()) == pytest.approx(1)


def test_a_judge_is_kept_and_read_again(tmp_path: Path) -> None:
    kept = Judge(["horse", "zebra"], 0.9).eval()
    kept.half().float()
    save_judge(kept, {"known places": 0.98}, tmp_path / "judge.safetensors")
    found, told = load_judge(tmp_path / "judge.safetensors")
    assert (found.words, found.sure) == (kept.words, 0.9)
    assert told == {"known places": 0.98, "sure": 0.9}
    views = torch.rand(2, 3, VIEW, VIEW)
    assert torch.equal(found(views), kept(views))


@pytest.mark.parametrize(
    ("picture", "word"), [("horse_park", "horse"), ("dog_grass", "dog"), ("fox_forest", "fox")]
)
def test_the_judge_of_this_repository_is_sure_of_the_examples(picture: str, word: str) -> None:
    model, _ = load_judge()
    assert {named for pair in PAIRS for named in pair} <= set(model.words)
    image = Image.open(EXAMPLES / f"{picture}.jpg").convert("RGB").resize((128, 128))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    middle = torch.zeros(1, 1, 128, 128)
    middle[..., 20:120, 10:118] = 1
    with torch.no_grad():
        told = judge(model, pixels, middle)
    other = "zebra" if word == "horse" else "horse"
    assert verdict(told, other, word, model.sure)["success"] == 1
    assert verdict(told, word, other, model.sure)["success"] == 0


def test_the_judge_sees_a_thing_that_grew_beyond_the_old_ones_outline() -> None:
    class Counts(Judge):
        """Says `large` as surely as there is white in the view."""

        def forward(self, views: Tensor) -> Tensor:
            white = views.mean((1, 2, 3))
            return torch.stack([100 * (white - 0.6), torch.zeros_like(white)], 1)

    mask, pixels = torch.zeros(1, 1, 128, 128), torch.zeros(1, 3, 128, 128)
    mask[..., 54:74, 54:74] = 1
    pixels[..., 54:74, 54:74] = 1
    counts = Counts(["large", "small"]).eval()
    assert judge(counts, pixels, mask)["large"] == pytest.approx(1 / 3, abs=0.01)  # in the narrowest square
    pixels[..., 49:79, 49:79] = 1
    assert judge(counts, pixels, mask)["large"] == pytest.approx(1, abs=0.01)


def test_an_edit_succeeds_if_the_judge_is_sure_of_the_query() -> None:
    told = {"horse": 0.1, "zebra": 0.3, "dog": 0.6}
    assert verdict(told, "horse", "zebra", 0.55) == {"success": 0.0, "query over ref": 1.0}
    assert verdict(told, "horse", "dog", 0.55) == {"success": 1.0, "query over ref": 1.0}
    assert verdict(told, "horse", "dog", 0.65) == {"success": 0.0, "query over ref": 1.0}
    assert verdict(told, "dog", "horse", 0.55) == {"success": 0.0, "query over ref": 0.0}
    painted = {"horse": 0.1, "white horse": 0.5, "zebra": 0.4}
    assert verdict(painted, "zebra", "horse", 0.55) == {"success": 1.0, "query over ref": 1.0}
    assert verdict(painted, "horse", "zebra", 0.55) == {"success": 0.0, "query over ref": 0.0}


def test_similarity_is_that_of_the_region_alone() -> None:
    picture, region = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    region[..., 32:] = 1
    other = picture.clone()
    other[..., :16] = 0
    assert ssim(other, picture, region) == pytest.approx(1)
    assert ssim(other, picture, 1 - region) < 0.8


def test_means_are_taken_over_all_edits_and_by_group() -> None:
    rows = [
        ("known", "a to b", {"x": {"success": 1.0, "iou": 0.5, "spill": 0.2}, "y": {"success": 0.0}}),
        ("new", "a to c", {"x": {"success": 0.0, "iou": 0.7}, "y": {"success": 0.0}}),
    ]
    found = summary(rows, ["y", "x"])
    assert list(found) == ["y", "x"]
    assert found["x"]["iou"] == pytest.approx(0.6)
    assert found["x"]["spill"] == 0.2  # of the scenes with another thing
    assert found["x"]["success by pair"] == {"a to b": 1.0, "a to c": 0.0}
    assert found["x"]["iou by kind"] == {"known": 0.5, "new": 0.7}
    assert "| x | 2 | 50 % |  | 0.60 |" in table(found)
    assert "| a to b | 100 % | 0.50 |" in pair_table(found["x"])
    assert "| new | 0 % | 0.70 |" in pair_table(found["x"])


def test_the_check_of_the_judge_has_no_other_figure_in_the_table() -> None:
    figures = {"success": 1.0, "query over ref": 1.0, "psnr outside": 20.0, "forwards": 0.0, "seconds": 0.1}
    found = summary([("known", "a to b", {PHOTO: dict(figures), "x": dict(figures)})], [PHOTO, "x"])
    assert f"| {PHOTO} | 1 | 100 % | 100 % |  |  |  |  |  |  |  |" in table(found)
    assert "| x | 1 | 100 % | 100 % |  |  |  | 20.0 |  | 0 | 0.1 |" in table(found)


def test_the_things_of_one_world_stand_before_the_backgrounds_of_another() -> None:
    def world(value: float) -> World:
        parts = (torch.full((1, 3, 3, 4, 8), value), torch.zeros(1), torch.ones(1))
        return World(*parts, torch.full((1, 5, 4, 4), value), torch.full((1, 2), value), torch.zeros(1))

    mixed = world(1).before(world(2))
    assert (mixed.cutouts == 1).all()
    assert (mixed.boxes == 1).all()
    assert (mixed.panoramas == 2).all()


def test_a_scene_without_a_thing_has_all_other_things() -> None:
    owners = torch.tensor([things_index("horse"), things_index("dog")])
    world = World(*(torch.ones(2, 3) for _ in range(3)), torch.ones(2, 5, 4, 4), torch.ones(2, 2), owners)
    bare = remove.without(world, "white horse")
    assert bare.cutouts.mean((1, 2, 3)).tolist() == [0, 1]
    assert (world.cutouts == 1).all()


def things_index(word: str) -> int:
    return [thing.word for thing in THINGS].index(word)


def test_a_mask_painted_by_hand_is_wider_than_the_object() -> None:
    true = Image.new("L", (40, 40))
    true.paste(255, (18, 18, 22, 22))
    reach = remove.PAINTED
    assert remove.with_room(true).getbbox() == (18 - reach, 18 - reach, 22 + reach, 22 + reach)


def test_what_a_removal_left_is_judged_and_measured_in_the_mask() -> None:
    class White(Judge):
        """Says `horse` as surely as there is white in the view."""

        def forward(self, views: Tensor) -> Tensor:
            white = views.mean((1, 2, 3))
            return torch.stack([100 * (white - 0.3), torch.zeros_like(white)], 1)

    truth, mask = torch.zeros(1, 3, 128, 128), torch.zeros(1, 1, 128, 128)
    mask[..., 40:80, 40:80] = 1
    case = remove.Case(truth + mask, truth, mask, "white horse", "dog", "known place", 1)
    area = Image.new("L", (128, 128))
    area.paste(255, (40, 40, 80, 60))  # half of the object
    judge = White(["horse", "dog"]).eval()
    kept, gone = (
        remove.figures_of(case, case.picture(pixels).rgb, area, judge)
        for pixels in (truth + mask, truth + 0.1)
    )
    assert (kept["gone"], gone["gone"]) == (0, 1)
    assert kept["psnr"] == pytest.approx(0)
    assert gone["psnr"] == pytest.approx(20, abs=0.2)
    assert kept["left out"] == gone["left out"] == 0.5


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t -->\nold\n<!-- /t -->\nb\n")
    write_block(page, "t", "new")
    assert page.read_text() == "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n"


def test_saturation_by_hand() -> None:
    pixels = torch.tensor([[0.8, 0.2], [0.4, 0.2], [0.4, 0.2]])[None, :, None]  # a red and a grey pixel
    assert guidance.saturation(pixels, torch.tensor([[[[1.0, 0.0]]]])) == pytest.approx(0.5)
    assert guidance.saturation(pixels, torch.ones(1, 1, 1, 2)) == pytest.approx(0.25)


def test_the_guidance_table_says_what_was_saved() -> None:
    plain = {
        "success": 1.0,
        "query over ref": 1.0,
        "psnr": 10.0,
        "saturation drift": 0.1,
        "absolute drift": 0.2,
    }
    found = {
        "a": plain | {"forwards": 40.0},
        "b": means([plain | {"forwards": 20.0}, plain | {"success": 0.0, "forwards": 40.0}]),
    }
    assert "| b | 50% | 100% | 10.0 dB | +0.100 | 0.200 | 30.0 | 25% |" in guidance.table(found)


def test_the_reading_of_the_guidance_table() -> None:
    row = {
        "success": 0.5,
        "query over ref": 1.0,
        "psnr": 10.0,
        "saturation drift": 0.1,
        "absolute drift": 0.2,
    }
    found = {name: row | {"forwards": 40.0} for name in guidance.VARIANTS}
    found["apg"] = found["apg"] | {"success": 0.75, "absolute drift": 0.1}
    found["norm pred"] = found["norm pred"] | {"success": 0.0}
    said = guidance.reading(found, 4)
    assert "more successful: `apg`; as successful: `no guidance (1)`" in said
    assert "less successful: `norm pred`." in said
    assert "Nearest to the twin's saturation is `apg` (0.100 off)" in said


def test_only_beside_ours_the_others_take_every_third_edit_of_a_pair() -> None:
    round_of = len(PAIRS)
    assert due(["diffedit", "SDEdit"], 2) == ["diffedit", "SDEdit"]
    assert due(["diffedit", "SDEdit"], round_of + 2) == ["diffedit"]
    assert due(["diffedit", "SDEdit", PHOTO], 2 * round_of) == ["diffedit", PHOTO]
    assert due(["diffedit", "SDEdit"], 3 * round_of) == ["diffedit", "SDEdit"]
    assert due(["--mask-grow 1", "the defaults"], round_of) == ["--mask-grow 1", "the defaults"]


def test_a_way_to_save_forwards_is_compared_scene_by_scene() -> None:
    usual = {"iou": 0.8, "query over ref": 1.0, "outside": 26.0, "likeness": 99.0, "forwards": 93.0}
    full = [{**usual, "success": 0.0}, {**usual, "success": 0.0}]
    way = [{**usual, "success": 1.0, "iou": 0.9}, {**usual, "success": 0.0}]
    found = {forwards.FULL: forwards.summary(full, full), "--reuse 2": forwards.summary(way, full)}
    told = found["--reuse 2"]
    assert (told["success"], told["success gained"], told["success error"]) == (0.5, 0.5, 0.5)
    assert (told["iou gained"], told["iou error"]) == pytest.approx((0.05, 0.05))
    *_, first, last = forwards.table(found).splitlines()
    assert first == "| every forward | 93 | 0.800 | 0.0% |  | 100.0% | 26.0 |  |"
    assert last == "| --reuse 2 | 93 | 0.850 | 50.0% | +50.0 ± 50.0 | 100.0% | 26.0 | 99.0 |"
