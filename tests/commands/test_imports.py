"""Modules that must start quickly import no heavy packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT


def test_preparing_imports_neither_torch_nor_tensorflow_nor_beam() -> None:
    script = (
        "import sys, json, prepare, flowers.commands\n"
        "import flowers.preparation.folder, flowers.preparation.beam\n"
        "heavy = {'torch', 'lightning', 'timm', 'cv2', 'albumentations', 'tensorflow', 'apache_beam', 'wandb'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_uploading_imports_no_lightning() -> None:
    script = (
        "import sys; sys.path.insert(0, 'src'); import flowers.commands, flowers.reporting.uploads\n"
        "print(sorted({'torch', 'lightning', 'timm', 'albumentations', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "light",
    ["flowers.commands, flowers.settings", "flowers.preparation.verify, flowers.reporting.verification"],
    ids=["checking a configuration", "checking a data set"],
)
def test_light_modules_import_no_heavy_packages(light: str) -> None:
    script = (
        f"import sys; sys.path.insert(0, 'src'); import {light}\n"
        "print(sorted({'torch', 'lightning', 'timm', 'albumentations', 'wandb', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
