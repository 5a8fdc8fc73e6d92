"""The last checkpoint is whole or the one before, and every command can read it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch

from flowers.errors import InputError
from flowers.training.callbacks import LastCheckpoint, check_readable

EARLIER = {"step": 0}


class Saving(SimpleNamespace):
    """What `LastCheckpoint` needs of a trainer."""

    fast_dev_run = False
    global_step = 1
    is_global_zero = True

    def save_checkpoint(self, path: Any) -> None:
        torch.save(self.content, path)
        if self.full:
            raise OSError("No space left on device")


def save(directory: Path, content: object, *, full: bool = False) -> None:
    torch.save(EARLIER, directory / "last.ckpt")
    LastCheckpoint(str(directory / "last.ckpt"))._save(cast(L.Trainer, Saving(content=content, full=full)))


def test_a_disk_that_is_full_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, {"step": 1}, full=True)
    assert torch.load(tmp_path / "last.ckpt") == EARLIER
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_that_no_command_could_read_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pathlib\.PosixPath"):
        save(tmp_path, {"mine": Path("here")})
    assert torch.load(tmp_path / "last.ckpt") == EARLIER


def test_a_checkpoint_of_plain_values_is_readable(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2), "settings": [1, "two", {"three": None}]}, tmp_path / "last.ckpt")
    check_readable(tmp_path / "last.ckpt")
