"""Take README's screenshots of a report: python scripts/screenshots.py RUN/report/index.html.

It needs the `dev` extra and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MOST_BYTES = 300_000
"""The size limit for all images together."""


def main(report: str) -> None:
    """Write docs/images/{metrics,confusion,mistakes}.jpg."""
    path = Path(report).resolve()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not path.is_file() or chromium is None:
        sys.exit(f"error: expected a report at {path} and Chromium on PATH, found {path.is_file()} and {chromium}.")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="light")
        page.goto(path.as_uri())
        page.wait_for_timeout(1000)  # milliseconds, until the charts are drawn
        take(page, "metrics", "header", "#curves")
        take(page, "mistakes", "#mistakes", height=700)
        page.fill("#search", "flower")
        page.wait_for_timeout(500)
        take(page, "confusion", "#matrix")
        browser.close()
    if (size := sum(file.stat().st_size for file in IMAGES.glob("*.jpg"))) > MOST_BYTES:
        sys.exit(f"error: {IMAGES}: expected {MOST_BYTES} bytes at most, found {size}. Lower the quality.")


def take(page: Page, name: str, first: str, last: str | None = None, height: float | None = None) -> None:
    """Write a screenshot of the page.

    Args:
        page: the report.
        name: the image's name, without suffix.
        first: the selector of the element at the top.
        last: the selector of the element at the bottom; None: the same element.
        height: the height in pixels, instead of `last`.
    """
    page.evaluate("scrollTo(0, 0)")
    top = page.locator(first).bounding_box()
    bottom = page.locator(last or first).bounding_box()
    assert top and bottom, "an element of the report is missing"
    clip = {"x": 0.0, "y": top["y"], "width": 1000.0, "height": height or bottom["y"] + bottom["height"] - top["y"]}
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=75, full_page=True, clip=clip)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
