"""Checkpoints that no command could read are refused when they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowers.errors import InputError
from flowers.training.callbacks import check_readable


def test_a_checkpoint_of_plain_values_is_readable(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2), "settings": [1, "two", {"three": None}]}, tmp_path / "last.ckpt")
    check_readable(tmp_path / "last.ckpt")


def test_a_checkpoint_with_an_object_is_refused_and_the_object_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2), "mine": Path("here")}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"pathlib\.PosixPath"):
        check_readable(tmp_path / "last.ckpt")
