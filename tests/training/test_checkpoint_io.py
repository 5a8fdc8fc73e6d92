"""Checkpoints are whole or not there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from flowers.training.checkpoint_io import AtomicCheckpointIO, save_atomically


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def save(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        assert torch.load(path, weights_only=True) == {"epoch": 1}
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_every_checkpoint_of_a_trainer_is_written_beside_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    save_atomically(trainer)
    trainer.strategy.connect(L.LightningModule())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "another disk"))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
