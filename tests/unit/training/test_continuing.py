"""A directory's run is continued only with its own settings."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from flowers.errors import InputError
from flowers.training.checkpoints import is_stopped
from flowers.training.continuing import check_same_run, find_finished
from flowers.training.runs import Run
from tests.helpers.configuration import compose_config


def compose_training(directory: Path, *overrides: str) -> DictConfig:
    config = compose_config("train", "resume=true", *overrides)
    config.paths.output_dir = str(directory)
    return config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run that has begun with the default settings and was killed."""
    run = Run(tmp_path / "run")
    run.write_config(compose_training(run.directory, "seed=1", "resume=false"))
    return run


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([], None),
        (["data.num_workers=3", "logger=csv", "report=false", "tags=[other]", "trainer.keep_memory=false"], None),
        (["+trainer.max_time='00:08:00:00'"], None),
        (["callbacks.last_checkpoint.every_n_steps=5", "callbacks.progress_bar=null", "ckpt_path=x.ckpt"], None),
        (["seed=2"], "seed: 1 before, 2 now"),
        (["trainer.devices=2"], "trainer.devices: 1 before, 2 now"),
        (["optimizer.lr=1"], "optimizer.lr: 0.0003 before, 1 now"),
        (["+trainer.limit_train_batches=2"], "trainer.limit_train_batches: None before, 2 now"),
        (["trainer.max_epochs=9"], "trainer.max_epochs: "),
        (["data.folds=4", "data.fold=1"], "data.fold: "),
        (["callbacks.linear_probe=null"], "callbacks.linear_probe"),
    ],
)
def test_a_run_is_continued_only_with_its_own_settings(run: Run, overrides: list[str], named: str | None) -> None:
    config = compose_training(run.directory, *(["seed=1"] if "seed=2" not in overrides else []), *overrides)
    if named is None:
        check_same_run(run, config)
    else:
        with pytest.raises(InputError) as caught:
            check_same_run(run, config)
        assert str(run.config_path) in str(caught.value)
        assert named in str(caught.value)


def test_a_tuned_run_is_continued_with_what_was_chosen(run: Run) -> None:
    began = compose_training(run.directory, "trainer.autotune=true")
    chosen = began.copy()
    OmegaConf.update(chosen, "trainer.precision", "bf16-mixed")
    OmegaConf.update(chosen, "trainer.threads", 1, force_add=True)
    run.write_config(chosen)
    check_same_run(run, began)
    with pytest.raises(InputError, match=r"trainer\.autotune: True before, False now"):
        check_same_run(run, compose_training(run.directory))


def test_a_directory_without_a_run_is_accepted(tmp_path: Path) -> None:
    check_same_run(Run(tmp_path), compose_training(tmp_path))
    assert find_finished(compose_training(tmp_path)) is None


def test_a_finished_run_has_its_metrics(run: Run) -> None:
    config = compose_training(run.directory, "seed=1")
    assert find_finished(config) is None
    run.write_metrics({"val/loss": 0.5, "val/macro_f1": math.nan})
    found = find_finished(config)
    assert found is not None and found["val/loss"] == 0.5 and math.isnan(found["val/macro_f1"])
    assert json.loads(run.metrics_path.read_text())["val/macro_f1"] is None
    assert find_finished(OmegaConf.merge(config, {"resume": False})) is None  # type: ignore[arg-type]


def test_a_run_that_the_time_limit_ended_is_not_finished(run: Run) -> None:
    config = compose_training(run.directory, "seed=1")
    run.write_metrics({"val/loss": 0.5}, cut_short=True)
    assert find_finished(config) is not None, "it has no checkpoint to go on from"
    write(run.last, age=0)
    assert find_finished(config) is None
    assert f"hydra.run.dir={run.directory} resume=true" in run.unfinished_path.read_text()
    assert run.read_metrics() == {"val/loss": 0.5}
    run.set_metrics_aside()
    assert run.read_metrics() is None
    assert len(list(run.directory.glob("metrics-until-*.json"))) == 1
    run.write_metrics({"val/loss": 0.25})
    assert find_finished(config) == {"val/loss": 0.25}


def write(path: Path, age: float) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_newest_checkpoint_is_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "1", "JOB_NAME": "train", "NTASKS": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert run.find_last_checkpoint() is None
    slurm = write(run.directory / "hpc_ckpt_1.ckpt", age=20)
    assert run.find_last_checkpoint() == slurm
    last = write(run.last, age=10)
    assert run.find_last_checkpoint() == last
    newer = write(run.directory / "hpc_ckpt_2.ckpt", age=0)
    assert run.find_last_checkpoint() == newer


@pytest.mark.parametrize(
    "began",
    ["callbacks.last_checkpoint=null", "callbacks=none", "callbacks.last_checkpoint.path=/elsewhere/last.ckpt"],
)
def test_checkpoints_are_kept_if_the_last_one_was_saved_elsewhere_or_not_at_all(run: Run, began: str) -> None:
    run.write_config(compose_training(run.directory, began))
    write(run.best, age=0)
    with pytest.raises(InputError, match=r"best\.ckpt"), run.claim(None, again=True):
        pass
    assert run.best.exists()


@pytest.mark.parametrize("again", ["continued", "started"])
def test_weights_of_a_run_that_had_ended_are_kept(run: Run, again: str) -> None:
    """It was continued from best.ckpt, having no last checkpoint, and killed before its next one."""
    write(run.best, age=0)
    run.write_metrics({})
    run.set_metrics_aside()
    if again == "continued":
        with run.claim(run.best, again=True):
            pass
    else:
        with pytest.raises(InputError, match=r"best\.ckpt"), run.claim(None, again=True):
            pass
    assert run.best.exists()


def test_a_first_epoch_is_also_discarded_in_a_moved_run(run: Run, tmp_path: Path) -> None:
    write(run.best, age=0)
    moved = Run(run.directory.rename(tmp_path / "moved"))
    moved.discard_first_epoch()
    assert not moved.best.exists()


@pytest.mark.parametrize(
    ("stopped_epoch", "wait_count", "stopped"), [(0, 0, False), (0, 2, False), (0, 3, True), (5, 3, True), (5, 0, True)]
)
def test_an_early_stop_is_known_from_its_epoch_or_its_patience(
    stopped_epoch: int, wait_count: int, stopped: bool
) -> None:
    state = {"stopped_epoch": stopped_epoch, "wait_count": wait_count, "patience": 3}
    assert is_stopped({"EarlyStopping{'monitor': 'val/loss'}": state, "Timer": {}}) == stopped


def test_only_a_first_epoch_is_discarded(run: Run) -> None:
    write(run.best, age=0)
    run.discard_first_epoch()
    assert not run.best.exists()
    write(run.best, age=0)
    write(run.last, age=0)
    run.discard_first_epoch()
    assert run.best.exists() and run.last.exists()
    run.last.unlink()
    run.write_metrics({})
    run.discard_first_epoch()
    assert run.best.exists()
    run.metrics_path.unlink()
    run.config_path.unlink()  # something else than a run of this program
    run.discard_first_epoch()
    assert run.best.exists()
