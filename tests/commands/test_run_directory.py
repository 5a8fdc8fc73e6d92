"""Each run has its own directory, and only its own checkpoints are resumed from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from flowers.training.runs import Run
from tests.helpers.commands import run_script

SHORT = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "data.num_workers=0", "logger=csv"]


def test_a_second_training_does_not_change_the_directory_of_the_first(
    trained: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "train.log"}
    done = run_script("train", *tiny_settings, *SHORT, f"hydra.run.dir={run}", "hydra.output_subdir=null")
    assert done.returncode == 1
    assert "ckpt_path=" in done.stderr
    assert before.items() <= {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}.items()


def test_two_trainings_at_once_cannot_use_the_same_directory(
    tiny_settings: list[str], trained: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    command = [*tiny_settings, *SHORT, "callbacks.progress_bar=null", f"hydra.run.dir={run.directory}"]
    with run.claim(None):
        done = run_script("train", *command)
        assert done.returncode == 1
        assert str(run.directory) in done.stderr
        assert "Traceback" not in done.stderr
        assert not run.config_path.exists(), "the run has written into another training's directory"
    done = run_script("train", *command)
    assert done.returncode == 0, done.stderr


def test_a_log_that_cannot_be_written_is_reported_in_one_line(tiny_settings: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to(tmp_path / "file" / "train.log")
    done = run_script("train", *tiny_settings, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/run/train.log: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_under_slurm_a_run_does_not_resume_the_checkpoint_of_another(
    trained: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    shutil.copy(trained / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt")
    slurm = {"JOB_ID": "1", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    run = tmp_path / "run"
    done = run_script("train", *tiny_settings, *SHORT, f"hydra.run.dir={run}", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2

    # A checkpoint of SLURM in the run's own directory is resumed, and the log names it.
    (run / "checkpoints" / "last.ckpt").rename(run / "hpc_ckpt_1.ckpt")
    done = run_script(
        "train", *tiny_settings, *SHORT, "trainer.max_epochs=2", f"hydra.run.dir={run}", cwd=tmp_path, **environment
    )
    assert done.returncode == 0, done.stderr
    assert f"{run}/hpc_ckpt_1.ckpt" in done.stdout + done.stderr
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
