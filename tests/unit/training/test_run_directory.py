"""Each run has a directory of its own, on all of its processes, and only its own checkpoints are found there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from flowers.errors import InputError
from flowers.training.runs import Run
from tests.helpers.commands import ROOT, Command, run_command

Door = Callable[..., "CompletedProcess[str]"]
SHORT = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "data.num_workers=0", "logger=csv"]


def test_runs_that_start_in_the_same_second_have_different_directories() -> None:
    directories = set()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for _ in range(3):
            config = compose("train", return_hydra_config=True)
            directories |= {config.hydra.run.dir, config.hydra.sweep.dir}
    assert len(directories) == 6


def test_a_directory_with_the_results_of_another_run_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.check_unused(None)
    (run.directory / "checkpoints").mkdir(parents=True)
    run.check_unused(None)  # killed before its first checkpoint
    run.best.touch()
    with pytest.raises(InputError, match=r"hydra\.run\.dir"):
        run.check_unused(None)
    with pytest.raises(InputError, match=r"hydra\.run\.dir"):
        run.check_unused(tmp_path / "other" / "checkpoints" / "last.ckpt")
    run.check_unused(run.best)


def test_a_second_training_leaves_the_first_ones_directory_alone(
    trained: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "train.log"}
    done = run_command("train", *tiny_settings, *SHORT, f"hydra.run.dir={run}", "hydra.output_subdir=null")
    assert done.returncode == 1
    assert "ckpt_path=" in done.stderr
    assert before.items() <= {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}.items()


def test_two_trainings_at_once_do_not_share_a_directory(
    tiny_settings: list[str], trained: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    command = [*tiny_settings, *SHORT, "callbacks.progress_bar=null", f"hydra.run.dir={run.directory}"]
    with run.claimed(None):
        done = run_command("train", *command)
        assert done.returncode == 1
        assert str(run.directory) in done.stderr
        assert "Traceback" not in done.stderr
        assert not run.config_path.exists(), "nothing is written into another training's directory"
    done = run_command("train", *command)
    assert done.returncode == 0, done.stderr


def test_a_killed_training_does_not_keep_its_directory(tiny_settings: list[str], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    settings = [*tiny_settings, "logger=csv", "data.num_workers=2", f"hydra.run.dir={run.directory}"]
    command = Command("train", *settings, "callbacks.last_checkpoint.every_n_steps=1", "trainer.max_epochs=9")
    deadline = time.monotonic() + 120
    while not run.last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    command.process.kill()
    command.process.join()
    with run.claimed(run.last):
        pass


@pytest.mark.parametrize(
    "content",
    [b"", b"- 1\n", b"word", b"data: 3\nmodel: null\n", b"data:\n\troot: x\n", b"a: [1\n", b"\x00\x01", b"\xff\xfe"],
)
def test_a_configuration_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    run = Run(tmp_path)
    run.config_path.write_bytes(content)
    with pytest.raises(InputError) as error:
        run.config()
    assert str(error.value).startswith(f"{run.config_path}: ")
    assert "\n" not in str(error.value)


def test_a_directory_in_which_no_log_can_be_written_is_one_line(tiny_settings: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to(tmp_path / "file" / "train.log")
    done = run_command("train", *tiny_settings, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/run/train.log: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_under_slurm_a_run_does_not_go_on_from_another_ones_weights(
    trained: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    shutil.copy(trained / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt")
    slurm = {"JOB_ID": "1", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    run = tmp_path / "run"
    done = run_command(
        "train", *tiny_settings, *SHORT, "logger=csv", f"hydra.run.dir={run}", cwd=tmp_path, **environment
    )
    assert done.returncode == 0, done.stderr
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2

    # What SLURM left in the run's own directory is resumed from, and the log says so.
    (run / "checkpoints" / "last.ckpt").rename(run / "hpc_ckpt_1.ckpt")
    done = run_command(
        "train", *tiny_settings, *SHORT, "trainer.max_epochs=2", f"hydra.run.dir={run}", cwd=tmp_path, **environment
    )
    assert done.returncode == 0, done.stderr
    assert f"{run}/hpc_ckpt_1.ckpt" in done.stdout + done.stderr
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_only_under_slurm_its_newest_checkpoint_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hpc_ckpt_2.ckpt", "hpc_ckpt_10.ckpt", "hpc_ckpt_old.ckpt"):
        (tmp_path / name).touch()
    assert Run(tmp_path).find_slurm_checkpoint() is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert Run(tmp_path).find_slurm_checkpoint() == tmp_path / "hpc_ckpt_10.ckpt"
    assert Run(tmp_path / "empty").find_slurm_checkpoint() is None


def test_a_grid_of_trainings_on_two_processes(tiny_settings: list[str], door: Door, tmp_path: Path) -> None:
    done = door(
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
    assert not (tmp_path / "logs").exists(), "the other processes have no directory of their own"


def test_nodes_that_start_at_different_times_finish_together(tiny_settings: list[str], tmp_path: Path) -> None:
    port = str(20000 + os.getpid() % 20000)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    settings = [*tiny_settings, *SHORT, "+trainer.num_nodes=2", "+trainer.strategy=ddp", f"paths.log_dir={tmp_path}"]
    nodes = []
    for rank in ("0", "1"):
        nodes.append(Command("train", *settings, NODE_RANK=rank, **common))
        time.sleep(0.1)
    for node in nodes:
        done = node.wait(120)
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    assert len(list(tmp_path.rglob("best.ckpt"))) == 1
