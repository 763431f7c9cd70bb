"""The pictures of the dashboard in the documents, taken of a real study.

pip install '.[dev]' && apt install chromium
python docs/screenshots.py RUNS [--out docs] [--chromium PATH]
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
TABLE, LONG = {"width": 1280, "height": 1040}, {"width": 1280, "height": 1780}
"""From the best so far to the runs; from the verdict of a run to the pictures of its flow."""

MOST_MS, SETTLED_MS = 120_000, 2500
"""For the last thing to wait for, and after it."""


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with served(options.runs) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        with opened(browser, address, size=TABLE) as page:
            page.locator("#best-so-far .main-svg").first.wait_for(timeout=MOST_MS)
            taken(page, options.out / "dashboard-runs.png")
            chosen = page.evaluate("document.querySelector('#compare').href")
            page.goto(chosen)
            page.locator("#multiples .main-svg").first.wait_for(timeout=MOST_MS)
            taken(page, options.out / "dashboard-compare.png")
            key = chosen.partition("run=")[2].partition("&")[0]
            page.goto(f"{address.partition('/runs/')[0]}/runs/run/{key}")
            page.locator("#verdict", has_text="than chance").wait_for(timeout=MOST_MS)
            page.locator("#contours", has_text="200,000").wait_for(timeout=MOST_MS)
            page.set_viewport_size(LONG)
            taken(page, options.out / "dashboard-run.png")
        with opened(browser, address, scheme="dark", size=TABLE) as page:
            page.locator("#best-so-far .main-svg").first.wait_for(timeout=MOST_MS)
            taken(page, options.out / "dashboard-dark.png")
        with opened(browser, address, size=PHONE) as page:
            page.goto(chosen)
            page.locator("#curves .main-svg").first.wait_for(timeout=MOST_MS)
            taken(page, options.out / "dashboard-phone.png")
        browser.close()


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """A dashboard over the runs, and its address."""
    command = [sys.executable, "-m", "hpo.cli", "dashboard", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


@contextmanager
def opened(
    browser: Browser, address: str, *, scheme: str = "light", size: dict[str, int] = DESK
) -> Iterator[Page]:
    """The table of all runs, its best chosen."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.locator("#grid .ag-row").first.wait_for(state="attached")  # hidden on a phone
    page.locator("#best").click()
    page.wait_for_function("document.querySelector('#compare').href.includes('run=')")
    yield page
    context.close()


def taken(page: Page, path: Path) -> None:
    """What is seen from the top, in 256 colours: a third of the bytes."""
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(1, 1)
    page.wait_for_timeout(SETTLED_MS)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
