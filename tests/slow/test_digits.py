"""The example of a user's data and model reaches its documented error."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.commands import run_script


def test_the_digits_are_learnt(tmp_path: Path) -> None:
    settings = ["--config-dir", "examples/digits/configs", "experiment=digits", "trainer=cpu", "logger=csv"]
    done = run_script("train", *settings, "test=true", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["val/error"] <= 0.03 and metrics["test/error"] <= 0.03
