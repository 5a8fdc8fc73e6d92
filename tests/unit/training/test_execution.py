"""Steps on a CPU keep the memory that they free, unless that is turned off."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import lightning as L
import pytest
from torch import nn

from flowers.training.autotune import Choice
from flowers.training.execution import Execution, executing
from flowers.training.tuning import apply_choice
from tests.helpers.page_faults import PAGES, allocate


@pytest.fixture
def trainer() -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library's malloc has no settings")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_is_kept_as_configured(trainer: L.Trainer, keep: bool) -> None:
    with executing(Execution(keep_memory=keep), nn.Identity(), trainer):
        allocate(30)  # until small objects no longer take a part of what is free
        assert (allocate(10) < 5 * PAGES) == keep


@pytest.mark.parametrize("keep", [True, False])
def test_a_chosen_execution_keeps_the_rest_as_configured(trainer: L.Trainer, keep: bool) -> None:
    configured = Execution(keep_memory=keep, autotune=True)
    found = apply_choice(Choice("32-true", False, threads=1), configured, trainer, L.LightningDataModule())
    assert found == replace(configured, channels_last=False, threads=1, autotune=False)
