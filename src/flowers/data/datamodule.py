"""The LightningDataModule: settings, the loader of each stage, and the state for resuming."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import albumentations as A
import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from pydantic import Field
from torch import distributed
from torch.utils.data import DataLoader

from flowers.data.dataset import CheckCRC, FlowersDataset, OnBadRecord, Sample
from flowers.data.image_cache import DecodedImages, ImagesInMemory, ImagesOnDisk
from flowers.data.layout import Split, find_roots
from flowers.data.loader import batch_loader
from flowers.data.mixed_records import MixedRecords, passes_of
from flowers.data.mixing import mixing_order, split_epoch
from flowers.data.position import IMAGES, Position, check_same_order, check_same_split, position_of, read_position
from flowers.data.records import SplitRecords
from flowers.data.sampler import Balance, EpochSampler, FixedSampler, kept_count
from flowers.data.selection import Selection, SelectionSettings, TrainOn
from flowers.data.storage.cache import ReaderName
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.transforms import SeededTransform
from flowers.data.workers import default_workers
from flowers.errors import InputError
from flowers.interfaces import Batch
from flowers.settings import Count, Positive, PositiveFloat, Seed


class FlowersDataModule(L.LightningDataModule):
    """Serves batches of a data set in Kaggle's layout, at one resolution.

    Args:
        root: the data set's directory or URL; of several, the first that exists. None with `roots`.
        image_size: the resolution to read, in pixels a side.
        train_size: the side of the images after `train_transform`, in pixels.
        eval_size: the side of the images after `eval_transform`, in pixels.
        batch_size: the images per batch on each process.
        train_transform: Albumentations transforms in order, which end in images of `train_size`.
        eval_transform: the same for validation and prediction, which end in images of `eval_size`.
        train_on: the train split, or train and val for a final fit, which then has no validation.
        folds: the number of folds to cut train and val together into; None keeps the stored splits.
        fold: the fold to validate on, 0 to `folds - 1`; the others are for training.
        balance: draw classes in training by the square root of their counts, or all equally often; None draws each
            record once.
        on_bad_record: `stop` at the first record that cannot be read, or `skip` it and report it at the end.
        check_crc: verify a payload's CRC each time it is read, in the first epoch of a run, or never.
        decoded_cache: cache the decoded images of training, in memory or on disk; None decodes them each time.
        seed: the seed of the order, the augmentations and the folds.
        num_workers: the number of processes that decode; None: this process's part of the cores less one, at most 8.
        cache_dir: the directory for remote records, decoded images, and indexes that cannot be written beside the data.
        cache_gb: the most that cached remote shards, of all data sets, may take in `cache_dir`, in gigabytes (10^9
            bytes); None: no limit. The least recently used ones are removed.
        prepare: called with `root`, a local directory, before anything is read, to download or generate the data set.
        storage_options: arguments of a URL's fsspec file system.
        reader: the reader of local shards: `native`, or `tfrecord` for the package of that name, for comparison.
        roots: several data sets to train on together, in place of `root`. Folds, validation and test are those of the
            first. All have the same classes, and no id twice.
        weights: the number of passes per epoch over each of `roots`: 2 reads its records twice, and 0.5 reads one half
            in an epoch, the other half in the next. None: one pass over each.

    Raises:
        InputError: the settings contradict each other.
    """

    def __init__(
        self,
        root: str | Sequence[str] | None,
        image_size: Positive,
        train_size: Positive,
        eval_size: Positive,
        batch_size: Positive,
        train_transform: Sequence[A.BasicTransform],
        eval_transform: Sequence[A.BasicTransform],
        train_on: TrainOn = "train",
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
        reader: ReaderName = "native",
        cache_gb: PositiveFloat | None = None,
        roots: Annotated[Sequence[str], Field(min_length=1)] | None = None,
        weights: Sequence[PositiveFloat] | None = None,
    ) -> None:
        super().__init__()
        selection = SelectionSettings(train_on, folds, fold, balance, seed)
        self.roots = find_roots(root, roots, storage_options or {})
        passes = passes_of(roots, weights, {"data.balance": balance, "data.prepare": prepare})
        self.root = self.roots[0]
        self.image_size = image_size
        self.train_size = train_size
        self.eval_size = eval_size
        self.batch_size = batch_size
        self.train_on = train_on
        self.folds = folds
        self.fold = fold
        self.decoded_cache = decoded_cache
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir).expanduser()
        self.prepare = prepare
        self._train_transform = SeededTransform(train_transform, seed)
        self._eval_transform = SeededTransform(eval_transform, seed)
        sets = [
            SplitRecords(place, image_size, settings, on_bad_record, check_crc, self.cache_dir, reader, cache_gb)
            for place, settings in zip(self.roots, selection.by_set(len(self.roots)), strict=True)
        ]
        self._records = MixedRecords(sets, passes) if roots else sets[0]
        self._datasets: dict[tuple[Split, bool], FlowersDataset] = {}
        self._start = Position()

    def prepare_data(self) -> None:
        if self.prepare is not None:
            if not isinstance(self.root, Path):
                raise InputError(
                    f"data.root={self.root}: expected a local directory for data.prepare, found a URL. To read an "
                    f"existing data set, set data=tfrecords data.root={self.root}."
                )
            self.prepare(self.root)

    def setup(self, stage: str) -> None:
        """Open the splits of a stage, so that damaged shards are found before anything slow."""
        splits: tuple[Split, ...] = ("train", "val") if stage == "fit" else ()
        for split in splits:
            self.records(split)

    def count_batches(self, processes: int) -> int:
        """Return the number of batches of a training epoch on each of `processes` processes."""
        selection = self._records.select("train")
        global_batch_size = self.batch_size * processes
        kept = kept_count(selection.numbers, selection.mixture, global_batch_size, shuffle=True)
        if selection.mixture is not None:
            split_epoch(selection.mixture, kept)  # each data set must have a part of it
        return -(-kept // global_batch_size)

    def count_images(self) -> dict[str, int]:
        """Return the number of images by split: train, and val if there is a validation."""
        splits: tuple[Split, ...] = ("train", "val") if self.has_validation else ("train",)
        return {split: len(self.records(split)) for split in splits}

    def count_classes(self) -> list[int]:
        """Return the number of training images per class, in label order. The first call reads all labels.

        Of several data sets, an image counts as often as an epoch reads it; the sums are rounded up.
        """
        return [math.ceil(count) for count in self._records.count_classes()]

    @property
    def has_validation(self) -> bool:
        """Return whether there is a validation split. A final fit to train and val has none."""
        return self.train_on == "train"

    @property
    def class_names(self) -> list[str]:
        """Return the class names in label order."""
        return self._records.class_names

    @property
    def skipped(self) -> set[str]:
        """Return the problems of the records that this process has skipped."""
        return self._records.skipped

    def dataset(self, split: Split, *, training: bool = False) -> FlowersDataset:
        """Return the data set that a split is part of, opened at first use; with `training`, its training transform."""
        if (split, training) not in self._datasets:
            transform = self._train_transform if training else self._eval_transform
            self._datasets[split, training] = self._records.dataset(split, transform)
        return self._datasets[split, training]

    def records(self, split: Split) -> NDArray[np.int64]:
        """Return the numbers of a split's records in its data set, int64 `[N]`.

        Raises:
            InputError: the split is empty.
        """
        return self._records.select(split).numbers

    def loader(self, split: Split, *, training: bool = False) -> DataLoader[Batch]:
        """Return a split's batches: each record once, in order; with `training`, shuffled and full batches only.

        Raises:
            InputError: the split cannot be opened, is empty, or is not the one that a resumed run was trained on.
        """
        return self._loader(split, self._records.select(split), training=training)

    def sample(self, split: Split, count: int) -> DataLoader[Batch]:
        """Return batches of at most `count` records, drawn from the whole split by the seed, without augmentation.

        Raises:
            InputError: the split cannot be opened, or is empty.
        """
        numbers = self._records.select(split).numbers
        if len(numbers) > count:
            numbers = np.sort(np.random.default_rng(self.seed).choice(numbers, count, replace=False))
        return self._loader(split, Selection(numbers), training=False)

    def loader_of(self, reader: ShardReader, *, threaded: bool) -> DataLoader[Batch]:
        """Return batches of another reader's records in order, without labels, transformed as in evaluation.

        Args:
            reader: the reader of the records.
            threaded: whether reading uses threads, as for remote files.
        """
        dataset = self._records.dataset_of(reader, self._eval_transform, labelled=False)
        return self._batches(dataset, Selection(np.arange(len(reader))), training=False, threaded=threaded)

    def _loader(self, split: Split, selection: Selection, *, training: bool) -> DataLoader[Batch]:
        dataset = self.dataset(split, training=training)
        if training and self.decoded_cache and dataset.decoded is None:
            dataset.decoded = self._open_image_cache(dataset)
        threaded = not all(isinstance(root, Path) for root in self.roots)
        return self._batches(dataset, selection, training=training, threaded=threaded)

    def _batches(
        self, dataset: FlowersDataset, selection: Selection, *, training: bool, threaded: bool
    ) -> DataLoader[Batch]:
        return batch_loader(
            dataset,
            selection.numbers,
            self._sampler(selection, training=training),
            image_size=self.train_size if training else self.eval_size,
            workers=default_workers(self._processes) if self.num_workers is None else self.num_workers,
            threaded=threaded,
        )

    def training_ids(self) -> list[str]:
        """Return the ids of the readable training images. Reads every record once.

        Raises:
            InputError: a record cannot be read, and bad records are not skipped.
        """
        return self._records.training_ids()

    def images(self, split: Split, places: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return images of a split, uint8 `[eval_size, eval_size, 3]`, by their positions in `loader(split)`."""
        dataset, numbers = self.dataset(split), self.records(split)
        samples = (dataset[int(numbers[place])] for place in places)
        return [sample.image for sample in samples if isinstance(sample, Sample)]

    @property
    def _processes(self) -> int:
        """Return the number of processes of this run that share this machine."""
        return max(1, self.trainer.world_size // self.trainer.num_nodes) if self.trainer else 1

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _open_image_cache(self, dataset: FlowersDataset) -> DecodedImages:
        if self.decoded_cache == "memory":
            several = self.trainer if self._processes > 1 else None
            barrier = several.strategy.barrier if several else lambda: None
            return ImagesInMemory(len(dataset), self.image_size, self._processes, barrier)
        return ImagesOnDisk(self.cache_dir / "decoded", dataset.reader.state(), len(dataset), self.image_size)

    def _sampler(self, selection: Selection, *, training: bool) -> EpochSampler:
        start = self._start if training else Position()
        check_same_order(start, self._order(selection))
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        sampler = FixedSampler if overfits else EpochSampler
        return sampler(
            selection.numbers,
            seed=self.seed,
            shuffle=training,
            batch_size=self.batch_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            ranks=self._ranks,
            epoch=start.epoch,
            start_batch=start.batch,
            weights=selection.weights if training else None,
            mixture=selection.mixture if training else None,
        )

    def _order(self, selection: Selection) -> dict[str, Any]:
        """Return what an epoch's order depends on, besides the epoch."""
        batch = {"records": len(selection.numbers), IMAGES: self.batch_size * self._ranks}
        return batch | self._records.settings.order() | mixing_order(selection.mixture)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        return [] if fitting and not self.has_validation else self.loader("val")

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return position_of(self.trainer, self._order(self._records.select("train"))).state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = read_position(state_dict)

    def check_same_split(self, state: Mapping[str, Any]) -> None:
        """Raise `InputError` if a checkpoint with this state was trained on another split, whatever its batch."""
        check_same_split(read_position(state), self._order(self._records.select("train")))

    def gather_skipped(self) -> set[str]:
        """Return the problems of the records that any process of the run has skipped. All processes must call it.

        The hosts of a TPU pod have no process group, so each returns its own problems.
        """
        if distributed.is_available() and distributed.is_initialized():
            found: list[set[str]] = [set()] * distributed.get_world_size()
            distributed.all_gather_object(found, self.skipped)
            self.skipped.update(*found)
        return self.skipped

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.skipped.update(batch.get("skipped", ()))
        return batch
