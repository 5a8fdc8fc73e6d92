"""Tiny trainings are measured offline, without W&B, and with a server that refuses connections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import wandb_overhead
from benchmarks.wandb_overhead import NONE, SERVERS, WITHOUT, fault_table, main, measure_faults, time_kind
from tests.helpers.commands import run_module_interpreter

FIRST_STEPS = ("++trainer.limit_train_batches=2", "++trainer.limit_val_batches=1")


@pytest.fixture(autouse=True)
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the warm-up, as the measured times do not matter here."""
    monkeypatch.setattr(wandb_overhead, "warm_up", lambda overrides: 0.0)


def test_a_server_that_refuses_connections_loses_no_data(
    tiny_settings: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    measured = measure_faults(1, [*tiny_settings, "logger=default", *FIRST_STEPS], {"refuses": SERVERS["refuses"]})
    offline, refused = measured[NONE], measured["refuses"]
    assert [training.status for training in (*offline.trainings, *refused.trainings)] == [0, 0]
    assert offline.files == refused.files
    assert offline.files[0].metrics and offline.files[0].rows > 2 and offline.files[0].exit_code == 0
    assert refused.offline == [training.seconds for training in offline.trainings]
    assert capfd.readouterr().err.count("Logging offline") == 1
    assert len(list(fault_table(measured))) == 4


def test_trainings_without_wandb_leave_no_run(tiny_settings: list[str]) -> None:
    assert time_kind(WITHOUT, [*tiny_settings, *FIRST_STEPS]) > 0


def test_a_training_that_cannot_start_ends_the_measurement(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"error: .* exit status 1: optimiser"):
        main(["logging", "1", "optimiser=sgd"])
    assert "Traceback" not in capfd.readouterr().err


def test_the_calls_of_a_training_are_timed(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [*tiny_settings, *FIRST_STEPS, "logger=wandb", f"hydra.run.dir={tmp_path}/run"]
    done = run_module_interpreter("benchmarks.wandb_calls", *settings, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert {"log_hyperparams", "log_metrics", "log_results"} <= set(re.findall(r"\.(log_\w+)` \|", done.stdout))
    assert re.search(r"\d s of [\d.]+ s: ", done.stdout)
