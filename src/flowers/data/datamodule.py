"""The LightningDataModule: a thin shell that gives each stage its loader."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import albumentations as A
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from flowers.cores import available_cores
from flowers.data.batch import Batch, Collate
from flowers.data.dataset import FlowersDataset, OnBadRecord, one_thread, open_split
from flowers.data.garden import Garden, plant
from flowers.data.layout import Split, read_class_names
from flowers.data.sampling import EpochSampler
from flowers.data.transforms import SeededTransform


class FlowersDataModule(L.LightningDataModule):
    """Batches from a data set in Kaggle's layout, at one resolution.

    Args:
        root: the data set's directory.
        image_size: the resolution to read, in pixels a side.
        train_size: the side of the images after `train_transform`, in pixels.
        eval_size: the same after `eval_transform`.
        batch_size: images a batch, on each process.
        train_transform: Albumentations transforms, in order, that end in images of `train_size`.
        eval_transform: the same for validation and prediction, of `eval_size`.
        on_bad_record: `stop` at the first record that cannot be read, or `skip` it and tell at the end.
        seed: of the order and the augmentations.
        num_workers: processes that decode; None: one fewer than the cores, at most 8.
        garden: plant this garden in `root` first, if it is not there.
    """

    def __init__(
        self,
        root: str,
        image_size: int,
        train_size: int,
        eval_size: int,
        batch_size: int,
        train_transform: Sequence[A.BasicTransform],
        eval_transform: Sequence[A.BasicTransform],
        on_bad_record: OnBadRecord = "stop",
        seed: int = 0,
        num_workers: int | None = None,
        garden: Garden | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.image_size = image_size
        self.train_size = train_size
        self.eval_size = eval_size
        self.batch_size = batch_size
        self.on_bad_record = on_bad_record
        self.seed = seed
        self.num_workers = _default_workers() if num_workers is None else num_workers
        self.garden = garden
        self.skipped: set[str] = set()
        self._train_transform = SeededTransform(train_transform)
        self._eval_transform = SeededTransform(eval_transform)
        self._datasets: dict[tuple[Split, bool], FlowersDataset] = {}

    def prepare_data(self) -> None:
        if self.garden is not None:
            plant(self.garden, self.root)

    @cached_property
    def class_names(self) -> list[str]:
        """The class names in label order."""
        return read_class_names(self.root)

    def dataset(self, split: Split, *, training: bool = False) -> FlowersDataset:
        """The split's data set, opened at first use; for `training` with the training transform."""
        if (split, training) not in self._datasets:
            reader, faults = open_split(self.root, split, self.image_size, self.on_bad_record)
            self.skipped.update(faults)
            self._datasets[split, training] = FlowersDataset(
                reader,
                image_size=self.image_size,
                class_names=self.class_names,
                labelled=split != "test",
                transform=self._train_transform if training else self._eval_transform,
                seed=self.seed,
                on_bad_record=self.on_bad_record,
            )
        return self._datasets[split, training]

    def loader(self, split: Split, *, training: bool = False) -> DataLoader[Batch]:
        """The split's batches: whole, in order and padded; for `training` shuffled, without the ragged end."""
        dataset = self.dataset(split, training=training)
        sampler = self._sampler(len(dataset), shuffle=training)
        loader = DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=training and len(sampler) >= self.batch_size,
            collate_fn=Collate(self.batch_size, self.train_size if training else self.eval_size),
            worker_init_fn=one_thread,
        )
        return cast(DataLoader[Batch], loader)

    def _sampler(self, count: int, *, shuffle: bool) -> EpochSampler:
        if self.trainer is None:
            return EpochSampler(np.arange(count), seed=self.seed, shuffle=shuffle, batch_size=self.batch_size)
        return EpochSampler(
            np.arange(count),
            seed=self.seed,
            shuffle=shuffle,
            batch_size=self.batch_size,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
            # Where a resumed run goes on: workers are given their first batches before `set_epoch` is called.
            epoch=self.trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.skipped.update(batch["skipped"])
        return batch


def _default_workers() -> int:
    return min(8, max(1, available_cores() - 1))
