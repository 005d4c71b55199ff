"""Many pictures: manifests, parts, failures, formats and storage, in this process, with a tiny checkpoint."""

import csv
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffedit_cli.api import edit_image
from diffedit_cli.batch import Batch, Summary
from diffedit_cli.batch.engines.ray import Share, share_of
from diffedit_cli.batch.formats import names_of
from diffedit_cli.batch.manifest import KINDS, Row, config_of, read_rows, seed_of, typed
from diffedit_cli.batch.parts import Done, Job, Task, run_part
from diffedit_cli.cli.app import app
from diffedit_cli.errors import DiffeditError, SettingError
from diffedit_cli.images.masks import Masks, load_mask
from diffedit_cli.images.read import load_image, read_settings
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import EditConfig, MaskConfig, ModelConfig

WORDS = ["--ref", "horse", "--query", "zebra"]
QUICK = ["--steps", "2", "--mask-samples", "1"]
CONFIG = EditConfig(ref="horse", query="zebra", steps=2, seed=0, mask=MaskConfig(samples=1))
FORMATS = ["folder", "parquet", "webdataset"]
GETADDRINFO, CONNECT = socket.getaddrinfo, socket.create_connection

Run = Callable[..., Any]
Rows = list[dict[str, Any]]


@pytest.fixture
def batch(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """diffedit batch in an empty folder, into out; its exit code must be `code`."""
    monkeypatch.chdir(tmp_path)

    def invoke(source: Any, *flags: Any, code: int = 0, out: str = "out") -> Any:
        words = ["batch", source, "-o", out, *WORDS, *QUICK, "--model", checkpoint, "--device", "cpu", *flags]
        plain = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
        result = CliRunner().invoke(app, [str(word) for word in words], env=plain)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def draw(path: Path, number: int, size: tuple[int, int] = (45, 37)) -> Path:
    """A picture of soft blobs, another one for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def draw_mask(path: Path, size: tuple[int, int] = (45, 37)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    mask.save(path)
    return path


def pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        draw(folder / f"p{number:02}.png", number)
    return folder


def manifest(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def records(out: Path) -> Rows:
    """The records of all parts, in order."""
    return [r for file in sorted((out / "meta").glob("*.parquet")) for r in pq.read_table(file).to_pylist()]


def results(out: Path | str) -> Rows:
    with fsspec.open(f"{out}/metadata.parquet") as file:
        return pq.read_table(file).to_pylist()


def hashes(out: Path) -> dict[str, tuple[str, str]]:
    return {record["id"]: (record["sha256"], record["mask_sha256"]) for record in results(out)}


def failures(out: Path) -> Rows:
    return [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]


def facts(result: Any) -> dict[str, Any]:
    """The last line of JSON."""
    return json.loads(result.stdout.splitlines()[-1])


def refused(result: Any, *words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert result.stdout == ""


# manifests


def test_a_manifest_means_the_same_in_every_format(tmp_path: Path) -> None:
    rows: Rows = [
        {"id": "a", "image": "a.png", "ref": "horse", "query": "zebra, striped", "steps": 3},
        {"id": "7", "image": "sub/b.png", "mask_strength": [0.25, 0.5], "zoom": False, "mask": "m.png"},
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    manifest(tmp_path / "rows.jsonl", rows)
    texts = [{**rows[0]}, {**rows[1], "mask_strength": "0.25+0.5", "zoom": "off"}]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(texts)
    table = {key: [row.get(key) for row in rows] for key in columns}
    table["steps"] = pa.array([3.0, float("nan")])  # what pandas makes of whole numbers with a gap
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    found = [[*read_rows(str(tmp_path / f"rows.{kind}"))] for kind in ("jsonl", "csv", "parquet")]
    lines = [[row.canonical() for row in read] for read in found]
    assert lines[0] == lines[1] == lines[2]
    configs = [config_of(row, CONFIG) for row in found[1]]
    assert [config.steps for config in configs] == [3, 2]
    assert [config.query for config in configs] == ["zebra, striped", "zebra"]
    assert configs[1].mask.strength == (0.25, 0.5)
    assert configs[1].zoom is False
    assert found[1][1].masks == {"mask": "m.png"}


def test_every_setting_can_stand_in_a_text_cell() -> None:
    samples = {"guidance_interval": "0:0.5", "mask_strength": "0.25", "size": "64"}
    for key, kind in KINDS.items():
        options = getattr(kind, "__args__", ())
        plain = str(options[0]) if options and isinstance(options[0], str) else "1"
        value = typed(key, samples.get(key, "on" if bool in (kind, *options) else plain))
        assert config_of(Row("a", "a.png", {}, {key: value}), EditConfig()), key


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rows.jsonl", '{"id": 1, "image": "a.png"}\n{"id": "1", "image": "b.png"}\n', ["id 1", "twice"]),
        ("rows.jsonl", '{"image": "a.png"}\n', ["no id", "row 1 of rows.jsonl"]),
        ("rows.jsonl", '{"id": 1}\n\n{"id": 2, "step": 3}\n', ["no setting step", "row 2", "steps?"]),
        ("rows.jsonl", '{"id": 1}\n{"id": 2\n', ["Line 2 of rows.jsonl"]),
        ("rows.jsonl", "[1]\n", ["Line 1 of rows.jsonl"]),
        ("rows.jsonl", "\n", ["nothing to edit"]),
        ("rows.csv", "id,image\n1,a.png,b.png\n", ["Line 2 of rows.csv"]),
        ("rows.csv", "id,picture\n1,a.png\n", ["no setting picture"]),
        ("rows.parquet", "no such thing", ["not a Parquet file"]),
        ("rows.txt", "a.png", ["neither a folder nor"]),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    batch: Run, tmp_path: Path, name: str, text: str, words: list[str]
) -> None:
    (tmp_path / name).write_text(text)
    refused(batch(name, code=2), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--address", "auto"], ["--engine ray"]),
        (["--mask", "masks"], ["--mask needs a folder"]),
        (["--workers", "2", "--rows-per-part", "1", "-o", "memory://x"], ["one process"]),
        (["-o", "nonsense://x"], ["nonsense"]),
        (["-o", "."], ["something else"]),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_refused(
    batch: Run, tmp_path: Path, flags: list[str], words: list[str]
) -> None:
    manifest(tmp_path / "rows.jsonl", [{"id": i, "image": "a.png"} for i in range(2)])
    refused(batch("rows.jsonl", *flags, code=2), *words)


def test_a_folder_needs_words_and_another_place_for_the_results(batch: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 1)
    refused(batch("in", "--query", "", code=2), "no query")
    refused(batch("in", out="in/out", code=2), "into the folder of the pictures")
    refused(batch("nowhere.jsonl", code=1), "does not exist")
    (tmp_path / "file").write_text("")
    assert "Error: " in batch("in", out="file/out", code=1).stderr


def test_a_folder_is_read_with_those_below_it(tmp_path: Path) -> None:
    for name in ["a.png", "a.jpg", "b/c.v2.PNG", ".hidden/d.png", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    rows = [(row.id, row.image) for row in read_rows(str(tmp_path))]
    assert rows == [("a.jpg", "a.jpg"), ("a.png", "a.png"), ("b/c.v2", "b/c.v2.PNG")]


def test_names_of_files_are_safe_and_apart() -> None:
    ids = ["ok_1-x", "A", "a", "../up", "b/c", "v1.2", ".x", "-o", "test-1", "dev", "x" * 300, "ö", "latest"]
    names = names_of(ids)
    assert names[0] == "ok_1-x"
    assert names[-1] == "latest"  # holds no word `test`
    assert len({name.lower() for name in names}) == len(ids)
    assert all(name.startswith("id-") for name in names[1:-1])
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)
    assert names_of(ids) == names


# seeds and settings


def test_the_seed_is_a_hash_of_the_id_and_the_base(batch: Run, tmp_path: Path) -> None:
    seeds = {seed_of(identity, base) for identity in ("a", "b", "1") for base in (0, 1, 2**32 - 1)}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**32 for seed in seeds)
    draw(tmp_path / "a.png", 1)
    manifest(
        tmp_path / "rows.jsonl", [{"id": "a", "image": "a.png"}, {"id": "b", "image": "a.png", "seed": 5}]
    )
    batch("rows.jsonl", "--seed", "3")
    assert [record["seed"] for record in records(tmp_path / "out")] == [seed_of("a", 3), 5]


def test_a_row_is_what_edit_image_makes_of_it(batch: Run, tmp_path: Path, model: DiffusersDenoiser) -> None:
    """Each setting and mask of a row counts, and rows of one picture share nothing that shows."""
    picture, mask = draw(tmp_path / "in/a.png", 1), draw_mask(tmp_path / "in/m.png")
    rows: Rows = [
        {"id": "plain"},
        {"id": "steps", "steps": 3, "query": "dog", "seed": 9},
        {"id": "mask", "mask": "m.png"},
        {"id": "add", "mask_add": "m.png"},
        {"id": "subtract", "mask_subtract": str(mask)},
    ]
    manifest(tmp_path / "in/rows.jsonl", [{"image": "a.png", **row} for row in rows])
    batch("in/rows.jsonl", "--rows-per-part", 5)
    source, area = load_image(picture), load_mask(mask, (45, 37))
    given = {"mask": Masks(area), "add": Masks(add=area), "subtract": Masks(subtract=area)}
    for row, record in zip(
        read_rows(str(tmp_path / "in/rows.jsonl")), records(tmp_path / "out"), strict=True
    ):
        alone = edit_image(model, source, config_of(row, CONFIG), mask=given.get(row.id))
        with Image.open(tmp_path / "out" / record["file_name"]) as image:
            assert np.array_equal(np.array(image), np.array(alone.image)), row.id
        with Image.open(tmp_path / "out" / record["mask_file_name"]) as image:
            assert np.array_equal(np.array(image), np.array(alone.mask)), row.id
        assert read_settings(tmp_path / "out" / record["file_name"]) == alone.settings()
        assert record["coverage"] == alone.coverage
        assert record["changed_outside"] == 0
        assert record["source_sha256"] == source.sha256


def test_order_and_parts_play_no_part(batch: Run, tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    rows: Rows = [
        {"id": f"{i}{q}", "image": f"p0{i}.png", "query": q} for i in range(3) for q in ("dog", "cow")
    ]
    manifest(tmp_path / "rows.jsonl", rows)
    manifest(tmp_path / "back.jsonl", [rows[i] for i in (5, 0, 3, 2, 4, 1)])
    batch("rows.jsonl", "--rows-per-part", 6, out="one")
    batch("back.jsonl", "--rows-per-part", 4, out="two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert len(set(hashes(tmp_path / "one").values())) == 6


def test_masks_of_a_folder_are_matched_by_name(batch: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 2)
    draw_mask(tmp_path / "masks/p00.jpg")
    batch("in", "--mask", "masks", "--ref", "", "--query", "", code=3)
    (record,) = results(tmp_path / "out")
    assert (record["id"], record["coverage"]) == ("p00", pytest.approx(22 / 45, abs=0.1))
    assert failures(tmp_path / "out")[0]["error"] == "There is no mask for p01.png."


def test_notices_are_kept_and_counted(batch: Run, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    white = Image.new("L", (45, 37), 255)
    white.save(tmp_path / "white.png")
    manifest(tmp_path / "rows.jsonl", [{"id": 1, "image": "a.png", "mask": "white.png"}])
    told = batch("rows.jsonl")
    assert "Results with notes: 1" in told.stderr
    assert "The mask covers 100% of the picture" in results(tmp_path / "out")[0]["notices"]


# parts, and runs that follow each other


def test_a_second_run_does_nothing_and_another_setting_is_refused(batch: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 3)
    first = batch("in", "--json", "--rows-per-part", 2)
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [(line["part"], line["rows"], line["failed"]) for line in lines[:-1]] == [(0, 2, 0), (1, 1, 0)]
    assert lines[-1]["forwards"] == sum(line["forwards"] for line in lines[:-1]) > 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    second = facts(batch("in", "--json"))  # the rows of a part are those of the first run
    assert second == {"output": "out", "rows": 3, "parts": 0, "failed": 0, "noted": 0, "forwards": 0}
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
    refused(batch("in", "--steps", "3", code=2), "steps was 2 and is 3")
    refused(batch("in", "--steps", "3", "--dry-run", code=2), "steps was 2 and is 3")
    refused(batch("in", "--seed", "1", code=2), "seed was 0 and is 1")
    refused(batch("in", "--rows-per-part", "3", code=2), "rows_per_part was 2 and is 3")
    refused(batch("in", "--format", "parquet", code=2), "format was folder and is parquet")
    refused(batch("in", "--model", "embedded", code=2), "model: version")
    draw(tmp_path / "in/p03.png", 3)
    refused(batch("in", code=2), "rows was 3 and is 4", "manifest_sha256")


def test_a_part_that_is_lost_is_made_again(batch: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 4)
    batch("in", "--rows-per-part", 2)
    before = hashes(tmp_path / "out")
    (tmp_path / "out/meta/part-000001.parquet").unlink()
    for folder in ("images/part-000001", "meta", "."):
        (tmp_path / "out" / folder / ".diffedit-0.part").write_text("half")
    again = facts(batch("in", "--json"))
    assert again["parts"] == 1
    assert hashes(tmp_path / "out") == before
    assert not [*(tmp_path / "out").rglob("*.part")]
    (tmp_path / "out/meta/part-000000.parquet").write_bytes(b"half")
    refused(batch("in", code=1), "meta/part-000000.parquet is damaged")


@pytest.mark.parametrize("format", FORMATS)
def test_failures_are_rows_and_can_be_tried_again(batch: Run, tmp_path: Path, format: str) -> None:
    """A broken file and an impossible pair among 15 rows; fewer in the packed formats."""
    count, part = (15, 5) if format == "folder" else (6, 3)
    pictures(tmp_path / "in", count)
    good = (tmp_path / "in/p01.png").read_bytes()
    (tmp_path / "in/p01.png").write_bytes(good[:200])
    rows: Rows = [{"id": f"r{i}", "image": f"in/p{i:02}.png"} for i in range(count)]
    rows[4] |= {"ref": "zebra"}
    manifest(tmp_path / "rows.jsonl", rows)
    flags = "--format", format, "--rows-per-part", part, "--json"
    first = facts(batch("rows.jsonl", *flags, code=3))
    assert first["failed"] == 2
    before, out = hashes(tmp_path / "out"), tmp_path / "out"
    told = [(f["id"], Path(f["error"].split(" ")[0]).name) for f in failures(out)]
    assert told == [("r1", "p01.png"), ("r4", "The")]
    assert all(failure["hint"] for failure in failures(out))
    assert [record["id"] for record in records(out)] == [row["id"] for row in rows]
    second = facts(batch("rows.jsonl", *flags, code=3))
    assert (second["parts"], second["forwards"], second["failed"]) == (0, 0, 2)
    (tmp_path / "in/p01.png").write_bytes(good)
    again = facts(batch("rows.jsonl", *flags, "--retry-failed", code=3))
    assert again["forwards"] == first["forwards"] // (count - 2)  # one row's
    assert [failure["id"] for failure in failures(out)] == ["r4"]
    after = hashes(out)
    assert {key: after[key] for key in before} == before
    assert [*after] == [row["id"] for row in rows if row["id"] != "r4"]
    batch("rows.jsonl", *flags, out="fresh", code=3)
    assert hashes(tmp_path / "fresh") == after
    if format != "folder":
        for file in (out / "data").iterdir():
            assert file.read_bytes() == (tmp_path / "fresh/data" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"steps": 0}, "--steps 0 is out of range."),
        ({"steps": "many"}, "--steps cannot be 'many'."),
        ({"image": ""}, "The row has no image."),
        ({"image": "nowhere.png"}, "nowhere.png does not exist."),
        ({"image": "memory://nowhere/x.png"}, "x.png does not exist."),
        ({"image": "nonsense://x.png"}, "nonsense://x.png cannot be opened"),
        ({"mask": "m.png"}, "The mask m.png is 20 x 80 pixels"),
        ({"query": ""}, None),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_row_stops_no_other(
    batch: Run, tmp_path: Path, values: dict[str, Any], error: str | None
) -> None:
    draw(tmp_path / "a.png", 1)
    draw_mask(tmp_path / "m.png", (20, 80))
    manifest(tmp_path / "rows.jsonl", [{"id": 1, "image": "a.png", **values}, {"id": 2, "image": "a.png"}])
    batch("rows.jsonl", code=0 if error is None else 3)
    assert error is None or error in failures(tmp_path / "out")[0]["error"]
    assert "2" in {record["id"] for record in results(tmp_path / "out")}


def test_a_row_that_ends_its_worker_is_passed_over(tmp_path: Path, model: DiffusersDenoiser) -> None:
    """From the third attempt on a part notes each row that it begins; the next one passes over that row."""
    pictures(tmp_path / "in", 3)
    rows = tuple(read_rows(str(tmp_path / "in")))
    job = Job(str(tmp_path / "out"), str(tmp_path / "in"), "folder", CONFIG, ModelConfig())
    ends = iter([None, None, SystemExit])

    def die_in_the_third_row() -> None:
        if (end := next(ends)) is not None:
            raise end

    with pytest.raises(SystemExit):
        run_part(job, model, Task(0, rows, attempt=3), die_in_the_third_row)
    done = run_part(job, model, Task(0, rows, attempt=4), lambda: None)
    assert (done.rows, done.failed) == (3, 1)
    status = {record["id"]: record["error"] for record in records(tmp_path / "out")}
    assert status == {"p00": None, "p01": None, "p02": "The worker process died while it edited this row."}
    assert not [*(tmp_path / "out/running").iterdir()]
    done = run_part(job, model, Task(0, rows), lambda: None)
    assert done.failed == 0


def test_a_dry_run_counts_and_writes_nothing(batch: Run, tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    rows: Rows = [{"id": i, "image": f"p0{i}.png"} for i in range(3)]
    rows[1] |= {"steps": 4, "guidance_scale": 1.0}
    rows[2] |= {"mask": draw_mask(tmp_path / "m.png").name}
    manifest(tmp_path / "rows.jsonl", rows)
    told = facts(batch("rows.jsonl", "--dry-run", "--json"))
    assert not (tmp_path / "out").exists()
    assert (told["rows"], told["parts"], told["parts_left"]) == (3, 3, 3)
    assert told["forwards"] == facts(batch("rows.jsonl", "--json", "--no-zoom"))["forwards"]


# what comes out


def test_the_datasets_library_reads_every_format(batch: Run, tmp_path: Path) -> None:
    """An id such as test-1 must not become a split of its own, and a mask is no example."""
    draw(tmp_path / "a.png", 1)
    rows: Rows = [{"id": name, "image": "a.png"} for name in ("a", "test-1", "b/c", "train")]
    manifest(tmp_path / "rows.jsonl", [*rows, {"id": "bad", "image": "nowhere.png"}])
    for format in FORMATS:
        batch("rows.jsonl", "--format", format, "--rows-per-part", 2, out=format, code=3)
    script = """
import glob, os
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = "cache"
from datasets import load_dataset
import webdataset
folder = load_dataset("imagefolder", data_dir="folder")
parquet = load_dataset("parquet", data_files="parquet/data/*.parquet")
tars = load_dataset("webdataset", data_files="webdataset/data/*.tar")
for found in (folder, parquet):
    assert list(found) == ["train"], found
    assert found["train"]["id"][:] == ["a", "test-1", "b/c", "train"], found["train"]["id"][:]
    row = found["train"][1]
    assert row["image"].size == row["mask"].size == (45, 37)
    assert (row["image"].mode, row["mask"].mode, row["query"]) == ("RGB", "L", "zebra"), row
samples = list(tars["train"])
assert [sample["json"]["id"] for sample in samples] == ["a", "test-1", "b/c", "train"]
assert samples[0]["png"].size == samples[0]["mask.png"].size == (45, 37)
names = sorted(glob.glob("webdataset/data/*.tar"))
samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("pil"))
assert [sample["json"]["query"] for sample in samples] == ["zebra"] * 4
assert samples[0]["mask.png"].size == (45, 37)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_storage_by_url(batch: Run, tmp_path: Path) -> None:
    """Pictures, manifest and results in memory://, as in any store of fsspec."""
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe_file(f"/{tmp_path.name}/p{number}.png", draw(tmp_path / "x.png", number).read_bytes())
    rows: Rows = [{"id": 0, "image": "p0.png"}, {"id": 1, "image": f"memory://{tmp_path.name}/p1.png"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    memory.pipe_file(f"/{tmp_path.name}/rows.jsonl", text.encode())
    out = f"memory://{tmp_path.name}/out"
    batch(f"memory://{tmp_path.name}/rows.jsonl", out=out)
    assert facts(batch(f"memory://{tmp_path.name}/rows.jsonl", "--json", out=out))["forwards"] == 0
    for record in results(out):
        with fsspec.open(f"{out}/{record['file_name']}") as file:
            assert read_settings(file)["input"] == f"p{record['id']}.png"
    refused(batch(f"memory://{tmp_path.name}", out=out, code=2), "into the folder of the pictures")
    memory.rm(f"/{tmp_path.name}/out", recursive=True)
    batch(f"memory://{tmp_path.name}", out="memory://folder-of-results")
    assert [record["id"] for record in results("memory://folder-of-results")] == ["p0", "p1"]
    memory.rm(f"/{tmp_path.name}", recursive=True)
    memory.rm("/folder-of-results", recursive=True)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An object store on loopback; the URL of a bucket in it."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setattr(socket, "getaddrinfo", GETADDRINFO)
    monkeypatch.setattr(socket, "create_connection", CONNECT)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # they keep the address of another server
    bucket = f"bucket-{port}"
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}"
    server.stop()


@pytest.mark.filterwarnings("default")  # boto's
@pytest.mark.parametrize("format", FORMATS)
def test_an_object_store(batch: Run, tmp_path: Path, s3: str, format: str) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(str(pictures(tmp_path / "in", 3)), f"{s3}/in", recursive=True)
    (tmp_path / "in/p01.png").rename(tmp_path / "p01.png")
    fs.pipe_file(f"{s3}/in/p01.png", b"broken")
    flags = "--format", format, "--rows-per-part", 2, "--json"
    batch(f"{s3}/in", *flags, out=f"{s3}/out", code=3)
    fs.put_file(str(tmp_path / "p01.png"), f"{s3}/in/p01.png")
    assert facts(batch(f"{s3}/in", *flags, "--retry-failed", out=f"{s3}/out"))["parts"] == 1
    assert facts(batch(f"{s3}/in", *flags, out=f"{s3}/out"))["forwards"] == 0
    shutil.move(tmp_path / "p01.png", tmp_path / "in/p01.png")
    batch("in", *flags)
    assert results(f"{s3}/out") == results(tmp_path / "out")


# Ray's share of a cluster


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "share"),
    [
        ([{"CPU": 2}], 2, False, Share(1, 0)),  # as many as CPUs
        ([{"CPU": 8}], 2, False, Share(4, 0)),
        ([{"CPU": 8}, {"CPU": 3}], 3, False, Share(3, 0)),
        ([{"CPU": 8}, {"CPU": 2}], 2, False, Share(4, 0)),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 4, "GPU": 4}], 8, True, Share(1, 1)),
        ([{"CPU": 4}], 5, False, None),
        ([{"CPU": 8, "GPU": 2}], 3, True, None),
        ([{"CPU": 1, "GPU": 2}], 2, True, None),
        ([{"CPU": 0}], 0, False, None),
    ],
    ids=str,
)
def test_what_each_actor_is_given(
    nodes: list[dict[str, float]], workers: int, gpu: bool, share: Share | None
) -> None:
    if share is not None:
        assert share_of(nodes, workers, gpu=gpu) == share
        return
    with pytest.raises(SettingError, match="The cluster has room for"):
        share_of(nodes, workers, gpu=gpu)


def test_the_python_api(tmp_path: Path, checkpoint: Path) -> None:
    pictures(tmp_path / "in", 2)
    model = ModelConfig(model=str(checkpoint), device="cpu")
    batch = Batch(str(tmp_path / "in"), str(tmp_path / "out"), CONFIG, model)
    plan, rows = batch.plan(), list[None]()
    done = [*batch.run(plan, batch.left(plan), tick=lambda: rows.append(None))]
    assert all(isinstance(one, Done) for one in done)
    assert len(done) == len(rows) == 2
    assert batch.finish(plan) == Summary(failed=0, noted=0)
    assert batch.left(plan) == []
    with pytest.raises(DiffeditError, match="steps was 2 and is 3"):
        Batch(
            str(tmp_path / "in"), str(tmp_path / "out"), EditConfig("horse", "zebra", steps=3), model
        ).plan()
