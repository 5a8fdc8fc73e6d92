"""The LightningDataModule: a thin shell that gives each stage its loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import albumentations as A
import lightning as L
import torch
from torch.utils.data import DataLoader

from flowers.cores import available_cores
from flowers.data.batch import Batch
from flowers.data.batches import Batches
from flowers.data.dataset import CheckCRC, FlowersDataset, OnBadRecord, one_thread, open_split
from flowers.data.garden import Garden, plant
from flowers.data.layout import Split, read_class_names
from flowers.data.remote import open_root
from flowers.data.ring import Ring
from flowers.data.sampling import EpochSampler
from flowers.data.transforms import SeededTransform
from flowers.data.workers import fork_server
from flowers.errors import InputError

PREFETCH = 2
"""Batches that each worker is ahead."""


class FlowersDataModule(L.LightningDataModule):
    """Batches from a data set in Kaggle's layout, at one resolution.

    Args:
        root: the data set's directory, or its URL.
        image_size: the resolution to read, in pixels a side.
        train_size: the side of the images after `train_transform`, in pixels.
        eval_size: the same after `eval_transform`.
        batch_size: images a batch, on each process.
        train_transform: Albumentations transforms, in order, that end in images of `train_size`.
        eval_transform: the same for validation and prediction, of `eval_size`.
        on_bad_record: `stop` at the first record that cannot be read, or `skip` it and tell at the end.
        check_crc: of a record's payload: each time it is read, in the first epoch of a run, or never.
        seed: of the order and the augmentations.
        num_workers: processes that decode; None: this process's share of the cores less one, at most 8.
        cache_dir: for what cannot be kept beside the data.
        garden: plant this garden in `root` first, if it is not there.
        storage_options: fsspec's, for a URL: its file system's arguments.
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
        cache_dir: str = "~/.cache/flowers",
        on_bad_record: OnBadRecord = "stop",
        check_crc: CheckCRC = "always",
        seed: int = 0,
        num_workers: int | None = None,
        garden: Garden | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.root = open_root(root, storage_options or {})
        self.image_size = image_size
        self.train_size = train_size
        self.eval_size = eval_size
        self.batch_size = batch_size
        self.on_bad_record = on_bad_record
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir).expanduser()
        self.check_crc = check_crc
        self.garden = garden
        self.skipped: set[str] = set()
        self._train_transform = SeededTransform(train_transform, seed)
        self._eval_transform = SeededTransform(eval_transform, seed)
        self._datasets: dict[tuple[Split, bool], FlowersDataset] = {}

    def prepare_data(self) -> None:
        if self.garden is not None:
            if not isinstance(self.root, Path):
                raise InputError(
                    f"data.root={self.root}: expected a local directory to plant the garden in, found a URL. To read a "
                    f"data set that is there, set data=tfrecords data.root={self.root}."
                )
            plant(self.garden, self.root)

    @cached_property
    def class_names(self) -> list[str]:
        """The class names in label order."""
        return read_class_names(self.root)

    def dataset(self, split: Split, *, training: bool = False) -> FlowersDataset:
        """The split's data set, opened at first use; for `training` with the training transform."""
        if (split, training) not in self._datasets:
            reader, faults = open_split(self.root, split, self.image_size, self.on_bad_record, self.cache_dir)
            self.skipped.update(faults)
            self._datasets[split, training] = FlowersDataset(
                reader,
                image_size=self.image_size,
                class_names=self.class_names,
                labelled=split != "test",
                transform=self._train_transform if training else self._eval_transform,
                on_bad_record=self.on_bad_record,
                check_crc=self.check_crc,
                first_epoch=self._epoch,
            )
        return self._datasets[split, training]

    def loader(self, split: Split, *, training: bool = False) -> DataLoader[Batch]:
        """The split's batches: whole, in order and padded; for `training` shuffled, without the ragged end."""
        dataset = self.dataset(split, training=training)
        sampler = self._sampler(len(dataset), shuffle=training)
        workers = self._workers if self.num_workers is None else self.num_workers
        size = self.train_size if training else self.eval_size
        ring = Ring(workers, PREFETCH + 2, self.batch_size * size * size * 3) if workers else None
        loader = DataLoader(
            Batches(dataset, self.batch_size, size, ring),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            multiprocessing_context=fork_server() if workers and not isinstance(self.root, Path) else None,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=torch.cuda.is_available(),
            drop_last=training and len(sampler) >= self.batch_size,
            collate_fn=_as_it_is,
            worker_init_fn=one_thread,
        )
        return cast(DataLoader[Batch], loader)

    @property
    def _epoch(self) -> int:
        """Where a resumed run goes on; workers are given their first batches before `set_epoch` is called."""
        return self.trainer.fit_loop.epoch_progress.current.processed if self.trainer else 0  # type: ignore[attr-defined]

    @property
    def _workers(self) -> int:
        processes = self.trainer.world_size // self.trainer.num_nodes if self.trainer else 1
        return min(8, max(1, available_cores() // processes - 1))

    def _sampler(self, count: int, *, shuffle: bool) -> EpochSampler:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return EpochSampler(count, seed=self.seed, shuffle=shuffle, rank=rank, ranks=ranks, epoch=self._epoch)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.skipped.update(batch["skipped"])
        return batch


def _as_it_is(batch: Any) -> Any:
    return batch
