"""Settings that contradict the checkpoint are refused, and other changes are logged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from omegaconf import OmegaConf

from flowers.errors import InputError
from flowers.training.train import train
from tests.helpers.configuration import compose_values


def train_here(directory: Path, settings: list[str], *more: str) -> Path:
    """Train in this process, and return the last checkpoint."""
    quiet = ["logger=csv", "callbacks.progress_bar=null", "data.num_workers=0", "data.batch_size=52"]
    config = OmegaConf.create(compose_values("train", *settings, *quiet, *more))
    config.paths.output_dir = str(directory)
    for key in ("callbacks.model_checkpoint.dirpath", "callbacks.last_checkpoint.path", "logger.csv.save_dir"):
        OmegaConf.update(config, key, OmegaConf.select(config, key).replace("out", str(directory), 1))
    train(config)
    return directory / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def whole(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the last checkpoint of one epoch in the first of four folds."""
    return train_here(tmp_path_factory.mktemp("whole"), tiny_settings, "data.folds=4", "data.fold=0", "tags=[whole]")


REFUSED = {
    "data.fold=1": "data.fold: expected 0",
    "data.folds=5": "data.folds: expected 4",
    "data.folds=null data.fold=null": "data.folds: expected 4",
    "data.folds=null data.fold=null data.train_on=train+val": "data.train_on: expected train",
    "seed=7": "data.seed: expected 42",
    "optimizer.lr=0.5": "optimizer.lr (with lr_scaling and model.layer_decay)=",
    "optimizer.weight_decay=0.5": "optimizer.weight_decay=0.5: expected 0.02",
    "+optimizer.betas=[0.8,0.999]": "optimizer.betas=",
    "optimizer=sgd": "optimizer: ",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_settings_that_contradict_the_checkpoint_are_refused_before_writing(
    tiny_settings: list[str], whole: Path, settings: str
) -> None:
    before = {path: path.read_bytes() for path in whole.parents[1].rglob("*") if path.is_file()}
    changed = ["data.folds=4", "data.fold=0", f"ckpt_path={whole}", "trainer.max_epochs=2", *settings.split(" ")]
    with pytest.raises(InputError) as caught:
        train_here(whole.parents[1], tiny_settings, *changed)
    assert str(caught.value).startswith(REFUSED[settings])
    assert {path: path.read_bytes() for path in whole.parents[1].rglob("*") if path.is_file()} == before


def test_a_change_that_a_resumed_run_accepts_is_logged(
    tiny_settings: list[str], whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    on = ["data.folds=4", "data.fold=0", f"ckpt_path={whole}", "trainer.max_epochs=2", "data.balance=sqrt"]
    with caplog.at_level(logging.INFO, "flowers.training.resuming"):
        last = train_here(tmp_path, tiny_settings, *on)
    assert torch.load(last, weights_only=True)["epoch"] == 1
    assert [line.getMessage() for line in caplog.records if str(whole) in line.getMessage()] != []


def test_the_time_of_an_earlier_process_does_not_count(tiny_settings: list[str], whole: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(whole, weights_only=True)
    steps = checkpoint["global_step"]
    checkpoint["callbacks"]["Timer"] = {"time_elapsed": {"train": 1e6}}
    torch.save(checkpoint, tmp_path / "late.ckpt")
    on = [f"ckpt_path={tmp_path}/late.ckpt", "trainer.max_epochs=2", "+trainer.max_time='00:01:00:00'"]
    last = train_here(tmp_path / "run", tiny_settings, "data.folds=4", "data.fold=0", *on)
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 2 * steps
    assert Timer.__qualname__ not in saved["callbacks"]
