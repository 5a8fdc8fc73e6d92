"""Imports run one way, and what must be light is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_run_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_is_checked_before_anything_heavy_is_imported() -> None:
    script = (
        "import sys; sys.path.insert(0, 'src'); import flowers.config, flowers.door\n"
        "print(sorted({'torch', 'lightning', 'timm', 'albumentations', 'wandb', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
