"""The length of a run is computed for the schedule of its learning rate, and its best checkpoint is found."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from flowers.errors import InputError
from flowers.training.last_checkpoint import LastCheckpoint
from flowers.training.length import limit_batches, run_length
from flowers.training.train import find_best_checkpoint


def test_the_best_checkpoint_is_found_after_a_callback_that_keeps_the_last(tmp_path: Path) -> None:
    last, best = LastCheckpoint(f"{tmp_path}/last.ckpt"), ModelCheckpoint(tmp_path)
    best.best_model_path = f"{tmp_path}/best.ckpt"
    for callbacks in ([last, best], [best, last]):
        assert find_best_checkpoint(L.Trainer(callbacks=callbacks, logger=False, accelerator="cpu")) == (
            best.best_model_path
        )
    assert find_best_checkpoint(L.Trainer(callbacks=[last], logger=False, accelerator="cpu")) == ""


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "epochs"), [(3, -1, 3), (-1, 50, 5), (3, 50, 3), (10, 25, 2.5), (0, -1, 0)]
)
def test_a_run_ends_at_its_first_limit(max_epochs: int, max_steps: int, epochs: float) -> None:
    assert run_length(max_epochs, max_steps, steps_per_epoch=10) == epochs


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.max_epochs=-1: "):
        run_length(-1, -1, 10)


@pytest.mark.parametrize(("limit", "batches"), [(None, 75), (5, 5), (500, 75), (0.1, 7), (1.0, 75)])
def test_limit_batches_takes_a_count_or_a_fraction(limit: float | None, batches: int) -> None:
    assert limit_batches(75, limit) == batches
