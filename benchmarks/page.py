"""How long the page of `diffedit serve` makes a person wait, with the embedded model in Chromium.

    python -m benchmarks.page

Each round starts the command anew. The link: from the command to its printing. Shown: until a browser that
is already open shows the page. Ready: until it says that the model is loaded. Find: from the click to the
mask, beside what `diffedit mask --json` reports. Slider: the request behind one move of the threshold.
Stop: from Esc in the middle of an edit until the page is free again. Writes the table of docs/page.md and a
line to results.jsonl. It wants an idle machine.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import typer
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.report import markdown, record, write_block

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/page.md"
PICTURE = ROOT / "examples/horse_park.jpg"
COMMAND = [sys.executable, "-c", "from diffedit_cli.cli import main; main()"]
WORDS = {"ref": "horse", "query": "zebra", "seed": "1"}
MOVES = 20
MOVE = "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')) }"
REQUESTS = (
    "performance.getEntriesByType('resource').filter(one => one.name.endsWith('/api/mask'))"
    ".map(one => one.duration / 1000)"
)
TOLD = {
    "listens": "the command prints its link",
    "shown": "the browser shows the page",
    "ready": "the model is loaded",
    "find": "Find",
    "mask": "the same search by `diffedit mask`",
    "slider": "one move of a slider, median",
    "slider_p95": "one move of a slider, 95th percentile",
    "edit": "Edit, after Find",
    "stop": "Esc in the middle of an edit",
}


def mask_seconds() -> float:
    """What `diffedit mask` reports for the search, after loading."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--{key}={value}" for key, value in WORDS.items()]
        command = [*COMMAND, "mask", str(PICTURE), *words, "--json", "-o", f"{folder}/mask.png"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["seconds"]


@contextmanager
def serving() -> Generator[str]:
    """The link that the command prints."""
    command = [*COMMAND, "serve", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()


def until_shown(page: Page, view: str) -> None:
    chosen = page.locator(f"[data-view={view}]")
    expect(chosen).to_have_attribute("aria-pressed", "true", timeout=60_000)
    expect(page.locator("#progress")).to_be_hidden(timeout=60_000)


def slider(page: Page) -> list[float]:
    """Seconds of the request behind each of some moves."""
    page.evaluate("performance.clearResourceTimings()")
    for step in range(MOVES):
        page.locator("#threshold").evaluate(MOVE, 0.3 + 0.02 * step)
        page.wait_for_timeout(150)
    page.wait_for_load_state("networkidle")
    return page.evaluate(REQUESTS)


def visit(page: Page) -> dict[str, float]:
    """One person's way through the page; seconds of each part."""
    found: dict[str, float] = {}
    begin = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal begin
        found[name] = time.perf_counter() - begin
        begin = time.perf_counter()

    with serving() as link:
        lap("listens")
        start = begin - found["listens"]
        page.goto(link)
        expect(page.locator("#choose")).to_be_visible()
        found["shown"] = time.perf_counter() - start
        expect(page.locator("body")).to_have_attribute("data-state", "ready", timeout=60_000)
        found["ready"] = time.perf_counter() - start
        page.set_input_files("#file", PICTURE)
        expect(page.locator("#stage")).to_be_visible()
        for key, value in WORDS.items():
            page.fill(f"#{key}", value)
        begin = time.perf_counter()
        page.click("#find")
        until_shown(page, "mask")
        lap("find")
        moves = slider(page)
        found |= {"slider": statistics.median(moves), "slider_p95": statistics.quantiles(moves, n=20)[-1]}
        begin = time.perf_counter()
        page.click("#go")
        until_shown(page, "result")
        lap("edit")
        page.fill("#seed", "2")
        page.click("#go")
        expect(page.locator("#progress")).to_be_visible()
        page.wait_for_timeout(1000)
        begin = time.perf_counter()
        page.keyboard.press("Escape")
        expect(page.locator("#progress")).to_be_hidden()
        lap("stop")
    return found


def main(rounds: int = 3) -> None:
    """Measure, print, write the page's table, record the medians in seconds."""
    runs: list[dict[str, float]] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(rounds):
            context: Any = browser.new_context(viewport={"width": 1440, "height": 900})
            runs.append({"mask": mask_seconds(), **visit(context.new_page())})
            context.close()
        browser.close()
    middle = {key: round(statistics.median(run[key] for run in runs), 3) for key in TOLD}
    rows = [[TOLD[key], f"{value:.2f}"] for key, value in middle.items()]
    text = markdown(["", "seconds"], rows)
    cores = psutil.cpu_count()
    write_block(PAGE, "timings", f"{text}\n\n{rounds} rounds, {cores} cores, Chromium, embedded model.")
    typer.echo(text)
    record("page", rounds=rounds, cores=cores, seconds=middle)


if __name__ == "__main__":
    typer.run(main)
