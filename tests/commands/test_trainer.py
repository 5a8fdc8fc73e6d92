"""The settings of the trainer take effect in a training within this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig

from flowers.errors import InputError
from flowers.inference.predict import predict
from flowers.models.backbone import create_backbone
from flowers.training.checkpoint_io import AtomicCheckpointIO
from flowers.training.train import train
from tests.helpers.commands import ROOT
from tests.helpers.probe import Probe

FAST = ["data.num_workers=0", "data.batch_size=4", "logger=csv", "+callbacks.probe._target_=tests.helpers.probe.Probe"]


def compose_training(settings: list[str], directory: Path) -> DictConfig:
    """Compose the configuration of a training with one batch in each stage."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        run = [f"paths.output_dir={directory}", "trainer.fast_dev_run=true"]
        return compose("train", [*settings, *FAST, *run])


@pytest.mark.parametrize(("setting", "bars"), [("progress_bar.refresh_rate=5", 1), ("progress_bar=null", 0)])
def test_a_null_progress_bar_shows_none(tiny_settings: list[str], tmp_path: Path, setting: str, bars: int) -> None:
    train(compose_training([*tiny_settings, f"callbacks.{setting}"], tmp_path))
    found = [callback for callback in Probe.trainer.callbacks if isinstance(callback, ProgressBar)]  # type: ignore[attr-defined]
    assert len(found) == bars
    assert isinstance(Probe.trainer.strategy.checkpoint_io, AtomicCheckpointIO)


@pytest.mark.parametrize(
    "scheduler",
    [
        ["scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=1"],
        ["scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=1e-3"],
    ],
)
def test_torchs_schedules_can_be_used(tiny_settings: list[str], tmp_path: Path, scheduler: list[str]) -> None:
    ours = ["~scheduler.warmup_epochs", "~scheduler.start", "~scheduler.end"]
    metrics = train(compose_training([*tiny_settings, *scheduler, *ours], tmp_path)).metrics
    assert "val/loss" in metrics


@pytest.mark.parametrize("backbone", ["test_vit", "vit_tiny_patch16_224"])
def test_a_backbone_of_fixed_size_trains_and_evaluates_at_other_sizes(
    tiny_settings: list[str], tmp_path: Path, backbone: str
) -> None:
    settings = [*tiny_settings, f"model.backbone={backbone}", "data.train_size=64", "data.eval_size=96"]
    metrics = train(compose_training(settings, tmp_path)).metrics
    assert "val/loss" in metrics


def test_a_size_that_a_backbone_does_not_take_is_refused_before_training(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    settings = [*tiny_settings, "model.backbone=test_vit", "data.eval_size=72"]
    with pytest.raises(InputError, match=r"data\.eval_size: .*72 px.* 64 and 80"):
        train(compose_training(settings, tmp_path))


def test_a_run_predicts_at_other_sizes_than_it_was_trained_at(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [setting for setting in tiny_settings if not setting.startswith(("data.train_size", "data.eval_size"))]
    short = ["+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1", "model.backbone=test_vit"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", [*settings, *FAST, *short, f"paths.output_dir={tmp_path}"]))
        again = [f"run={tmp_path}", "trainer=cpu", "split=val", "data.num_workers=0"]
        larger, scales, crops = (
            compose("predict", [*again, setting])
            for setting in ("data.image_size=224", "tta.sizes=[192,224]", "tta.five_crops=true")
        )
    assert predict(larger).rows == predict(scales).rows == 104
    with pytest.raises(InputError, match=r"tta\.five_crops: .*168 px.* 160 and 176"):
        predict(crops)


def test_a_run_can_start_from_the_weights_of_another(tiny_settings: list[str], trained: Path, tmp_path: Path) -> None:
    weights = trained / "checkpoints" / "best.ckpt"
    started = train(compose_training([*tiny_settings, f"model.pretrained={weights}"], tmp_path))
    first = torch.load(weights, weights_only=True)["state_dict"]
    backbone = create_backbone("test_efficientnet", 104, str(weights)).state_dict()
    assert all(torch.equal(first[f"backbone.{name}"], value) for name, value in backbone.items())
    assert started.model.hparams["licence"] == ""  # the first run started from random weights
