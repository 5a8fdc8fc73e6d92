"""A run that is stopped in any way is resumed with its next batch, and reports that it was stopped."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.commands import run_script
from tests.helpers.killing import read_steps, run_uninterrupted, shorten

BATCHES, EPOCHS = 13, 2


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    return shorten(tiny_settings, EPOCHS)


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the steps of an uninterrupted run."""
    return run_uninterrupted(run_script, settings, tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_a_stopped_run_is_resumed_with_its_next_batch(
    settings: list[str], whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    seen, run = tmp_path / "seen.jsonl", tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    stops = [
        (143, ["+callbacks.killer.at=3", "+callbacks.killer.by=SIGTERM"]),
        (0, ["+callbacks.killer.at=7", "+callbacks.killer.by=stop"]),
        (0, ["trainer.max_steps=10"]),
        (143, ["+callbacks.killer.at=12", "+callbacks.killer.by=SIGTERM", "+callbacks.killer.validating=true"]),
        (130, ["+callbacks.killer.at=17", "+callbacks.killer.by=SIGINT"]),
        (143, ["+callbacks.killer.at=25", "+callbacks.killer.by=SIGTERM"]),
    ]
    for status, stop in stops:
        resumed = [f"ckpt_path={last}"] if last.exists() else []
        done = run_script("train", *settings, *stop, *resumed, f"hydra.run.dir={run}", f"+callbacks.killer.path={seen}")
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert (done.stderr.count("error: "), "SIGTERM" in done.stderr) == (int(status > 0), status == 143)
        assert last.exists()
    assert read_steps(seen) == whole, "a batch was lost or repeated"


def test_a_run_with_a_number_of_steps_is_resumed_with_its_next_epoch(
    settings: list[str], whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    steps = BATCHES + 5
    run = [*settings, f"trainer.max_steps={steps}", f"hydra.run.dir={tmp_path}/run"]
    run += [f"+callbacks.killer.path={tmp_path}/seen.jsonl", "+callbacks.killer.by=SIGTERM", "resume=true"]
    assert run_script("train", *run, KILLER_AT=str(BATCHES - 1)).returncode == 143
    done = run_script("train", *run)
    assert done.returncode == 0, done.stderr
    assert read_steps(tmp_path / "seen.jsonl") == whole[:steps], "a batch was lost or repeated"


def test_data_without_a_length_are_saved_after_their_epochs(settings: list[str], tmp_path: Path) -> None:
    data = ["data._target_=tests.helpers.data_modules.UnsizedData", "+trainer.limit_val_batches=0"]
    schedule = ["scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=9"]
    schedule += ["~scheduler.warmup_epochs", "~scheduler.start", "~scheduler.end"]  # they need the run's length
    run = [*schedule, f"+callbacks.killer.path={tmp_path}/seen.jsonl", f"hydra.run.dir={tmp_path}/run"]
    done = run_script("train", *settings, *data, *run)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == EPOCHS
    assert state["global_step"] == EPOCHS * BATCHES


@pytest.mark.parametrize(
    ("by", "status", "accumulate", "at", "batches", "steps"),
    [("stop", 0, 3, 3, 6, 2), ("SIGTERM", 143, 3, 3, 6, 2), ("stop", 0, 5, 11, BATCHES, 3)],
)
def test_a_run_stops_only_after_a_whole_step(
    settings: list[str], tmp_path: Path, by: str, status: int, accumulate: int, at: int, batches: int, steps: int
) -> None:
    seen = tmp_path / "seen.jsonl"
    done = run_script(
        "train",
        *settings,
        f"trainer.accumulate_grad_batches={accumulate}",
        f"+callbacks.killer.at={at}",
        f"+callbacks.killer.by={by}",
        f"+callbacks.killer.path={seen}",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.returncode == status, done.stderr
    assert len(read_steps(seen)) == batches
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (state["global_step"], state["FlowersDataModule"]["batch"]) == (steps, batches % BATCHES)


def test_a_second_ctrl_c_ends_a_training_at_once(settings: list[str], tmp_path: Path) -> None:
    killer = ["+callbacks.killer.at=2", "+callbacks.killer.by=SIGINT", "+callbacks.killer.times=2"]
    run = [f"+callbacks.killer.path={tmp_path}/seen.jsonl", f"hydra.run.dir={tmp_path}/run"]
    done = run_script("train", *settings, *killer, *run)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(read_steps(tmp_path / "seen.jsonl")) == 2
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def find_validations(settings: list[str], directory: Path, *runs: list[str]) -> set[tuple[int, int]]:
    """Train the runs in a directory, one after the other, and return the epoch and step of each logged validation."""
    each_time = ["+trainer.val_check_interval=6", f"+callbacks.killer.path={directory}/seen"]
    for run in runs:
        done = run_script("train", *settings, *each_time, *run, f"hydra.run.dir={directory}/run")
        assert done.returncode == 0, done.stderr
    rows = [row for path in (directory / "run").glob("metrics*.csv") for row in csv.DictReader(path.open())]
    return {(int(row["epoch"]), int(row["step"])) for row in rows if row["val/loss"]}


@pytest.fixture(scope="module")
def validated(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> set[tuple[int, int]]:
    """Return the validations of an uninterrupted run."""
    return find_validations(settings, tmp_path_factory.mktemp("validated"), [])


@pytest.mark.slow
@pytest.mark.parametrize(("at", "validating"), [(3, False), (5, False), (5, True)])
def test_a_run_stopped_near_a_validation_logs_the_same_steps(
    settings: list[str], validated: set[tuple[int, int]], tmp_path: Path, at: int, validating: bool
) -> None:
    stop = [f"+callbacks.killer.at={at}", "+callbacks.killer.by=stop", f"+callbacks.killer.validating={validating}"]
    resume = [f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt"]
    assert find_validations(settings, tmp_path, stop, resume) == validated | {(0, at)}


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_good_checkpoint(
    settings: list[str], whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = run_script(
        "train",
        *settings,
        "callbacks.last_checkpoint.every_n_steps=1",
        "+callbacks.spoiler={_target_: tests.helpers.killing.Spoiler, at: 4}",
        "callbacks.killer=null",
        f"hydra.run.dir={run}",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for expected in ("step 5", "nan", "learning rate", *whole[4]["seen"][0]):
        assert expected in done.stderr
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    assert not (run / "metrics.json").exists()
