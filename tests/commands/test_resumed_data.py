"""A resumed training reads the batches that it would have read, as Lightning's own loops request them."""

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


class RecordingModel(L.LightningModule):
    """Trains nothing, and records the pixels of each image by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[dict[str, str]]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.epochs.setdefault(self.current_epoch, []).append(hash_pixels([batch]))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class EarlyLoader(RecordingModel):
    """Reads the number of steps to configure its optimiser, so that Lightning creates the loader before it resumes."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass


class SaveAll(Checkpoint):
    """Saves a checkpoint after each step within an epoch, each epoch and each validation."""

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


def train(
    model: RecordingModel, data: FlowersDataModule, directory: Path, resumed: str | None = None, **settings: Any
) -> dict[int, list[dict[str, str]]]:
    """Train, and return what was read by epoch."""
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


def drop_first_steps(epochs: dict[int, list[dict[str, str]]], steps: int) -> dict[int, list[dict[str, str]]]:
    """Return what is read after this many steps, with 13 steps per epoch."""
    left = {epoch: seen[max(0, steps - 13 * epoch) :] for epoch, seen in epochs.items()}
    return {epoch: seen for epoch, seen in left.items() if seen}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 208 training images, as many as the garden's, and 32 validation images. Read only."""
    root = tmp_path_factory.mktemp("small")
    for split, count in (("train", 208), ("val", 32)):
        write_noise(root / "tfrecords-jpeg-32x32" / split, [0] * count)
    return root


def small_module(root: Path, workers: int, batch_size: int = 16) -> FlowersDataModule:
    return module(root, workers, size=32, batch_size=batch_size)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_anywhere_reads_the_same_batches(small: Path, tmp_path: Path, workers: int) -> None:
    settings = {"val_check_interval": 5}
    whole = train(EarlyLoader(), small_module(small, workers), tmp_path, **settings)
    assert [len(seen) for seen in whole.values()] == [13, 13, 13]
    for name in ("step-1", "step-12", "val-5", "val-18", "epoch-13", "epoch-26"):
        found = train(EarlyLoader(), small_module(small, 2 - workers), tmp_path, name, **settings)
        assert found == drop_first_steps(whole, int(name.rpartition("-")[2])), name
    # Resumed, stopped and resumed once more: the checkpoints are now those of resumed runs.
    for name in ("step-20", "val-23", "epoch-26", "step-30"):
        found = train(EarlyLoader(), small_module(small, workers), tmp_path, name, **settings)
        assert found == drop_first_steps(whole, int(name.rpartition("-")[2])), name


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two data sets of 112 and 64 training images. Read only."""
    directory = tmp_path_factory.mktemp("mixed")
    for name, counts in (("first", (112, 32)), ("second", (64, 1))):
        for split, count in zip(("train", "val"), counts, strict=True):
            write_noise(directory / name / "tfrecords-jpeg-32x32" / split, [0] * count, f"{name}-{split}-")
    return [str(directory / "first"), str(directory / "second")]


def test_a_resumed_run_reads_the_same_mixed_batches(roots: list[str], tmp_path: Path) -> None:
    def mixed(workers: int, weights: list[float]) -> FlowersDataModule:
        return plain_module(None, 32, roots=roots, weights=weights, num_workers=workers, seed=7)

    whole = train(EarlyLoader(), mixed(0, [1, 1.5]), tmp_path)  # 112 + 96 images
    assert [len(seen) for seen in whole.values()] == [13, 13, 13]
    for name in ("step-5", "epoch-13", "step-30"):
        steps = int(name.rpartition("-")[2])
        assert train(EarlyLoader(), mixed(2, [1, 1.5]), tmp_path, name) == drop_first_steps(whole, steps), name
    with pytest.raises(InputError, match=r"^data\.weights: expected \[1, 1\.5\] .*\b5 batches into epoch 0\b"):
        train(EarlyLoader(), mixed(0, [1, 2]), tmp_path, "step-5")
    with pytest.raises(InputError, match=r"^records: expected 176 "):
        train(EarlyLoader(), plain_module(Path(roots[0]), 32, seed=7), tmp_path, "step-5")


def test_a_run_resumed_from_a_validation_at_the_end_of_an_epoch_reads_the_same_batches(
    small: Path, tmp_path: Path
) -> None:
    whole = train(EarlyLoader(), small_module(small, 0), tmp_path)
    for name in ("val-13", "step-20", "val-26", "step-30"):  # each saved by the run before
        assert train(EarlyLoader(), small_module(small, 2), tmp_path, name) == drop_first_steps(
            whole, int(name.rpartition("-")[2])
        ), name


def test_within_an_epoch_a_run_cannot_be_resumed_in_another_order(small: Path, tmp_path: Path) -> None:
    train(RecordingModel(), small_module(small, 0), tmp_path, limit_val_batches=0)
    with pytest.raises(InputError, match=r": expected 16 .*\b4 batches into epoch 0\b"):
        train(RecordingModel(), small_module(small, 0, batch_size=8), tmp_path, "step-4", limit_val_batches=0)
    seen = train(RecordingModel(), small_module(small, 0, batch_size=8), tmp_path, "epoch-13", limit_val_batches=0)
    assert [len(batches) for batches in seen.values()] == [26, 26]


def test_a_final_fit_trains_on_val_and_does_not_validate(garden: Path, tmp_path: Path) -> None:
    data = plain_module(garden, train_on="train+val")
    assert len(ids_of(data.loader("train"))) == 208 + 104
    seen = train(EarlyLoader(), data, tmp_path)
    assert len({identity for batches in seen.values() for batch in batches for identity in batch}) == 312
