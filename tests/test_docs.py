"""README.md and docs/: their commands and their Python run, their links lead somewhere, the site builds."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from docs.make_pictures import PAGES, PICTURES, ROOT, commands

WITH_COMMANDS = [page for page in PAGES if commands(page)]
# benchmarks/quality.py and remove.py with --sheet, docs/make_page_picture.py
MADE_BY_SCRIPTS = {"edits.png", "removed.png", "page.png"}
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text("utf-8")]
OUTSIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/SOURCES.md",
    "training/README.md",
    "training/NOTEBOOK.md",
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example pictures, and few steps wherever a command names none."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFEDIT_STEPS", "2")
    monkeypatch.setenv("DIFFEDIT_MASK_SAMPLES", "1")
    monkeypatch.setenv("DIFFEDIT_OFFLINE", "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page_run(page: Path, clone: Path) -> None:
    for program, *arguments in commands(page):
        assert program == "diffedit"
        run = CliRunner().invoke(app, arguments)
        assert run.exit_code == 0, f"{' '.join(arguments)}\n{run.output}"
        for flag, value in pairwise(arguments):
            if flag in ("-o", "--grid", "--overlay", "--heatmap", "--cutout", "--animate", "--save-mask"):
                assert (clone / value).exists(), f"{' '.join(arguments)} wrote no {value}"


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, clone: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    quick = "".join(blocks).replace("seed=", "steps=2, seed=")
    exec(compile(quick, name_of(page), "exec"), {})
    assert (clone / "zebra.png").exists()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "search/search_index.json").exists()
    home = (tmp_path / "index.html").read_text("utf-8")
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', home)
    assert loaded == [], "the site loads nothing from elsewhere"


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / name for name in OUTSIDE)], ids=name_of)
def test_the_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    files = {target.split("#")[0] for target in targets if "://" not in target} - {""}
    assert [target for target in sorted(files) if not (page.parent / target).exists()] == []


def test_every_picture_is_shown_and_made_by_a_command() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    printed = {Path(word).name for page in PAGES for words in commands(page) for word in words}
    for picture in PICTURES.iterdir():
        assert f"pictures/{picture.name})" in text, f"{picture.name} is shown nowhere"
        assert picture.name in printed | MADE_BY_SCRIPTS, f"no page prints the command for {picture.name}"


def test_the_setup_of_the_readme_is_two_commands() -> None:
    setup = (ROOT / "README.md").read_text("utf-8").split("## Set up and run")[1].split("\n## ")[0]
    lines = [line.strip() for line in setup.splitlines() if line.startswith("    ")]
    assert len(lines) == 2
    assert lines[1].endswith("pytest")


def test_mathematics_names_tests_that_exist() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("*.py"))
    named = set(re.findall(r"\btest_\w+", (ROOT / "docs/math.md").read_text("utf-8")))
    files = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    assert {name for name in named - files if f"def {name}(" not in code} == set()


def test_every_licence_is_named_and_its_text_is_there() -> None:
    texts = {path.stem for path in (ROOT / "LICENSES").iterdir()}
    named = re.findall(r'^license = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    reuse = (ROOT / "REUSE.toml").read_text("utf-8")
    used = re.findall(r'^SPDX-License-Identifier = "(.*)"', reuse, re.MULTILINE)
    assert set(named[0].split(" AND ")) == set(used) == texts
