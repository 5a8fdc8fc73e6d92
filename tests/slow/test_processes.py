"""A training on several processes gives the results of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

from omegaconf import OmegaConf

from flowers.training.runs import Run
from tests.helpers.commands import ScriptProcess, run_process


def test_two_processes_give_the_metrics_of_one(tiny_settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_process(
        "train", *tiny_settings, "trainer.devices=2", "data.batch_size=9", "logger=csv", f"hydra.run.dir={run}"
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    for devices in (1, 2):
        done = run_process("evaluate", f"run={run}", "trainer=cpu", f"trainer.devices={devices}")
        assert done.returncode == 0, done.stderr
        for metric in ("loss", "accuracy", "macro_f1"):
            assert f"{metrics[f'val/{metric}']:.4f}" in done.stdout, (devices, metric)


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
