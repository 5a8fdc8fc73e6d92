"""A data set and a model of one's own: scikit-learn's handwritten digits, classified by a small network."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from flowers.interfaces import NO_LABEL, Batch, valid_rows
from flowers.models.optimizers import OptimizerFactory, SchedulerFactory, configure
from flowers.settings import Positive, Seed


class Digits(L.LightningDataModule):
    """1,797 digits of 8x8 pixels, in splits of three fifths for training and one fifth each for val and test.

    Args:
        batch_size: images a batch, on each process.
        seed: of the splits, and of the order in training.
    """

    def __init__(self, batch_size: Positive = 32, seed: Seed = 0) -> None:
        super().__init__()
        self.class_names = [str(digit) for digit in range(10)]
        self.batch_size = batch_size
        self.seed = seed

    def setup(self, stage: str) -> None:
        digits = load_digits()
        order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(self.seed))
        pixels = torch.from_numpy(digits.images / 16 * 255).to(torch.uint8)[order]
        # 32x32 pixels and three channels, as FlowerClassifier's backbones expect photographs.
        self._images = pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)[..., None].expand(-1, -1, -1, 3)
        self._labels = torch.from_numpy(digits.target)[order]
        self._splits = {"val": range(359), "test": range(359, 718), "train": range(718, len(order))}

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader("test")

    def loader(self, split: str) -> DataLoader[Any]:
        """Return the batches of a split in order: what `predict.py` needs."""
        return self._loader(split, shuffle=False)

    def _loader(self, split: str, *, shuffle: bool) -> DataLoader[Any]:
        rows: Any = self._splits[split]
        return DataLoader(rows, self.batch_size, shuffle=shuffle, collate_fn=self._batch)

    def _batch(self, rows: list[int]) -> Batch:
        return Batch(image=self._images[rows], label=self._labels[rows], id=[f"digit-{row}" for row in rows])


class DigitNet(L.LightningModule):
    """Two convolutions and a linear layer. It monitors its own metric, `val/error`: the fraction that is wrong.

    Args:
        optimizer: the configured factory (configs/optimizer/).
        scheduler: the same (configs/scheduler/); None: a constant learning rate.
        width: channels of the first convolution.
        classes: the number of classes.
    """

    def __init__(
        self,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        width: Positive = 16,
        classes: Positive = 10,
    ) -> None:
        super().__init__()
        self._optimizer, self._scheduler = optimizer, scheduler
        self.layers = nn.Sequential(*_block(3, width), *_block(width, 2 * width), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(2 * width * 16, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K]` of images uint8 `[B, H, W, 3]`."""
        return self.head(self.layers(image.permute(0, 3, 1, 2) / 255.0))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch["image"]), batch["label"], ignore_index=NO_LABEL)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["label"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self._log_error("val", batch)}  # for the report's sections on predictions

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_error("test", batch)

    def _log_error(self, split: str, batch: Batch) -> Tensor:
        """Log the error of a batch's valid rows, and return its logits `[B, K]`."""
        logits: Tensor = self(batch["image"])
        valid = valid_rows(batch)  # padding is not
        wrong = (logits.argmax(1) != batch["label"])[valid].float().mean()
        self.log(f"{split}/error", wrong, batch_size=int(valid.sum()))
        return logits

    def configure_optimizers(self) -> Any:
        return configure(self._optimizer, self._scheduler, self.parameters())


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
