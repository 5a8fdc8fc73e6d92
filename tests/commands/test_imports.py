"""What must be light imports nothing heavy, and --help answers at once."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT, run_interpreter


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


def cpu_seconds() -> float:
    """Return what the processes that have ended took: unlike a clock, this does not see what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_answers_in_two_seconds() -> None:
    times = []
    for _ in range(3):
        start = cpu_seconds()
        done = run_interpreter("train", "--help")
        times.append(cpu_seconds() - start)
        assert done.returncode == 0
        assert "data: default, garden, kaggle, tfrecords" in done.stdout
    assert 0 < min(times) < 2
