"""Open pages in headless Chromium, and check that they have no errors and request nothing from a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"phone": 390, "desktop": 1280}


@contextmanager
def launch_browser() -> Iterator[Browser]:
    """Yield Chromium, or skip the test if there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, path: Path, width: str = "desktop", scheme: str = "light") -> Iterator[Page]:
    """Open a page, and check at the end that it had no errors and requested nothing."""
    page = browser.new_page(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url[:99]) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    yield page
    page.close()
    assert problems == []
