"""A run that is stopped in any way is resumed with its next batch, and reports that it was stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from flowers.errors import InputError
from flowers.training.callbacks import NonFiniteGuard
from tests.conftest import damage_first_record
from tests.helpers.commands import Command, run_command

BATCHES, EPOCHS = 13, 2


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    return [
        *tiny_settings,
        "data.batch_size=16",
        "data.num_workers=0",
        f"trainer.max_epochs={EPOCHS}",
        "logger=csv",
        "callbacks.progress_bar=null",
        "+callbacks.killer._target_=tests.helpers.killing.Killer",
    ]


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a run sees that nobody stops."""
    directory = tmp_path_factory.mktemp("whole")
    path = directory / "seen.jsonl"
    done = run_command("train", *settings, f"hydra.run.dir={directory}/run", f"+callbacks.killer.path={path}")
    assert done.returncode == 0, done.stderr
    return steps_of(path)


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
        done = run_command(
            "train", *settings, *stop, *resumed, f"hydra.run.dir={run}", f"+callbacks.killer.path={seen}"
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert (done.stderr.count("error: "), "SIGTERM" in done.stderr) == (int(status > 0), status == 143)
        assert last.exists()
    assert steps_of(seen) == whole, "no batch is lost, and none is seen twice"


@pytest.mark.parametrize(
    ("by", "status", "accumulate", "at", "batches", "steps"),
    [("stop", 0, 3, 3, 6, 2), ("SIGTERM", 143, 3, 3, 6, 2), ("stop", 0, 5, 11, BATCHES, 3)],
)
def test_a_run_stops_only_after_a_whole_step(
    settings: list[str], tmp_path: Path, by: str, status: int, accumulate: int, at: int, batches: int, steps: int
) -> None:
    seen = tmp_path / "seen.jsonl"
    done = run_command(
        "train",
        *settings,
        f"trainer.accumulate_grad_batches={accumulate}",
        f"+callbacks.killer.at={at}",
        f"+callbacks.killer.by={by}",
        f"+callbacks.killer.path={seen}",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.returncode == status, done.stderr
    assert len(steps_of(seen)) == batches
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (state["global_step"], state["FlowersDataModule"]["batch"]) == (steps, batches % BATCHES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_is_one_to_the_training(
    settings: list[str], whole: list[dict[str, Any]], tmp_path: Path, number: signal.Signals
) -> None:
    last, seen = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "seen.jsonl"
    run = [*settings, "data.num_workers=2", f"+callbacks.killer.path={seen}", f"hydra.run.dir={tmp_path}/run"]
    command = Command("train", *run, "callbacks.last_checkpoint.every_n_steps=1")
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(command.pid, number)
    done = command.wait()
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    done = run_command("train", *run, f"ckpt_path={last}")
    assert done.returncode == 0, done.stderr
    assert steps_of(seen) == whole


def test_a_worker_that_is_killed_ends_the_training_with_a_message(settings: list[str], tmp_path: Path) -> None:
    transform = "data.train_transform=[{_target_: tests.helpers.killing.Fatal}]"
    run = [*settings, "callbacks.killer=null", "data.num_workers=1", transform, f"hydra.run.dir={tmp_path}/run"]
    done = run_command("train", *run, timeout=90)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: DataLoader worker")
    assert "Traceback" not in done.stderr


def test_an_error_in_validation_ends_the_workers_of_training(settings: list[str], garden: Path, tmp_path: Path) -> None:
    damage_first_record(garden, tmp_path / "data", "val")
    run = [*settings, "callbacks.killer=null", "data.num_workers=2", f"data.root={tmp_path}/data"]
    done = run_command("train", *run, f"hydra.run.dir={tmp_path}/run", timeout=90)
    assert done.returncode == 1
    assert done.stderr.startswith("error: "), done.stderr


def test_a_second_ctrl_c_ends_a_training_at_once(settings: list[str], tmp_path: Path) -> None:
    killer = ["+callbacks.killer.at=2", "+callbacks.killer.by=SIGINT", "+callbacks.killer.times=2"]
    run = [f"+callbacks.killer.path={tmp_path}/seen.jsonl", f"hydra.run.dir={tmp_path}/run"]
    done = run_command("train", *settings, *killer, *run)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(steps_of(tmp_path / "seen.jsonl")) == 2
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(("at", "validating"), [(3, False), (5, False), (5, True)])
def test_a_run_that_is_stopped_beside_a_validation_logs_the_same_steps(
    settings: list[str], tmp_path: Path, at: int, validating: bool
) -> None:
    stop = [f"+callbacks.killer.at={at}", "+callbacks.killer.by=stop", f"+callbacks.killer.validating={validating}"]
    steps = {}
    for name, stops in (("whole", [[]]), ("stopped", [stop, [f"ckpt_path={tmp_path}/stopped/checkpoints/last.ckpt"]])):
        run = [f"+callbacks.killer.path={tmp_path}/seen", f"hydra.run.dir={tmp_path}/{name}"]
        for each in stops:
            done = run_command("train", *settings, "+trainer.val_check_interval=6", *each, *run)
            assert done.returncode == 0, done.stderr
        rows = [row for path in (tmp_path / name).glob("metrics*.csv") for row in csv.DictReader(path.open())]
        steps[name] = {(int(row["epoch"]), int(row["step"])) for row in rows if row["val/loss"]}
    assert steps["stopped"] == steps["whole"] | {(0, at)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_prediction_ends_at_a_signal_and_leaves_nothing(trained: Path, number: signal.Signals) -> None:
    predictions = trained / "predictions"
    before = sorted(predictions.glob("*"))
    command = Command("predict", f"run={trained}", "split=train", "trainer=cpu", "data.batch_size=1")
    deadline = time.monotonic() + 120
    while sorted(predictions.glob("*")) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # the file is there, and now batches come
    os.killpg(command.pid, number)
    done = command.wait()
    assert done.returncode == 128 + number, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(predictions.glob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_generating_the_data_set_ends_at_a_signal_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = Command("train", f"data.root={tmp_path}/garden", f"hydra.run.dir={tmp_path}/run", "logger=csv")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("garden.*.part/*/*/*.tfrec")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(command.pid, number)
    done = command.wait(20)  # the 48 shards take longer
    assert done.returncode == 128 + number, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.glob("garden*"))


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_good_checkpoint(
    settings: list[str], whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = run_command(
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


@pytest.mark.parametrize(("bad", "found"), [(range(4, 11), 4), ([10], 10), ([4], None)])
def test_where_reading_the_loss_takes_time_the_first_bad_step_is_found_later(
    bad: Sequence[int], found: int | None
) -> None:
    guard = NonFiniteGuard()
    trainer = SimpleNamespace(
        log_every_n_steps=10,
        is_last_batch=False,
        current_epoch=0,
        strategy=SimpleNamespace(root_device=torch.device("meta")),
    )
    with pytest.raises(InputError, match=f"step {found} .*image-{found}") if found else nullcontext():
        for step in range(1, 11):
            trainer.global_step = step
            outputs = {"loss": torch.tensor(float("inf") if step in bad else 1.0)}
            guard.on_train_batch_end(cast(Any, trainer), cast(Any, None), outputs, {"id": [f"image-{step}"]}, step - 1)
