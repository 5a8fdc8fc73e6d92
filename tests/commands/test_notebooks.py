"""The notebooks' code runs, cell by cell, on the tiny garden and the tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.commands import run_script

ROOT = Path(__file__).parents[2]


def run_cells(name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a notebook's cells in one namespace; `settings` replace what its first cell sets."""
    monkeypatch.chdir(ROOT)
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    namespace: dict[str, Any] = {}
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for number, source in enumerate(code):
        exec(compile(source, f"{name}, cell {number}", "exec"), namespace)
        namespace |= settings
    return namespace


def test_look_at_the_data(garden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    namespace = run_cells("look_at_the_data", {"ROOT": str(garden), "SIZE": 192, "PICTURES": 16}, monkeypatch)
    assert sum(namespace["counts"].values()) == 208
    assert isinstance(namespace["sheet"]([sample.image for sample in namespace["samples"]]), Image.Image)
    assert "pink primrose" in capsys.readouterr().out


def test_look_at_the_mistakes(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("predict", f"run={trained}", "split=val", "trainer=cpu").returncode == 0
    run_cells("look_at_the_mistakes", {"RUN": trained, "PICTURES": 4}, monkeypatch)
    assert "of 104 wrong" in capsys.readouterr().out
