"""Steps on a CPU keep the memory that they free, unless that is turned off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import lightning as L
import pytest
from torch import nn

from flowers.training import execution
from flowers.training.autotune import Choice
from flowers.training.execution import Execution, executing
from flowers.training.tuning import apply_choice


@pytest.fixture
def trainer() -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.mark.parametrize("keep", [True, False])
def test_memory_is_kept_as_configured(trainer: L.Trainer, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = False

    @contextmanager
    def note() -> Iterator[None]:
        nonlocal keeping
        keeping = True
        yield
        keeping = False

    monkeypatch.setattr(execution, "keeping_freed_memory", note)
    with executing(Execution(keep_memory=keep), nn.Identity(), trainer):
        assert keeping == keep
    assert not keeping


@pytest.mark.parametrize("keep", [True, False])
def test_a_chosen_execution_keeps_the_rest_as_configured(trainer: L.Trainer, keep: bool) -> None:
    configured = Execution(keep_memory=keep, autotune=True)
    found = apply_choice(Choice("32-true", False, threads=1), configured, trainer, L.LightningDataModule())
    assert found == replace(configured, channels_last=False, threads=1, autotune=False)
