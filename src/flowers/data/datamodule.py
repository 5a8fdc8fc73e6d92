"""The LightningDataModule: a thin shell that gives each stage its loader."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import albumentations as A
import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from pydantic import Field
from torch import distributed
from torch.utils.data import DataLoader

from flowers.data.catalog import Catalog, read_catalog
from flowers.data.collate import Batches
from flowers.data.dataset import CheckCRC, FlowersDataset, OnBadRecord, open_splits
from flowers.data.folds import fold_of
from flowers.data.image_cache import DecodedImages, ImagesInMemory, ImagesOnDisk
from flowers.data.layout import Split, find_root, read_class_names
from flowers.data.position import Position, check_same_order, check_same_split, position_of, read_position
from flowers.data.sampler import Balance, EpochSampler, FixedSampler, class_weights
from flowers.data.shared_memory import Ring
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.transforms import SeededTransform
from flowers.data.workers import fork_server, start_worker
from flowers.errors import InputError
from flowers.interfaces import Batch
from flowers.settings import Count, Positive, Seed
from flowers.system.cores import available_cores

log = logging.getLogger(__name__)

PREFETCH = 2
"""Batches that each worker is ahead."""


class FlowersDataModule(L.LightningDataModule):
    """Batches from a data set in Kaggle's layout, at one resolution.

    Args:
        root: the data set's directory, or its URL; of several, the first that is there.
        image_size: the resolution to read, in pixels a side.
        train_size: the side of the images after `train_transform`, in pixels.
        eval_size: the same after `eval_transform`.
        batch_size: images a batch, on each process.
        train_transform: Albumentations transforms, in order, that end in images of `train_size`.
        eval_transform: the same for validation and prediction, of `eval_size`.
        train_on: the train split, or for a final fit train and val: then there is no validation.
        folds: cut train and val together into so many folds; None: train and val as they are.
        fold: the fold to validate on, 0 to `folds - 1`; the others are for training.
        balance: draw classes in training by the square root of their counts, or all alike; None: as they come.
        on_bad_record: `stop` at the first record that cannot be read, or `skip` it and tell at the end.
        check_crc: of a record's payload: each time it is read, in the first epoch of a run, or never.
        decoded_cache: keep images decoded for training, in memory or on disk; None: decode each time.
        seed: of the order, the augmentations and the folds.
        num_workers: processes that decode; None: this process's share of the cores less one, at most 8.
        cache_dir: for decoded images, and for indexes that cannot be kept beside the data.
        prepare: called once with `root`, a local directory, before anything is read: to download or generate the data
            set there.
        storage_options: fsspec's, for a URL: its file system's arguments.

    Raises:
        InputError: settings that do not go together.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        image_size: Positive,
        train_size: Positive,
        eval_size: Positive,
        batch_size: Positive,
        train_transform: Sequence[A.BasicTransform],
        eval_transform: Sequence[A.BasicTransform],
        train_on: Literal["train", "train+val"] = "train",
        folds: Annotated[int, Field(ge=2)] | None = None,
        fold: Count | None = None,
        balance: Balance | None = None,
        on_bad_record: OnBadRecord = "stop",
        check_crc: CheckCRC = "always",
        decoded_cache: Literal["memory", "disk"] | None = None,
        seed: Seed = 0,
        num_workers: Count | None = None,
        cache_dir: str = "~/.cache/flowers",
        prepare: Callable[[Path], object] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_folds(folds, fold, train_on)
        self.root = find_root(root, storage_options or {})
        self.image_size = image_size
        self.train_size = train_size
        self.eval_size = eval_size
        self.batch_size = batch_size
        self.train_on = train_on
        self.folds = folds
        self.fold = fold
        self.balance = balance
        self.on_bad_record = on_bad_record
        self.check_crc = check_crc
        self.decoded_cache = decoded_cache
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir).expanduser()
        self.prepare = prepare
        self.skipped: set[str] = set()
        self._train_transform = SeededTransform(train_transform, seed)
        self._eval_transform = SeededTransform(eval_transform, seed)
        self._datasets: dict[tuple[Split, bool], FlowersDataset] = {}
        self._readers: dict[tuple[Split, ...], ShardReader] = {}
        self._catalogs: dict[tuple[Split, ...], Catalog] = {}
        self._start = Position()

    def prepare_data(self) -> None:
        if self.prepare is not None:
            if not isinstance(self.root, Path):
                raise InputError(
                    f"data.root={self.root}: expected a local directory for data.prepare, found a URL. To read a data "
                    f"set that is there, set data=tfrecords data.root={self.root}."
                )
            self.prepare(self.root)

    def setup(self, stage: str) -> None:
        """Open the splits of a stage. Damaged shards are found here, before anything slow."""
        splits: tuple[Split, ...] = ("train", "val") if stage == "fit" else ()
        for split in splits:
            self.records(split)

    def count_batches(self, processes: int) -> int:
        """Return the batches of a training epoch on each of so many processes."""
        return max(1, len(self.records("train")) // (self.batch_size * processes))

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split: after a final fit to train and val there is none."""
        return self.train_on == "train"

    @cached_property
    def class_names(self) -> list[str]:
        """The class names in label order."""
        return read_class_names(self.root)

    def dataset(self, split: Split, *, training: bool = False) -> FlowersDataset:
        """The data set that the split is part of, opened at first use; for `training` with the training transform."""
        if (split, training) not in self._datasets:
            self._datasets[split, training] = FlowersDataset(
                self._reader(split),
                image_size=self.image_size,
                class_names=self.class_names,
                labelled=split != "test",
                transform=self._train_transform if training else self._eval_transform,
                on_bad_record=self.on_bad_record,
                check_crc=self.check_crc,
            )
        return self._datasets[split, training]

    def _reader(self, split: Split) -> ShardReader:
        splits = self._splits(split)
        if splits not in self._readers:
            reader, faults = open_splits(self.root, splits, self.image_size, self.on_bad_record, self.cache_dir)
            self._readers[splits] = reader
            self.skipped.update(faults)
        return self._readers[splits]

    def _splits(self, split: Split) -> tuple[Split, ...]:
        """The splits on disk that a split is part of."""
        together = self.folds is not None or (split == "train" and self.train_on == "train+val")
        return ("train", "val") if together and split != "test" else (split,)

    def records(self, split: Split) -> NDArray[np.int64]:
        """The numbers of a split's records in its data set, int64 `[N]`.

        Raises:
            InputError: there are none.
        """
        if self.folds is not None and split != "test":
            catalog = self._catalog(split)
            fold = fold_of(catalog.ids, catalog.labels, folds=self.folds, seed=self.seed)
            chosen = fold == self.fold if split == "val" else fold != self.fold
            numbers: NDArray[np.int64] = catalog.numbers[chosen]
        elif self.balance is not None and split == "train":
            numbers = self._catalog(split).numbers
        else:
            numbers = np.arange(len(self.dataset(split)))
        if len(numbers) == 0:
            raise InputError(f"{self.root}: expected records in the {split} split, found none. Write its shards again.")
        return numbers

    def _catalog(self, split: Split) -> Catalog:
        splits = self._splits(split)
        if splits not in self._catalogs:
            self._catalogs[splits] = read_catalog(self.dataset(split))
            self.skipped.update(self._catalogs[splits].faults)
            self._check_whole()
        return self._catalogs[splits]

    def _check_whole(self) -> None:
        if self.folds is not None and self.skipped:
            raise InputError(
                f"data.folds={self.folds}: expected every record to be readable, found {len(self.skipped)} faults, the "
                f"first of them: {min(self.skipped)} Folds without such a record would be others than at other "
                "resolutions. Mend the data set (python src/prepare.py verify root=DIR), or train without folds."
            )

    def loader(self, split: Split, *, training: bool = False) -> DataLoader[Batch]:
        """The split's batches: each record once, in order; for `training` shuffled, without the ragged end."""
        dataset = self.dataset(split, training=training)
        workers = self._default_workers() if self.num_workers is None else self.num_workers
        size = self.train_size if training else self.eval_size
        if training and self.decoded_cache and dataset.decoded is None:
            dataset.decoded = self._decoded(dataset)
        records = self.records(split)
        loader = DataLoader(
            Batches(dataset, records, self.batch_size, size, _ring(workers, self.batch_size * size * size * 3)),
            batch_size=self.batch_size,
            sampler=self._sampler(split, records, training=training),
            num_workers=workers,
            multiprocessing_context=fork_server() if workers and not isinstance(self.root, Path) else None,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_it_is,
            worker_init_fn=start_worker,
        )
        return cast(DataLoader[Batch], loader)

    @property
    def _processes(self) -> int:
        """How many processes of this run share this machine."""
        return max(1, self.trainer.world_size // self.trainer.num_nodes) if self.trainer else 1

    def _default_workers(self) -> int:
        return min(8, max(1, available_cores() // self._processes - 1))

    def _decoded(self, dataset: FlowersDataset) -> DecodedImages:
        if self.decoded_cache == "memory":
            several = self.trainer if self._processes > 1 else None
            barrier = several.strategy.barrier if several else lambda: None
            return ImagesInMemory(len(dataset), self.image_size, self._processes, barrier)
        return ImagesOnDisk(self.cache_dir / "decoded", dataset.reader.state(), len(dataset), self.image_size)

    def _sampler(self, split: Split, records: NDArray[np.int64], *, training: bool) -> EpochSampler:
        start = self._start if training else Position()
        check_same_order(start, self._order(len(records)))
        sampler = FixedSampler if self._overfits else EpochSampler
        return sampler(
            records,
            seed=self.seed,
            shuffle=training,
            batch_size=self.batch_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            ranks=self._ranks,
            epoch=start.epoch,
            start_batch=start.batch,
            weights=self._weights(split, records) if training and self.balance else None,
        )

    @property
    def _overfits(self) -> bool:
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _weights(self, split: Split, records: NDArray[np.int64]) -> NDArray[np.float64]:
        catalog = self._catalog(split)
        labels = np.full(len(self.dataset(split)), -1)
        labels[catalog.numbers] = catalog.labels
        assert self.balance is not None
        return class_weights(labels[records], self.balance)

    def _order(self, records: int) -> dict[str, Any]:
        """What an epoch's order depends on, besides the epoch."""
        return {
            "records": records,
            "data.batch_size times processes": self.batch_size * self._ranks,
            "data.seed": self.seed,
            "data.balance": self.balance,
            "data.train_on": self.train_on,
            "data.folds": self.folds,
            "data.fold": self.fold,
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        return [] if fitting and not self.has_validation else self.loader("val")

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return position_of(self.trainer, self._order(len(self.records("train")))).state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = read_position(state_dict)

    def check_same_split(self, state: Mapping[str, Any]) -> None:
        """Raise `InputError` if a checkpoint with this state was trained on another split, at whatever batch."""
        check_same_split(read_position(state), self._order(len(self.records("train"))))

    def gather_skipped(self) -> set[str]:
        """Return what was wrong with each record that a process of the run skipped; all of them must call it.

        The hosts of a TPU pod have no process group: each returns its own.
        """
        if distributed.is_available() and distributed.is_initialized():
            found: list[set[str]] = [set()] * distributed.get_world_size()
            distributed.all_gather_object(found, self.skipped)
            self.skipped.update(*found)
        return self.skipped

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.skipped.update(batch.get("skipped", ()))
        return batch


def _check_folds(folds: int | None, fold: int | None, train_on: str) -> None:
    if (folds is None) != (fold is None) or (folds is not None and fold is not None and fold >= folds):
        raise InputError(
            f"data.fold={fold}, data.folds={folds}: expected both or neither, and a fold from 0 to folds - 1. "
            "Set data.folds=5 data.fold=0, say."
        )
    if folds is not None and train_on != "train":
        raise InputError(
            f"data.train_on={train_on}: expected train with data.folds={folds}: the folds are train and val together, "
            "less the one that is validated on. Leave one of them out."
        )


def _ring(workers: int, batch_bytes: int) -> Ring | None:
    if not workers:
        return None
    # The training loop holds two batches, the one it is at and the next; those of several workers in turn.
    slots = PREFETCH + -(-2 // workers)
    try:
        return Ring(workers, slots, batch_bytes)
    except OSError as error:
        log.warning(
            "No %d MiB of memory for the batches of %d workers (%s): they send them through pipes, which is slower. "
            "Set data.batch_size or data.num_workers lower.",
            workers * slots * batch_bytes >> 20,
            workers,
            error.strerror,
        )
        return None


def _as_it_is(batch: Any) -> Any:
    return batch
