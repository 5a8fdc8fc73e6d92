"""Checkpoints are complete, with finite weights and readable by every command, or are not written."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from flowers.errors import InputError
from flowers.training.checkpoint_io import AtomicCheckpointIO, check_readable, save_atomically


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def save(checkpoint: Any, file: Any) -> None:
        file.write_bytes(b"half")
        assert torch.load(path, weights_only=True) == {"epoch": 1}
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match=r"best\.ckpt: .*no space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_every_checkpoint_of_a_trainer_is_written_on_its_own_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    save_atomically(trainer)
    trainer.strategy.connect(L.LightningModule())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "another disk"))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


REFUSED = {
    "NaN": {"state_dict": {"fine": torch.ones(2), "head": torch.tensor([1.0, float("nan")])}},
    "infinity": {"state_dict": {"fine": torch.ones(2), "head": torch.tensor([float("inf")])}},
    "an object": {"state_dict": {}, "mine": Path("here")},
}


@pytest.mark.parametrize("content", REFUSED)
def test_an_unusable_checkpoint_is_not_written(tmp_path: Path, content: str) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(InputError, match=r"head|pathlib\.PosixPath"):
        AtomicCheckpointIO().save_checkpoint(REFUSED[content], path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_masks_and_plain_values_are_saved(tmp_path: Path) -> None:
    state = {"mask": torch.tensor([0.0, float("-inf")]), "count": torch.tensor(3)}
    AtomicCheckpointIO().save_checkpoint({"state_dict": state, "settings": [1, {"two": None}]}, tmp_path / "last.ckpt")
    check_readable(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["settings"] == [1, {"two": None}]


@pytest.mark.parametrize(
    "message",
    ["PytorchStreamWriter failed writing file data/105: file write failed", "unexpected pos 747328 vs 747220"],
)
def test_torchs_errors_on_a_full_disk_become_input_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def save(*_: Any) -> None:
        raise RuntimeError(f"[enforce fail at inline_container.cc:664] . {message}")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match=r"last\.ckpt: "):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")


def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"last\.ckpt: .*\bkept\b"):
            AtomicCheckpointIO().save_checkpoint({"state_dict": {"large": torch.ones(1_000_000)}}, path)
        with pytest.raises(InputError, match=r"best\.ckpt: (?!.*\bkept\b)"):  # there is no previous one
            AtomicCheckpointIO().save_checkpoint(
                {"state_dict": {"large": torch.ones(1_000_000)}}, tmp_path / "best.ckpt"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
