"""diffedit edit with folders, masks by name, existing results, and names that no file can have."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import good
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pictures import box_mask, noise, swapped_profile
from PIL import Image
from typer.testing import CliRunner

from diffedit_cli.api import edit_image, make_mask
from diffedit_cli.cli.app import app
from diffedit_cli.cli.files import name_for
from diffedit_cli.images.colour import to_srgb
from diffedit_cli.images.masks import Masks
from diffedit_cli.images.read import load_image, read_settings
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import EditConfig, MaskConfig

Run = Callable[..., Any]
WORDS = ["--ref", "horse", "--query", "zebra", "--seed", "3"]
QUICK = [*WORDS, "--mask-samples", "1", "--steps", "2"]


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """diffedit in a folder that holds photo.png."""
    monkeypatch.chdir(tmp_path)
    noise(40, 30).save("photo.png")

    def invoke(*arguments: Any, model: Any = checkpoint) -> Any:
        words = [str(a) for a in [*arguments, "--model", model, "--device", "cpu"]]
        return CliRunner().invoke(app, words, env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})

    return invoke


@pytest.fixture
def forwards() -> Iterator[list[int]]:
    """The samples of every UNet forward, whoever calls it."""
    rows: list[int] = []

    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, UNet2DConditionModel):
            rows.append(len(inputs[0]))

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    yield rows
    handle.remove()


def refused(result: Any, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert not [word for word in words if word not in result.stderr], result.stderr


def names(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------ folders and results


def test_a_folder_stands_for_its_pictures_and_a_second_run_skips_what_is_there(
    run: Run, forwards: list[int]
) -> None:
    Path("in/deep").mkdir(parents=True)
    for number, name in enumerate(("in/a.png", "in/b.jpg", "in/deep/a.png", "in/.hidden.png")):
        noise(40, 30, seed=number).save(name)
    Path("in/text.txt").write_text("no picture")
    good(run("edit", "in", *QUICK, "-o", "in/out"))
    assert names("in/out") == {"a-zebra.png", "b-zebra.png"}
    good(run("edit", "in", "-r", *QUICK, "-o", "in/out", "--skip-existing"))
    assert names("in/out") == {"a-zebra.png", "b-zebra.png", "deep/a-zebra.png"}
    forwards.clear()
    done = good(run("edit", "in", "-r", *QUICK, "-o", "in/out", "--skip-existing", "--json"))
    assert [json.loads(line)["skipped"] for line in done.stdout.splitlines()] == [True] * 3
    assert forwards == []
    assert "Skipped 3 of 3 results" in done.stderr
    refused(run("edit", "in", *QUICK, "-o", "in/out"), 3, "in/out/a-zebra.png already exists", "2 of 2")


def test_results_in_the_folder_of_the_pictures_are_no_pictures_of_the_next_run(
    run: Run, forwards: list[int]
) -> None:
    good(run("edit", ".", *QUICK))
    assert names(".") == {"photo.png", "photo-zebra.png"}
    forwards.clear()
    good(run("edit", ".", *QUICK, "--skip-existing"))
    good(run("edit", "photo.png", "photo-zebra.png", *QUICK, "--skip-existing"))
    assert forwards == []
    assert names(".") == {"photo.png", "photo-zebra.png"}


def test_a_single_result_is_skipped_too(
    run: Run, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out.png").write_bytes(b"mine")
    monkeypatch.setattr("diffedit_cli.models.foresee", lambda *_, **__: pytest.fail("the model was read"))
    good(run("edit", "photo.png", *QUICK, "-o", "out.png", "--skip-existing"))
    assert (Path("out.png").read_bytes(), forwards) == (b"mine", [])
    refused(run("edit", "photo.png", *QUICK, "--skip-existing", "--overwrite"), 2, "--skip-existing")
    refused(run("edit", "photo.png", *QUICK, "--skip-existing", "-o", "-"), 2, "--skip-existing")


# ---------------------------------------------------------------------------------------- several seeds

UNSEEDED = ["--ref", "horse", "--query", "zebra", "--mask-samples", "1", "--steps", "2"]


def told(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in good(result).stdout.splitlines()]


def test_each_seed_has_a_file_of_its_own(run: Run, forwards: list[int]) -> None:
    seeds = ["--seed", "1", "--seed", "2", "--seed", "1"]
    facts = told(run("edit", "photo.png", *UNSEEDED, *seeds, "--query", "cow", "-o", "out", "--json"))
    stems = [f"photo-{query}-seed-{seed}.png" for query in ("zebra", "cow") for seed in (1, 2)]
    assert [Path(fact["output"]).name for fact in facts] == stems
    assert [fact["settings"]["seed"] for fact in facts] == [1, 2, 1, 2]
    assert sum(forwards) == 4 * (3 + 2 * 2) + 2  # one inversion for all four
    dry = run("edit", "photo.png", *UNSEEDED, *seeds, "--query", "cow", "-o", "new", "--json", "--dry-run")
    assert sum(told(dry)[0]["forwards"].values()) == sum(forwards)
    for fact in facts:  # each is what it would be alone
        again = told(run("rerun", fact["output"], "photo.png", "-o", "again.png", "--json", "--overwrite"))
        assert again[0]["settings"] == fact["settings"]
        assert Path("again.png").read_bytes() == Path(fact["output"]).read_bytes()


def test_a_number_of_seeds_counts_on(run: Run) -> None:
    many = ["--seeds", "3", "--json", "--grid", "grids"]
    facts = told(run("edit", "photo.png", *UNSEEDED, "--seed", "7", *many, "-o", "out"))
    assert [fact["settings"]["seed"] for fact in facts] == [7, 8, 9]
    assert names("grids") == names("out") == {f"photo-zebra-seed-{seed}.png" for seed in (7, 8, 9)}
    chosen = [one["settings"]["seed"] for one in told(run("edit", "photo.png", *UNSEEDED, *many, "-o", "b"))]
    assert chosen == [*range(chosen[0], chosen[0] + 3)]
    drawn = told(run("generate", "a horse", "--steps", "1", "--seed", "7", "--seeds", "2", "--json"))
    assert [one["output"] for one in drawn] == [f"a-horse-seed-{seed}.png" for seed in (7, 8)]
    again = told(run("rerun", "a-horse-seed-8.png", "-o", "again.png", "--json"))
    assert again[0]["settings"] == drawn[1]["settings"]
    assert Path("again.png").read_bytes() == Path("a-horse-seed-8.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", "1", "--seed", "2", "--seeds", "2"], ["--seeds cannot be used"]),
        (["--seed", str(2**32 - 1), "--seeds", "2"], ["--seed 4294967296 is out of range"]),
        (["--seeds", "2", "-o", "out.png"], ["out.png is one file"]),
        (["--seeds", "2", "-o", "-"], ["stdout"]),
        (["--seeds", "2", "--animate", "film.gif"], ["one edit"]),
        (["--seeds", "2", "--mask", "photo.png"], ["every seed gives the same picture", "--inversion noise"]),
    ],
)
def test_seeds_that_do_not_fit_are_refused(run: Run, flags: list[str], words: list[str]) -> None:
    refused(run("edit", "photo.png", *UNSEEDED, *flags, model="no/such"), 2, *words)
    refused(run("generate", "a horse", "--seeds", "2", "-o", "-", model="no/such"), 2, "stdout")


def test_seeds_differ_with_a_mask_where_they_start_from_noise(run: Run) -> None:
    box_mask((40, 30), (0, 0, 20, 30)).save("own.png")
    many = ["--mask", "own.png", "--seed", "1", "--seeds", "2", "--inversion", "noise", "-o", "out"]
    good(run("edit", "photo.png", *UNSEEDED, *many))
    one, other = (np.asarray(Image.open(f"out/photo-zebra-seed-{seed}.png")) for seed in (1, 2))
    assert (one != other).any()


def test_a_folder_without_pictures_is_refused(run: Run) -> None:
    Path("in/deep").mkdir(parents=True)
    noise(9, 9).save("in/deep/a.png")
    refused(run("edit", "in", *QUICK), 1, "The folder in holds no pictures.", "--recursive")


@pytest.mark.parametrize("place", ["new", "new/deep", "new.d/"])
def test_a_place_without_suffix_is_a_folder_for_one_picture_too(run: Run, place: str) -> None:
    good(run("edit", "photo.png", *QUICK, "-o", place, "--dry-run"))
    assert not Path(place).exists()
    good(run("edit", "photo.png", *QUICK, "-o", place, "--save-mask", "masks", "--grid", "grids"))
    assert names(place) == names("masks") == names("grids") == {"photo-zebra.png"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["mask", "photo.png", "--ref", "a", "--query", "b", "--mask-samples", "1"], "photo-mask.png"),
        (["generate", "a horse", "--steps", "1"], "a-horse.png"),
        (["compare", "--prompt", "a,b", "--steps", "1"], "compare.png"),
    ],
)
def test_new_folders_of_the_other_commands(run: Run, words: list[str], name: str) -> None:
    good(run(*words, "-o", "new"))
    assert names("new") == {name}


# ------------------------------------------------------------------------------------------------ names


def test_names_fit_a_file_system() -> None:
    stem, words = "a" * 250, "w" * 300
    assert len(name_for(stem, words, ".png").encode()) <= 255
    wide = name_for("\N{SNOWMAN}" * 250, "слово " * 60, ".png")
    assert len(wide.encode()) <= 255
    assert wide.encode().decode() == wide
    assert name_for("photo", "zebra", ".png") == "photo-zebra.png"
    seeded = name_for(stem, words, ".png", "seed-4294967295")
    assert len(seeded.encode()) <= 255 - len("-100")
    assert seeded.endswith("-seed-4294967295.png")


def test_a_long_name_is_no_failure_and_a_name_too_long_is_one_jobs(run: Run) -> None:
    noise(40, 30).save("a" * 246 + ".jpg")
    good(run("edit", "a" * 246 + ".jpg", "photo.png", *QUICK, "-o", "out"))
    assert len(names("out")) == 2
    done = run("edit", "b" * 300 + ".png", "photo.png", *QUICK, "-o", "out", "--overwrite")
    refused(done, 3, "1 of 2 results failed", "name too long")


@pytest.mark.parametrize("query", ["\N{ZEBRA FACE}", "?!"])
def test_the_default_name_is_never_the_inputs(run: Run, query: str) -> None:
    before = Path("photo.png").read_bytes()
    words = ["--ref", "horse", "--query", query, "--mask-samples", "1", "--steps", "1"]
    good(run("edit", "photo.png", *words, "--overwrite"))
    assert Path("photo.png").read_bytes() == before
    assert names(".") == {"photo.png", "photo-edited.png"}


def test_a_result_never_replaces_another_input_unasked(run: Run) -> None:
    noise(40, 30, seed=2).save("photo-zebra.png")
    before = Path("photo-zebra.png").read_bytes()
    done = run("edit", "photo.png", "photo-zebra.png", *QUICK, "--overwrite")
    refused(done, 3, "photo-zebra.png is an input", "1 of 2")
    assert Path("photo-zebra.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photo.png", "horse", "zebra"], "There is no file horse."),
        (["photo.png", "horse", *QUICK], "There is no file horse."),
        (["photo.png", "--ref", "horse", "--query", " "], "There is no query."),
        (["photo.png", "--ref", "horse", "--query", "z\udce9bra"], "is not valid text"),
    ],
)
def test_words_that_are_none_are_refused(run: Run, words: list[str], said: str) -> None:
    refused(run("edit", *words, model="no/such"), 2, said)


def test_errors_name_the_whole_path_and_once(run: Run) -> None:
    Path("out").mkdir()
    noise(9, 9).save("out/photo-zebra.png")
    refused(run("edit", "photo.png", *QUICK, "-o", "out"), 1, "Error: out/photo-zebra.png already exists.")
    done = run("edit", "in/none.png", "photo.png", *QUICK, "-o", "new")
    refused(done, 3, "Error: in/none.png does not exist.")


def test_a_dry_run_checks_files_and_masks(run: Run, forwards: list[int]) -> None:
    Path("text.png").write_text("no picture")
    box_mask((30, 40), (0, 0, 9, 9)).save("tall.png")
    dry = [*WORDS, "--dry-run", "-o", "new"]
    refused(run("edit", "text.png", *dry), 1, "text.png is not a picture")
    refused(run("edit", "photo.png", *dry, "--mask", "tall.png"), 1, "tall.png")
    done = run("edit", "text.png", "photo.png", *dry, "--json")
    refused(done, 3, "1 of 2")
    assert json.loads(done.stdout.splitlines()[-1])["outputs"] == ["new/photo-zebra.png"]
    assert forwards == []


# ------------------------------------------------------------------------------------------------ masks


def test_masks_are_found_by_the_names_of_the_pictures(run: Run) -> None:
    Path("in/deep").mkdir(parents=True)
    Path("masks/deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "deep/a.png", "c.png")):
        noise(40, 30, seed=number).save(Path("in", name))
        if name != "c.png":
            box = (10 * number, 0, 10 * number + 9, 30)
            box_mask((40, 30), box).save(Path("masks", name).with_suffix(".png"))
    flags = ["--query", "zebra", "--steps", "1", "--mask", "masks", "-o", "out", "--save-mask", "used"]
    refused(run("edit", "in", "-r", *flags), 3, "masks has no mask called c.", "1 of 4")
    assert names("out") == {"a-zebra.png", "b-zebra.png", "deep/a-zebra.png"}
    for name in ("a", "b", "deep/a"):
        used, given = Image.open(f"used/{name}-zebra.png"), Image.open(f"masks/{name}.png")
        assert used.tobytes() == given.tobytes()
    box_mask((40, 30), (0, 0, 9, 9)).save("masks/a.bmp")
    refused(run("edit", "in/a.png", *flags, "--overwrite"), 1, "several masks", "a.bmp")


def test_areas_come_from_folders_too(run: Run) -> None:
    for folder, box in (("add", (0, 0, 40, 15)), ("less", (0, 10, 40, 30))):
        Path(folder).mkdir()
        box_mask((40, 30), box).save(Path(folder, "photo.png"))
    areas = ["--mask-add", "add", "--mask-subtract", "less"]
    good(run("edit", "photo.png", *QUICK, *areas, "--save-mask", "used.png", "-o", "out.png"))
    used = np.asarray(Image.open("used.png"))
    assert (used[:10] == 255).all()
    assert (used[10:] == 0).all()


def test_an_inverted_mask_is_the_exact_complement(model: DiffusersDenoiser, run: Run) -> None:
    """Of a mask with a soft edge: what it touches is kept; the two share no pixel, and miss none."""
    picture = load_image("photo.png")
    soft = box_mask((40, 30), (10, 8, 30, 22)).resize((20, 15)).resize((40, 30), Image.Resampling.BILINEAR)
    assert 0 < np.asarray(soft)[np.asarray(soft) > 0].min() < 255
    config = EditConfig(query="zebra", steps=2, seed=1, mask=MaskConfig(invert=True))
    rest = edit_image(model, picture, config, mask=soft)
    assert ((np.asarray(rest.mask) > 0) == (np.asarray(soft) == 0)).all()
    kept = np.asarray(soft) > 0
    assert (np.asarray(rest.image)[kept] == np.asarray(picture.rgb)[kept]).all()
    assert rest.given == Masks(soft).hashes()  # of the mask as it was given


def test_a_found_mask_and_its_inverse_cover_each_pixel_once(model: DiffusersDenoiser, run: Run) -> None:
    picture = load_image("photo.png")
    found, rest = (
        make_mask(
            model,
            picture,
            EditConfig(ref="horse", query="zebra", seed=1, mask=MaskConfig(samples=1, invert=invert)),
        )
        for invert in (False, True)
    )
    assert 0 < found.coverage < 1
    assert ((np.asarray(found.mask) > 0) != (np.asarray(rest.mask) > 0)).all()
    assert found.coverage + rest.coverage == pytest.approx(1)
    assert "--mask-threshold" not in " ".join(rest.notices)


# ------------------------------------------------------------------------------- colours and other formats


def test_a_jpeg_is_said_to_differ_outside_the_mask(run: Run) -> None:
    for name, noted in (("a.jpg", True), ("a.webp", False), ("a.png", False)):
        box_mask((40, 30), (0, 0, 20, 30)).save("own.png")
        done = good(run("edit", "photo.png", "--mask", "own.png", "--steps", "1", "-o", name, "--json"))
        facts = json.loads(done.stdout)
        assert any("JPG stores pixels approximately" in notice for notice in facts["notices"]) == noted
        written = np.asarray(load_image(name).rgb)[:, 20:]
        assert (written == np.asarray(load_image("photo.png").rgb)[:, 20:]).all() != noted


def test_pictures_of_the_mask_keep_the_colour_profile(run: Run) -> None:
    noise(40, 30).save("wide.png", icc_profile=swapped_profile())
    words = ["--ref", "horse", "--query", "zebra", "--mask-samples", "1"]
    good(run("mask", "wide.png", *words, "-o", "m.png", "--overlay", "over.png", "--cutout", "cut.png"))
    assert load_image("cut.png").icc == swapped_profile()
    over, wide = load_image("over.png"), load_image("wide.png")
    assert over.icc is None  # it is shown in sRGB
    outside = np.asarray(load_image("m.png").rgb)[..., 0] == 0
    shown = np.asarray(to_srgb(wide.rgb, wide.icc))
    assert (np.asarray(over.rgb) == shown)[outside].all(1).mean() > 0.8  # but for the outline


def test_a_grid_shows_no_hidden_colour(run: Run) -> None:
    """Clear parts of the input are grey in the grid, not of the colour that lies under them."""
    hidden = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    hidden.paste((0, 0, 255, 255), (0, 0, 20, 30))
    hidden.save("clear.png")
    box_mask((40, 30), (0, 0, 9, 30)).save("own.png")
    words = ["--mask", "own.png", "--steps", "1", "-o", "out.png", "--grid", "grid.png"]
    good(run("edit", "clear.png", *words))
    shown = np.asarray(Image.open("grid.png").convert("RGB")).astype(int)
    assert not ((shown[..., 0] > 150) & (shown[..., 1] < 100) & (shown[..., 2] < 100)).any()


def test_a_comparison_shows_a_profile_in_srgb_and_stores_its_mask(run: Run) -> None:
    Image.new("RGB", (40, 30), (255, 0, 0)).save("green.png", icc_profile=swapped_profile())
    own = box_mask((40, 30), (0, 0, 9, 30))
    own.save("own.png")
    words = ["--mask", "own.png", "--query", "zebra", "--steps", "1", "--guidance-scale", "1,2"]
    good(run("compare", "green.png", *words, "-o", "grid.png", "--animate", "film"))
    stored = read_settings("grid.png")
    assert stored is not None
    assert stored["mask_sha256"] == Masks(own).hashes()["mask_sha256"]
    assert load_image("grid.png").icc is None
    for name in ("grid.png", "film/frame_0000.png"):
        shown = np.asarray(load_image(name).rgb).astype(int)
        assert ((shown[..., 1] > 200) & (shown[..., 0] < 60)).any()  # the pixel (255, 0, 0) is a green one
        assert not ((shown[..., 0] > 200) & (shown[..., 1] < 60)).any()
