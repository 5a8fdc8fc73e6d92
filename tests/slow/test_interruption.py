"""Signals, killed workers and killed trainings lose no batches and leave nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from flowers.errors import InputError
from flowers.training.runs import Run
from tests.conftest import damage_first_record
from tests.helpers.commands import ScriptProcess, run_process
from tests.helpers.killing import read_steps, run_uninterrupted, shorten
from tests.helpers.wandb_server import read_records

EPOCHS = 2


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    return shorten(tiny_settings, EPOCHS)


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the steps of an uninterrupted run."""
    return run_uninterrupted(run_process, settings, tmp_path_factory.mktemp("whole"))


def test_a_killed_training_releases_its_directory(tiny_settings: list[str], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    settings = [*tiny_settings, "data.num_workers=2", f"hydra.run.dir={run.directory}"]
    command = ScriptProcess("train", *settings, "callbacks.last_checkpoint.every_n_steps=1", "trainer.max_epochs=9")
    deadline = time.monotonic() + 120
    while not run.last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    command.process.kill()
    command.process.join()
    assert run.last.exists() and (run.directory / ".lock").exists()
    other = Run(run.directory)
    with run.claim(run.last), pytest.raises(InputError, match=str(run.directory)), other.claim(run.last):
        raise AssertionError("the directory was claimed twice")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_stops_the_training(
    settings: list[str], whole: list[dict[str, Any]], tmp_path: Path, number: signal.Signals
) -> None:
    last, seen = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "seen.jsonl"
    run = [
        *settings,
        "logger=default",
        "data.num_workers=2",
        f"+callbacks.killer.path={seen}",
        f"hydra.run.dir={tmp_path}/run",
    ]
    command = ScriptProcess("train", *run, "callbacks.last_checkpoint.every_n_steps=1")
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(command.pid, number)
    done = command.wait()
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    (logged,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    exits = [record.exit.exit_code for record in read_records(logged) if record.HasField("exit")]
    assert exits == [128 + number], "W&B does not show that the run was stopped"
    done = run_process("train", *run, f"ckpt_path={last}")
    assert done.returncode == 0, done.stderr
    assert read_steps(seen) == whole
    assert len({path.name.rpartition("-")[2] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")}) == 1


def test_a_killed_worker_ends_the_training_with_an_error(settings: list[str], tmp_path: Path) -> None:
    transform = "data.train_transform=[{_target_: tests.helpers.killing.Fatal, p: 1}]"
    run = [*settings, "callbacks.killer=null", "data.num_workers=1", transform, f"hydra.run.dir={tmp_path}/run"]
    done = run_process("train", *run, timeout=90)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: DataLoader worker")
    assert "Traceback" not in done.stderr


def test_an_error_in_validation_ends_the_workers_of_training(settings: list[str], garden: Path, tmp_path: Path) -> None:
    damage_first_record(garden, tmp_path / "data", "val")
    run = [*settings, "callbacks.killer=null", "data.num_workers=2", f"data.root={tmp_path}/data"]
    done = run_process("train", *run, f"hydra.run.dir={tmp_path}/run", timeout=90)
    assert done.returncode == 1
    assert done.stderr.startswith("error: "), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_prediction_ends_at_a_signal_and_leaves_no_file(trained: Path, number: signal.Signals) -> None:
    predictions = trained / "predictions"
    before = sorted(predictions.glob("*"))
    command = ScriptProcess("predict", f"run={trained}", "split=train", "trainer=cpu", "data.batch_size=1")
    deadline = time.monotonic() + 120
    while sorted(predictions.glob("*")) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # the file exists, and batches are being written
    os.killpg(command.pid, number)
    done = command.wait()
    assert done.returncode == 128 + number, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(predictions.glob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_generating_the_data_set_ends_at_a_signal_and_leaves_no_files(tmp_path: Path, number: signal.Signals) -> None:
    command = ScriptProcess("train", f"data.root={tmp_path}/garden", f"hydra.run.dir={tmp_path}/run", "logger=csv")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("garden.*.part/*/*/*.tfrec")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(command.pid, number)
    done = command.wait(20)  # the 48 shards take longer
    assert done.returncode == 128 + number, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.glob("garden*"))
