"""Imports run one way, and what must be light is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_imports_run_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "light",
    ["flowers.commands, flowers.settings", "flowers.preparation.verify, flowers.reporting.verification"],
    ids=["checking a configuration", "checking a data set"],
)
def test_nothing_heavy_is_imported_for(light: str) -> None:
    script = (
        f"import sys; sys.path.insert(0, 'src'); import {light}\n"
        "print(sorted({'torch', 'lightning', 'timm', 'albumentations', 'wandb', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
