"""Callbacks: the last checkpoint is whole or the one before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest

from flowers.training.callbacks import LastCheckpoint


class Saving(SimpleNamespace):
    """What `LastCheckpoint` needs of a trainer."""

    fast_dev_run = False
    global_step = 1

    def save_checkpoint(self, path: Any) -> None:
        Path(path).write_bytes(b"new")
        if self.full:
            raise OSError("No space left on device")


def trainer(*, rank: int = 0, full: bool = False) -> L.Trainer:
    return cast(L.Trainer, Saving(is_global_zero=rank == 0, full=full))


def test_a_disk_that_is_full_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"earlier")
    with pytest.raises(OSError, match="No space left"):
        LastCheckpoint(str(tmp_path / "last.ckpt"))._save(trainer(full=True))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"last.ckpt": b"earlier"}


def test_what_a_killed_run_was_saving_is_removed_when_it_is_resumed(tmp_path: Path) -> None:
    callback = LastCheckpoint(str(tmp_path / "last.ckpt"))
    (tmp_path / "last.ckpt.0123456789abcdef.part").touch()
    callback.on_train_start(trainer(), cast(L.LightningModule, None))
    callback._save(trainer())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"last.ckpt": b"new"}
