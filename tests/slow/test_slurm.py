"""The jobs of a multirun run through submitit, which submits them to SLURM, here as processes of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowers.training.runs import Run
from tests.helpers.commands import run_interpreter

pytest.importorskip("submitit", reason="needs hydra-submitit-launcher and submitit: make setup")


def test_submitted_jobs_are_trained_once(tiny_settings: list[str], tmp_path: Path) -> None:
    short = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "data.num_workers=0", "logger=csv"]
    sweep = ["--multirun", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}", "resume=true"]
    times = []
    for seeds in ("seed=1", "seed=1,2"):
        done = run_interpreter("train", *sweep, *tiny_settings, *short, seeds)
        assert done.returncode == 0, done.stderr
        times.append(Run(tmp_path / "0").metrics_path.stat().st_mtime_ns)
    assert times[0] == times[1], "a finished job was trained again"
    assert (Run(tmp_path / "1").read_metrics() or {}).keys() >= {"val/loss", "train/loss"}
    assert Run(tmp_path / "1").config().seed == 2


def test_a_job_that_fails_is_reported_without_a_traceback(tiny_settings: list[str], tmp_path: Path) -> None:
    sweep = ["--multirun", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}", "resume=true"]
    done = run_interpreter("train", *sweep, *tiny_settings, "data.train_size=-1")
    assert done.returncode == 1
    assert "data.train_size" in done.stderr and "Traceback" not in done.stderr
