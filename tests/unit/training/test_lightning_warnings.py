"""Lightning's warnings are ignored only where they are false, in the words of the installed Lightning."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import model_checkpoint
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.trainer.connectors.logger_connector import result

from flowers.models.classifier import FlowerClassifier
from flowers.training.lightning_warnings import ignore_false_warnings
from tests.helpers.data_modules import plain_module

SYNC = "It is recommended to use `self.log({!r}, ..., sync_dist=True)` when logging on epoch level"
RESUMING = "You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not resumable."


@pytest.fixture(autouse=True)
def show_all() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def is_shown(message: str) -> bool:
    with warnings.catch_warnings(record=True) as shown:
        warnings.warn(message, stacklevel=1)
    return bool(shown)


def test_the_messages_are_those_of_the_installed_lightning() -> None:
    assert "sync_dist=True)`" in inspect.getsource(result)
    assert "You're resuming from a checkpoint that ended before the epoch ended" in inspect.getsource(
        training_epoch_loop
    )
    assert "exists and is not empty" in inspect.getsource(model_checkpoint)


def test_warnings_of_our_model_and_data_are_ignored(tmp_path: Path) -> None:
    ignore_false_warnings(FlowerClassifier(["a", "b"], "test_efficientnet"), plain_module(tmp_path))
    for name in ("val/macro_f1", "train/loss", "train/loader_wait"):
        assert not is_shown(SYNC.format(name))
    assert not is_shown(RESUMING)
    assert is_shown(SYNC.format("val/own_metric"))  # of a subclass
    assert is_shown("another warning")


def test_a_user_still_sees_those_of_another_model_and_data() -> None:
    ignore_false_warnings(L.LightningModule(), L.LightningDataModule())
    assert is_shown(SYNC.format("val/macro_f1")) and is_shown(RESUMING)
    assert not is_shown(SYNC.format("train/images_per_second"))
