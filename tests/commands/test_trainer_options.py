"""Every debug mode works, and every argument of the trainer is accepted."""

from __future__ import annotations

import csv
import inspect
import sys
from pathlib import Path
from typing import ClassVar

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from flowers.errors import InputError
from flowers.training.lightning_trainer import TRAINER
from flowers.training.train import train

CONFIGS = Path(__file__).parents[2] / "configs"


class Recorder(Callback):
    """Records the ids, the sum of the pixels and the loss of each training step."""

    steps: ClassVar[list[tuple[int, list[str], int, float]]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        self.steps.append((trainer.current_epoch, batch["id"], int(batch["image"].sum()), float(outputs["loss"])))


def compose_training(tiny_settings: list[str], directory: Path, *overrides: str) -> DictConfig:
    """Compose the configuration of a training on few small images."""
    settings = [setting for setting in tiny_settings if "max_epochs" not in setting]
    small = ["data.num_workers=0", "data.train_size=32", "data.eval_size=32", f"paths.output_dir={directory}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [*settings, *small, *overrides])


def run(tiny_settings: list[str], directory: Path, *overrides: str) -> dict[str, float]:
    """Train on a few small images in this process, as `python src/train.py` does, and return the metrics."""
    Recorder.steps = []
    recorder = "+callbacks.recorder._target_=tests.commands.test_trainer_options.Recorder"
    config = compose_training(
        tiny_settings, directory, "callbacks.progress_bar=null", recorder, "logger=csv", *overrides
    )
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    try:
        return train(config).metrics
    finally:
        torch.use_deterministic_algorithms(False)  # set by `deterministic` for the whole process


def test_debug_default_runs_five_batches(tiny_settings: list[str], tmp_path: Path) -> None:
    metrics = run(tiny_settings, tmp_path, "debug=default", "data.batch_size=16")
    assert len(Recorder.steps) == 5
    assert metrics.keys() >= {"train/loss", "val/macro_f1"}


def test_debug_fdr_runs_one_batch(tiny_settings: list[str], tmp_path: Path) -> None:
    run(tiny_settings, tmp_path, "debug=fdr")
    assert len(Recorder.steps) == 1
    assert not any(tmp_path.rglob("*.ckpt"))


def test_debug_profiler_reports_the_times(
    tiny_settings: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lightning.pytorch.profilers")
    run(tiny_settings, tmp_path, "debug=profiler", "+trainer.limit_train_batches=1")
    assert "run_training_batch" in caplog.text


def test_debug_limit_runs_a_tenth_of_the_batches(tiny_settings: list[str], tmp_path: Path) -> None:
    run(tiny_settings, tmp_path, "debug=limit", "data.batch_size=8")
    assert len(Recorder.steps) == 3 * 2  # of 26 batches


def test_debug_overfit_brings_the_loss_near_zero(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = ("experiment=mixing", "optimizer.lr=0.02", "data.batch_size=8")
    run(tiny_settings, tmp_path, "debug=overfit", *settings)
    losses = [loss for *_, loss in Recorder.steps]
    assert len(losses) == 20 * 3
    assert max(losses[-3:]) < 0.05


@pytest.mark.parametrize("settings", [(), ("data.folds=3", "data.fold=0"), ("data.balance=full",)])
def test_overfit_batches_are_the_same_in_every_epoch(
    settings: tuple[str, ...], tiny_settings: list[str], tmp_path: Path
) -> None:
    run(tiny_settings, tmp_path / "first", *settings, "trainer.max_epochs=1", "+trainer.limit_train_batches=2")
    expected = [(ids, pixels) for _, ids, pixels, _ in Recorder.steps]
    run(tiny_settings, tmp_path / "second", *settings, "trainer.max_epochs=2", "+trainer.overfit_batches=2")
    assert [
        (ids, pixels) for _, ids, pixels, _ in Recorder.steps
    ] == expected * 2  # as a run begins without overfitting


def test_a_training_runs_without_callbacks_and_logger(tiny_settings: list[str], tmp_path: Path) -> None:
    config = compose_training(tiny_settings, tmp_path, "callbacks=none", "logger=none", "trainer.max_epochs=1")
    metrics = train(config).metrics
    assert "val/macro_f1" in metrics
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt"}
    assert not list(tmp_path.glob("metrics.csv")) and not list(tmp_path.glob("wandb"))


def test_the_best_epochs_are_kept(tiny_settings: list[str], tmp_path: Path) -> None:
    run(tiny_settings, tmp_path, "callbacks=top_k", "trainer.max_epochs=4", "+trainer.limit_train_batches=2")
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert len(names - {"best.ckpt", "last.ckpt"}) == 3 and {"best.ckpt", "last.ckpt"} < names
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    rows = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["val/macro_f1"]]
    scores = [float(row["val/macro_f1"]) for row in rows]
    assert best["epoch"] == scores.index(max(scores))


def test_several_checkpoints_in_one_file_are_refused(tiny_settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"callbacks\.model_checkpoint\.save_top_k=3: .*callbacks=top_k"):
        run(tiny_settings, tmp_path, "+callbacks.model_checkpoint.save_top_k=3")


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_logger_whose_package_is_missing_is_reported(
    name: str, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"^logger\.{name}: .*pip install {name}"):
        run(tiny_settings, tmp_path, f"logger={name}")


RUNS: dict[str, dict[str, object]] = {
    "fractions": {
        "limit_train_batches": 0.5,
        "limit_val_batches": 0.5,
        "limit_predict_batches": 1,
        "val_check_interval": 0.5,
        "num_sanity_val_steps": 1,
        "gradient_clip_val": 0.5,
        "gradient_clip_algorithm": "value",
        "deterministic": "warn",
        "sync_batchnorm": True,
        "enable_model_summary": True,
        "max_time": "00:01:00:00",
        "min_epochs": 1,
        "max_epochs": 1,
    },
    "steps": {
        "max_steps": 4,
        "max_epochs": -1,
        "min_steps": 2,
        "limit_train_batches": 4,
        "limit_val_batches": 1,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
        "gradient_clip_algorithm": "norm",
        "benchmark": True,
        "detect_anomaly": True,
        "inference_mode": False,
        "max_time": "{minutes: 60}",
        "log_every_n_steps": 1,
    },
    "overfitting": {
        "overfit_batches": 0.5,
        "max_epochs": 2,
        "check_val_every_n_epoch": 2,
        "deterministic": True,
        "profiler": "simple",
    },
    "development": {"fast_dev_run": 2},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_arguments_of_the_trainer_are_accepted(name: str, tiny_settings: list[str], tmp_path: Path) -> None:
    values = {key: "null" if value is None else value for key, value in RUNS[name].items()}
    run(tiny_settings, tmp_path, *(f"++trainer.{key}={value}" for key, value in values.items()))
    steps = {"fractions": 3, "steps": 8, "overfitting": 6, "development": 2}
    assert len(Recorder.steps) == steps[name]


def test_every_argument_of_the_trainer_is_in_one_of_these_runs() -> None:
    elsewhere = {"self", "accelerator", "devices", "strategy", "num_nodes", "precision"}
    # Not applicable to this program's trainings, or of no use in them.
    unused = {"limit_test_batches", "model_registry", "plugins", "reload_dataloaders_every_n_epochs"}
    unused |= {"use_distributed_sampler"}  # our samplers know their rank
    arguments = set(inspect.signature(lightning.Trainer.__init__).parameters)
    tested = {key for settings in RUNS.values() for key in settings}
    assert arguments - elsewhere - unused - set(TRAINER.reserved) == tested


@pytest.mark.parametrize(("settings", "most"), [(["data.batch_size=16"], 13), (["+trainer.limit_train_batches=2"], 2)])
def test_a_validation_that_no_epoch_reaches_is_refused(
    settings: list[str], most: int, tiny_settings: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"trainer\.val_check_interval={most + 1}: .*\b{most}\b"):
        run(tiny_settings, tmp_path, f"+trainer.val_check_interval={most + 1}", *settings)
