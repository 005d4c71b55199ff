"""Write docs/pictures/page.png, the README's picture of the page: python docs/make_page_picture.py

Needs Debian's chromium and the extra `dev`. The page is served by `diffedit serve`, and used as by a person.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
TARGET = HERE / "pictures/page.png"
EXAMPLE = HERE.parent / "examples/horse_park.jpg"
COMMAND = "from diffedit_cli.cli import main; main()"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET = ["--disable-background-networking", "--disable-component-update"]


def edit(page: Page) -> None:
    """A horse becomes a zebra, then a donkey; the zebra is looked at."""
    page.set_input_files("#file", EXAMPLE)
    page.locator("#pictures img").wait_for()
    for key, value in {"ref": "horse", "query": "zebra", "seed": "1"}.items():
        page.fill(f"#{key}", value)
    page.click("#find")
    page.locator("[data-view=mask][aria-pressed=true]").wait_for()
    for query, count in (("donkey", 1), ("zebra", 2)):
        page.fill("#query", query)
        page.click("#go")
        page.locator("#history .thumb img").nth(count - 1).wait_for()
        page.locator("[data-view=result][aria-pressed=true]").wait_for()
    page.wait_for_timeout(500)


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("chromium is not installed: apt-get install chromium")
    TARGET.parent.mkdir(exist_ok=True)
    server = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        link = server.stdout.readline().strip()
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=[*FLAGS, *QUIET])
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
            page.set_default_timeout(90_000)
            page.goto(link)
            page.locator("body[data-state=ready]").wait_for()
            edit(page)
            page.screenshot(path=TARGET)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
