"""Jobs run on a SLURM cluster of one node, through submitit and by a script, and are resumed when it requeues them."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowers.training.runs import Run
from tests.helpers.commands import ROOT, ScriptProcess, run_interpreter
from tests.helpers.slurm import PROGRAMS, Cluster, running_cluster

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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not PROGRAMS.exists():
        pytest.skip("needs SLURM, on Debian or Ubuntu: make slurm")
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


STEPS = ["data.num_workers=0", "data.batch_size=4", "trainer.max_epochs=4", "resume=true"]
SAVED = ["callbacks.last_checkpoint.every_n_steps=2"]
"""An epoch has 52 steps, so a job is still training when its first steps are seen to be saved."""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.1)


def test_a_requeued_job_of_a_multirun_is_resumed(tiny_settings: list[str], tmp_path: Path, cluster: Cluster) -> None:
    small = ["gpus_per_node=null", "mem_gb=1", "cpus_per_task=1"]
    launcher = ["hydra/launcher=slurm", *(f"hydra.launcher.{setting}" for setting in small)]
    sweep = ["--multirun", *launcher, f"hydra.sweep.dir={tmp_path}", "seed=1,2"]
    command = ScriptProcess("train", *sweep, *tiny_settings, *STEPS, *SAVED, **cluster.environment)
    first, second = Run(tmp_path / "0"), Run(tmp_path / "1")
    wait_for(first.last)
    (folder,) = (tmp_path / ".submitit").glob("*_0")
    cluster.signal(folder.name, "USR2")
    done = command.wait(480)
    assert done.returncode == 0, done.stderr
    for run, seed in ((first, 1), (second, 2)):
        assert run.config().seed == seed
        assert (run.read_metrics() or {}).keys() >= {"val/loss", "train/loss"}
    printed = (folder / f"{folder.name}_0_log.out").read_text()
    assert f"Resuming from {first.last}" in printed


def test_a_script_is_requeued_and_resumed(tiny_settings: list[str], tmp_path: Path, cluster: Cluster) -> None:
    run = Run(tmp_path / "run")
    train = [sys.executable, str(ROOT / "src" / "train.py"), *tiny_settings, *STEPS, f"hydra.run.dir={run.directory}"]
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\nsrun {shlex.join(train)}\n")
    output = tmp_path / "output.txt"
    job = cluster.run(
        "sbatch", "--parsable", "--ntasks=1", "--open-mode=append", f"--output={output}", str(tmp_path / "job.sh")
    )
    wait_for(run.metrics_csv)
    cluster.signal(job, "USR1")
    assert len(list(run.directory.glob("hpc_ckpt_*.ckpt"))) == 1
    cluster.wait(job, "COMPLETED", 480)
    assert f"Resuming from {run.directory}" in output.read_text()
    assert (run.read_metrics() or {}).keys() >= {"val/loss", "train/loss"}
