"""The documentation builds as a site whose links resolve, and which needs no network to view."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.browser import launch_browser, open_page
from tests.helpers.commands import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the built site."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm, from which make docs takes Mermaid")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        ["make", "docs", f"ARGS=--site-dir {directory}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING -" not in done.stdout + done.stderr
    return directory


@pytest.mark.slow
def test_every_page_opens_without_errors_or_requests(site: Path) -> None:
    pages = sorted(path for path in site.glob("*.html") if path.stem != "404")  # which has addresses of a server
    assert {page.stem for page in pages} == {path.stem for path in (ROOT / "docs").glob("*.md")}
    with launch_browser() as browser:
        for path in pages:
            with open_page(browser, path) as page:
                source = ROOT / "docs" / f"{path.stem}.md"
                diagrams = source.read_text().count("```mermaid") if source.exists() else 0
                page.wait_for_function(f"document.querySelectorAll('div.mermaid').length == {diagrams}")
                assert page.locator("pre.mermaid").count() == 0


@pytest.mark.slow
def test_the_search_finds_a_setting(site: Path) -> None:
    with launch_browser() as browser, open_page(browser, site / "index.html") as page:
        results = page.locator(".md-search-result__link")
        assert results.count() == 0
        page.get_by_role("textbox", name="Search").fill("layer_decay")
        results.first.wait_for()
        assert {"models.html", "settings.html"} <= set(
            results.evaluate_all("links => links.map(link => new URL(link.href).pathname.split('/').pop())")
        )


def test_settings_lists_every_class_of_the_configuration() -> None:
    targets = {
        target
        for path in (ROOT / "configs").glob("**/*.yaml")
        for target in re.findall(r"_target_: (flowers\.\S+)", path.read_text())
    }
    documented = set(re.findall(r"^::: (\S+)", (ROOT / "docs/settings.md").read_text(), flags=re.MULTILINE))
    assert documented == targets | {"flowers.training.execution.Execution"}  # of the trainer, beside Lightning's
