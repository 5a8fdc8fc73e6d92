"""A training that is resumed reads the batches that it would have read; Lightning's own loops ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint

from flowers.data.datamodule import FlowersDataModule
from flowers.errors import InputError
from flowers.interfaces import Batch
from tests.helpers.data_modules import hash_pixels, ids_of, module, plain_module, write_noise


class Seen(L.LightningModule):
    """Trains nothing; keeps which pixels came as which image, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[dict[str, str]]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.epochs.setdefault(self.current_epoch, []).append(hash_pixels([batch]))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class EarlyLook(Seen):
    """Asks for the number of steps with its optimiser: Lightning then makes the loader before it has resumed."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass


class SaveAll(Checkpoint):
    """Makes a checkpoint after each step within an epoch, each epoch and each validation."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, trainer: L.Trainer, kind: str) -> None:
        trainer.save_checkpoint(self.directory / f"{kind}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 < trainer.num_training_batches:
            self.save(trainer, "step")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer, "epoch")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer, "val")


def trained(
    model: Seen, data: FlowersDataModule, directory: Path, resumed: str | None = None, **settings: Any
) -> dict[int, list[dict[str, str]]]:
    """What a training sees, epoch by epoch."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=[SaveAll(directory)],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(model, datamodule=data, ckpt_path=directory / f"{resumed}.ckpt" if resumed else None)
    return model.epochs


def after(epochs: dict[int, list[dict[str, str]]], steps: int) -> dict[int, list[dict[str, str]]]:
    """What is seen after so many steps of 13 an epoch."""
    left = {epoch: seen[max(0, steps - 13 * epoch) :] for epoch, seen in epochs.items()}
    return {epoch: seen for epoch, seen in left.items() if seen}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """208 images to train on, as many as the garden's, and 32 to validate. Not to be changed."""
    root = tmp_path_factory.mktemp("small")
    for split, count in (("train", 208), ("val", 32)):
        write_noise(root / "tfrecords-jpeg-32x32" / split, [0] * count)
    return root


def small_module(root: Path, workers: int, batch_size: int = 16) -> FlowersDataModule:
    return module(root, workers, size=32, batch_size=batch_size)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_anywhere_sees_what_it_would_have_seen(small: Path, tmp_path: Path, workers: int) -> None:
    settings = {"val_check_interval": 5}
    whole = trained(EarlyLook(), small_module(small, workers), tmp_path, **settings)
    assert [len(seen) for seen in whole.values()] == [13, 13, 13]
    for name in ("step-1", "step-12", "val-5", "val-18", "epoch-13", "epoch-26"):
        found = trained(EarlyLook(), small_module(small, 2 - workers), tmp_path, name, **settings)
        assert found == after(whole, int(name.rpartition("-")[2])), name
    # Resumed, stopped and resumed once more: the checkpoints are now those of resumed runs.
    for name in ("step-20", "val-23", "epoch-26", "step-30"):
        found = trained(EarlyLook(), small_module(small, workers), tmp_path, name, **settings)
        assert found == after(whole, int(name.rpartition("-")[2])), name


def test_so_does_one_that_is_resumed_from_a_validation_at_an_epochs_end(small: Path, tmp_path: Path) -> None:
    whole = trained(EarlyLook(), small_module(small, 0), tmp_path)
    for name in ("val-13", "step-20", "val-26", "step-30"):  # each of them made by the run before
        assert trained(EarlyLook(), small_module(small, 2), tmp_path, name) == after(
            whole, int(name.rpartition("-")[2])
        ), name


def test_within_an_epoch_a_run_is_not_resumed_in_another_order(small: Path, tmp_path: Path) -> None:
    trained(Seen(), small_module(small, 0), tmp_path, limit_val_batches=0)
    with pytest.raises(InputError, match="expected 16 as when the checkpoint was made, 4 batches into epoch 0"):
        trained(Seen(), small_module(small, 0, batch_size=8), tmp_path, "step-4", limit_val_batches=0)
    seen = trained(Seen(), small_module(small, 0, batch_size=8), tmp_path, "epoch-13", limit_val_batches=0)
    assert [len(batches) for batches in seen.values()] == [26, 26]


def test_a_final_fit_trains_on_val_and_does_not_validate(garden: Path, tmp_path: Path) -> None:
    data = plain_module(garden, train_on="train+val")
    assert len(ids_of(data.loader("train"))) == 208 + 104
    seen = trained(EarlyLook(), data, tmp_path)
    assert len({identity for batches in seen.values() for batch in batches for identity in batch}) == 312
