"""A run's directory belongs to one run, and its files are written and read back."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from flowers.errors import InputError
from flowers.training.runs import Run, find_newest_run, recipe_of
from tests.helpers.commands import ROOT
from tests.helpers.configuration import compose_config


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


@pytest.mark.parametrize(
    "content",
    [b"", b"- 1\n", b"word", b"data: 3\nmodel: null\n", b"data:\n\troot: x\n", b"a: [1\n", b"\x00\x01", b"\xff\xfe"],
)
def test_an_invalid_configuration_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    run = Run(tmp_path)
    run.config_path.write_bytes(content)
    with pytest.raises(InputError) as error:
        run.config()
    assert str(error.value).startswith(f"{run.config_path}: ")
    assert "\n" not in str(error.value)


def test_the_newest_checkpoint_of_slurm_is_resumed_only_under_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hpc_ckpt_2.ckpt", "hpc_ckpt_10.ckpt", "hpc_ckpt_old.ckpt"):
        (tmp_path / name).touch()
    assert Run(tmp_path).find_slurm_checkpoint() is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert Run(tmp_path).find_slurm_checkpoint() == tmp_path / "hpc_ckpt_10.ckpt"
    assert Run(tmp_path / "empty").find_slurm_checkpoint() is None


@pytest.fixture(scope="module")
def default() -> DictConfig:
    """Return the default configuration of a training. Read only."""
    return compose_config("train")


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("data.fold", 3, True),
        ("paths.data_dir", "/elsewhere", True),
        ("paths.output_dir", "/elsewhere", True),
        ("tags", ["another"], True),
        ("callbacks.progress_bar", None, True),
        ("trainer.compile", True, True),
        ("trainer.threads", 2, True),
        ("trainer.keep_memory", False, True),
        ("trainer.precision", "bf16-mixed", False),
        ("data.folds", 7, False),
        ("model.backbone", "resnet18", False),
        ("optimizer.lr", 0.5, False),
        ("seed", 43, False),
        ("callbacks.ema", {"_target_": "flowers.training.ema.EMA", "decay": 0.9}, False),
        ("callbacks.model_checkpoint.monitor", "val/loss", False),
    ],
)
def test_only_fold_paths_tags_and_display_are_no_part_of_the_recipe(
    default: DictConfig, tmp_path: Path, key: str, value: Any, same: bool
) -> None:
    config = copy.deepcopy(default)
    OmegaConf.update(config, "data.folds", 5)
    OmegaConf.update(config, "data.fold", 0)
    (tmp_path / "other").mkdir()
    OmegaConf.save(config, tmp_path / "config.yaml")
    OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, tmp_path / "other" / "config.yaml")
    assert (Run(tmp_path).recipe() == Run(tmp_path / "other").recipe()) == same


def test_folds_that_were_tuned_to_other_precisions_have_one_recipe(default: DictConfig, tmp_path: Path) -> None:
    recipes = set()
    for precision in ("32-true", "bf16-mixed"):
        config = copy.deepcopy(default)
        config.trainer.autotune, config.trainer.precision = True, precision
        OmegaConf.save(config, tmp_path / "config.yaml")
        recipes |= {Run(tmp_path).recipe(), recipe_of(config)}
    assert len(recipes) == 1


def test_metrics_that_are_not_finite_are_null_in_json(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_metrics({"val/loss": float("nan"), "train/loss": float("inf"), "val/accuracy": 0.5})
    text = run.metrics_path.read_text()
    assert json.loads(text) == {"val/loss": None, "train/loss": None, "val/accuracy": 0.5}
    assert "NaN" not in text and "Infinity" not in text


def test_the_newest_run_has_the_newest_best_checkpoint(tmp_path: Path) -> None:
    for name, age in (("a", 30), ("b", 10), ("c", 20)):
        best = Run(tmp_path / name).best
        best.parent.mkdir(parents=True)
        best.touch()
        os.utime(best, (1e9 - age, 1e9 - age))
    (tmp_path / "d").mkdir()  # a training that was stopped before its first validation
    assert find_newest_run(tmp_path).directory == tmp_path / "b"


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=f"{directory}: .*src/train.py"):
            find_newest_run(directory)
