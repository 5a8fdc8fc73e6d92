"""A training on several processes gives the results of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from flowers.training.runs import Run
from tests.helpers.commands import ScriptProcess, run_process


def test_two_processes_give_the_metrics_of_one(tiny_settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_process("train", *tiny_settings, "trainer.devices=2", "data.batch_size=9", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    for devices in (1, 2):
        done = run_process("evaluate", f"run={run}", "trainer=cpu", f"trainer.devices={devices}")
        assert done.returncode == 0, done.stderr
        assert "sync_dist" not in done.stderr
        for metric in ("loss", "accuracy", "macro_f1"):
            assert f"{metrics[f'val/{metric}']:.4f}" in done.stdout, (devices, metric)


def test_two_processes_train_as_one_with_the_same_global_batch(
    tiny_settings: list[str], trained: Path, tmp_path: Path
) -> None:
    """The pretrained statistics of batch norm are kept: in training each process would normalise by its own part."""
    weights = f"model.pretrained={trained}/checkpoints/best.ckpt"
    settings = [*tiny_settings, weights, "trainer.max_epochs=2", "data.num_workers=0"]
    metrics, states = [], []
    for devices, batch_size in ((1, 16), (2, 8)):
        run = Run(tmp_path / str(devices))
        parts = [f"trainer.devices={devices}", f"data.batch_size={batch_size}", f"hydra.run.dir={run.directory}"]
        done = run_process("train", *settings, *parts)
        assert done.returncode == 0, done.stderr
        metrics.append(run.read_metrics() or {})
        states.append(torch.load(run.last, weights_only=True)["state_dict"])
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-4), name
    for name, value in states[0].items():
        assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("victim", ["first", "other"])
def test_a_killed_process_ends_the_training(tiny_settings: list[str], tmp_path: Path, victim: str) -> None:
    run = Run(tmp_path / "run")
    endless = [*tiny_settings, "trainer=ddp_sim", "trainer.max_epochs=1000", "data.batch_size=8", "logger=csv"]
    command = ScriptProcess("train", *endless, f"hydra.run.dir={run.directory}")
    try:
        wait_until(run.last.exists)
        victims = {"first": command.pid, "other": find_child(command.pid, "LOCAL_RANK=1")}
        os.kill(victims[victim], signal.SIGKILL)
        done = command.wait(60)
        assert done.returncode in (1, -signal.SIGKILL)
        assert "Traceback" not in done.stderr
        wait_until(lambda: not find_session(command.pid), 60)
    finally:
        for process in find_session(command.pid):
            os.kill(int(process), signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


def find_child(parent: int, variable: str) -> int:
    """Return the process that `parent` has started with a variable in its environment."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (child,) = (child for child in children if variable.encode() in Path(f"/proc/{child}/environ").read_bytes())
    return int(child)


def find_session(leader: int) -> list[str]:
    """Return the processes of a session that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
            if session == str(leader) and state != "Z":
                found.append(status.parent.name)
    return found


def test_records_skipped_in_other_processes_are_reported(
    garden: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    shutil.copytree(garden / "tfrecords-jpeg-192x192", tmp_path / "data" / "tfrecords-jpeg-192x192")
    shards = sorted((tmp_path / "data").rglob("train/*.tfrec"))
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[500] ^= 1
        shard.write_bytes(data)
    done = run_process(
        "train",
        *tiny_settings,
        f"data.root={tmp_path / 'data'}",
        "data.on_bad_record=skip",
        "data.num_workers=0",
        "data.batch_size=8",
        "trainer=ddp_sim",
        "+trainer.limit_val_batches=1",
        "logger=csv",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf" {len(shards)} .*data\.on_bad_record=skip", done.stdout)


SHORT = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "data.num_workers=0", "logger=csv"]


def test_a_grid_of_trainings_runs_on_two_processes(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_process(
        "train",
        "--multirun",
        *tiny_settings,
        *SHORT,
        "trainer.devices=2",
        "+trainer.strategy=ddp",
        "optimizer.lr=1e-3,3e-3",
        f"hydra.sweep.dir={tmp_path}/sweep",
        f"paths.log_dir={tmp_path}/logs",
    )
    assert done.returncode == 0, done.stderr
    for job, rate in (("0", 1e-3), ("1", 3e-3)):
        run = Run(tmp_path / "sweep" / job)
        assert OmegaConf.load(run.config_path).optimizer.lr == rate
        assert run.best.exists()
        assert run.metrics_path.exists()
    assert not (tmp_path / "logs").exists(), "another process has created a directory"


def test_nodes_that_start_at_different_times_finish_together(tiny_settings: list[str], tmp_path: Path) -> None:
    port = str(20000 + os.getpid() % 20000)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    settings = [*tiny_settings, *SHORT, "+trainer.num_nodes=2", "+trainer.strategy=ddp", f"paths.log_dir={tmp_path}"]
    nodes = []
    for rank in ("0", "1"):
        nodes.append(ScriptProcess("train", *settings, NODE_RANK=rank, **common))
        time.sleep(0.1)
    for node in nodes:
        done = node.wait(120)
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    assert len(list(tmp_path.rglob("best.ckpt"))) == 1


def test_tensorboard_receives_the_metrics(tiny_settings: list[str], tmp_path: Path) -> None:
    short = ["logger=tensorboard", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1"]
    # In a process of its own: TensorBoard imports TensorFlow, which cannot be imported after the tfrecord package.
    done = run_process("train", *tiny_settings, *short, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_each_of_two_processes_looks_up_its_teachers_predictions(
    tiny_settings: list[str], trained: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(trained, teacher)
    for step in ("live", "file"):
        done = run_process(
            "train",
            *tiny_settings,
            *SHORT,
            "trainer=ddp_sim",
            "data.batch_size=8",
            f"model.teacher={teacher}",
            f"hydra.run.dir={tmp_path / step}",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Teacher: ") == 1
        assert f"Teacher: {'the model of' if step == 'live' else '208 predictions of'}" in done.stdout
        done = run_process("predict", f"run={teacher}", "split=train", "trainer=cpu")
        assert done.returncode == 0, done.stderr
