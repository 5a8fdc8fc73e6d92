"""The reports that commands write are checked in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.helpers.browser import CHROMIUM, launch_browser, open_page
from tests.helpers.commands import ROOT, run_script

SCREENS = [("phone", "dark"), ("desktop", "light")]
"""Widths and colour schemes: each occurs once, as a page takes seconds to draw. The slow tests have the others."""

OTHERS = [pytest.param(screen, marks=pytest.mark.slow) for screen in (("phone", "light"), ("desktop", "dark"))]


@pytest.fixture(scope="module")
def run(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run with a report."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    done = run_script("train", *tiny_settings, "report=true", "seed=1", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    assert f"{directory}/report/index.html" in done.stdout
    return directory


@pytest.fixture(scope="module")
def ensemble(run: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an ensemble of two runs."""
    directory = tmp_path_factory.mktemp("ensembles") / "ensemble"
    other = directory.parent / "other"
    shutil.copytree(trained, other, ignore=shutil.ignore_patterns("predictions", "wandb"))
    for member in (run, other):
        assert run_script("predict", f"run={member}", "split=val", "trainer=cpu").returncode == 0
    settings = [f"runs=[{run},{other}]", "methods=[mean]", "resamples=100", "logger=none"]
    done = run_script("ensemble", *settings, f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    assert f"{directory}/report/index.html" in done.stdout
    return directory


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_browser() as browser:
        yield browser


@pytest.fixture(params=[*SCREENS, *OTHERS], ids="-".join)
def page(browser: Browser, run: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Yield the report on a phone and a desktop, in light and dark colours. Any error on the page fails the test."""
    with open_page(browser, run / "report" / "index.html", *request.param) as page:
        yield page


def test_all_is_drawn_and_axe_finds_no_serious_problem(page: Page) -> None:
    check_drawn(page, charts=6)
    check_accessible(page)


def check_drawn(page: Page, charts: int) -> None:
    """Check that all images are loaded, at least `charts` charts are drawn, and nothing overflows the page."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].filter(image => image.naturalWidth === 0).length") == 0
    assert page.evaluate("document.images.length") > 12
    found = page.locator(".js-plotly-plot")
    assert found.count() >= charts
    for number in range(found.count()):
        chart, drawing = found.nth(number), found.nth(number).locator("svg.main-svg").first
        place, drawn = chart.bounding_box(), drawing.bounding_box()
        assert place and drawn and drawn["width"] <= place["width"] + 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing overflows


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_an_ensembles_report_compares_its_members(browser: Browser, ensemble: Path, width: str, scheme: str) -> None:
    with open_page(browser, ensemble / "report" / "index.html", width, scheme) as page:
        check_drawn(page, charts=5)
        check_accessible(page)
        assert page.locator("#compared table").first.locator("tbody tr").count() == 2
        summary = json.loads((ensemble / "ensemble.json").read_text())
        score = summary["macro_f1"]["validated"]["value"]
        assert f"{score:.3f}" in page.inner_text(".headlines")
        page.fill("#search", "rose")
        assert page.locator("#class-table tbody tr:not([hidden])").count() < 104


def check_accessible(page: Page) -> None:
    """Check that axe-core finds no serious problem."""
    found = Axe().run(page).response["violations"]
    serious = [problem for problem in found if problem["impact"] in ("serious", "critical")]
    assert [(problem["id"], problem["nodes"][0]["html"][:200]) for problem in serious] == []


def test_a_search_narrows_the_table_and_the_matrix(page: Page) -> None:
    rows = page.locator("#class-table tbody tr")
    matrix = "document.getElementById('confusion').data[0].y"
    assert rows.count() == page.evaluate(f"{matrix}.length") == 104
    page.fill("#search", "ROSE")
    shown = page.locator("#class-table tbody tr:not([hidden]) th").all_inner_texts()
    assert shown and all("rose" in text for text in shown)
    assert sorted(page.evaluate(matrix)) == sorted(shown)
    assert page.inner_text("#found").startswith(str(len(shown)))
    page.fill("#search", "")
    assert page.evaluate(f"{matrix}.length") == 104


def test_a_column_sorts_up_and_down(page: Page) -> None:
    head = page.locator("#class-table thead th").nth(1)
    counts = []
    for order in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        counts.append([int(text) for text in page.locator("#class-table tbody td:nth-child(2)").all_inner_texts()])
    assert counts == [sorted(counts[0]), sorted(counts[0], reverse=True)]


def test_the_keyboard_reaches_every_control(page: Page) -> None:
    wanted = page.evaluate("document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]').length")
    reached = []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 120)"))
    assert len(set(reached) - {"<body>"}) >= wanted - 1
    assert any('id="search"' in html for html in reached) and any(html.startswith("<summary") for html in reached)


def test_an_evaluation_writes_a_report_beside_that_of_the_training(run: Path) -> None:
    before = (run / "report" / "index.html").read_bytes()
    done = run_script("evaluate", f"run={run}", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert f"{run}/report/evaluation.html" in done.stdout
    metrics = json.loads((run / "metrics.json").read_text())
    text = (run / "report" / "evaluation.html").read_text()
    assert f"{metrics['val/macro_f1']:.3f}" in text and "python src/evaluate.py" in text
    assert (run / "report" / "index.html").read_bytes() == before


def test_a_fast_dev_run_writes_no_report(run: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [*tiny_settings, "report=true", "trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path}/run"]
    assert run_script("train", *settings).returncode == 0
    assert not list(tmp_path.rglob("*.html"))


def test_the_screenshots_of_readme_exist_and_are_small(run: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "docs").mkdir()
    command = [sys.executable, "scripts/screenshots.py", str(run / "report" / "index.html")]
    subprocess.run(command, cwd=tmp_path, check=True)
    names = sorted(path.name for path in (tmp_path / "docs" / "images").iterdir())
    assert names == sorted(path.name for path in (ROOT / "docs" / "images").iterdir())
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/images/{name}" in readme for name in names)
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 300_000
    refused = subprocess.run([*command[:2], "nowhere.html"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.startswith("error: ")
