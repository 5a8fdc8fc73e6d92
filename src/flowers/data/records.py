"""Open the shards of a data set and select the records of each split."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowers.data.catalog import Catalog, read_catalog
from flowers.data.class_names import read_class_names
from flowers.data.dataset import CheckCRC, FlowersDataset, OnBadRecord, open_splits
from flowers.data.layout import Split
from flowers.data.selection import Selection, SelectionSettings, select_records
from flowers.data.storage.cache import ReaderName
from flowers.data.storage.remote import AnyPath
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.transforms import SeededTransform
from flowers.errors import InputError


class SplitRecords:
    """Opens shards and selects the records of each split, at one resolution.

    Shards are opened, and labels read, at first use.

    Args:
        root: the data set's directory.
        image_size: the resolution, in pixels a side.
        settings: the records that each split holds.
        on_bad_record: stop at a record that cannot be read, or skip it.
        check_crc: when the CRC of a payload is checked.
        cache_dir: the directory for indexes and remote shards.
        reader: the reader of local shards.
        cache_gb: the most that cached remote shards may take, in gigabytes.
    """

    def __init__(
        self,
        root: AnyPath,
        image_size: int,
        settings: SelectionSettings,
        on_bad_record: OnBadRecord,
        check_crc: CheckCRC,
        cache_dir: Path,
        reader: ReaderName,
        cache_gb: float | None = None,
    ) -> None:
        self.root = root
        self.image_size = image_size
        self.settings = settings
        self.on_bad_record = on_bad_record
        self.check_crc = check_crc
        self.cache_dir = cache_dir
        self.reader = reader
        self.cache_gb = cache_gb
        self.skipped: set[str] = set()
        """The problems of skipped shards and records."""
        self._readers: dict[tuple[Split, ...], ShardReader] = {}
        self._catalogs: dict[tuple[Split, ...], Catalog] = {}

    @cached_property
    def class_names(self) -> list[str]:
        """Return the class names in label order."""
        return read_class_names(self.root)

    def dataset(self, split: Split, transform: SeededTransform) -> FlowersDataset:
        """Return the data set that a split is selected from."""
        return self.dataset_of(self.open(split), transform, labelled=split != "test")

    def dataset_of(self, reader: ShardReader, transform: SeededTransform, *, labelled: bool) -> FlowersDataset:
        """Return the data set of a reader's records, with the settings of this one."""
        return FlowersDataset(
            reader,
            image_size=self.image_size,
            class_names=self.class_names,
            labelled=labelled,
            transform=transform,
            on_bad_record=self.on_bad_record,
            check_crc=self.check_crc,
        )

    def select(self, split: Split) -> Selection:
        """Select the records of a split.

        Raises:
            InputError: the split is empty, or folds are set and a record cannot be read.
        """
        catalog = self.catalog(split) if self.settings.needs_catalog(split) else None
        selection = select_records(split, self.settings, len(self.open(split)), catalog)
        if len(selection.numbers) == 0:
            raise InputError(f"{self.root}: expected records in the {split} split, found none. Write its shards again.")
        return selection

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the labels of a split's readable records, int64 `[N]`."""
        catalog, chosen = self._choose(split)
        return catalog.labels[chosen]

    def training_ids(self) -> list[str]:
        """Return the ids of the readable records of the train split."""
        catalog, chosen = self._choose("train")
        return [catalog.ids[row] for row in np.flatnonzero(chosen)]

    def _choose(self, split: Split) -> tuple[Catalog, NDArray[np.bool_]]:
        """Return the catalog that a split is selected from, and which of its rows are in the split."""
        catalog = self.catalog(split)
        return catalog, np.isin(catalog.numbers, self.select(split).numbers)

    def count_classes(self) -> NDArray[np.float64]:
        """Return the number of readable training records of each class, in label order, float64 `[K]`."""
        return np.bincount(self.labels("train"), minlength=len(self.class_names)).astype(np.float64)

    def open(self, split: Split) -> ShardReader:
        """Open the shards that a split is selected from, at first use, as one reader."""
        sources = self.settings.sources(split)
        if sources not in self._readers:
            self._readers[sources], problems = open_splits(
                self.root, sources, self.image_size, self.on_bad_record, self.cache_dir, self.reader, self.cache_gb
            )
            self.skipped.update(problems)
        return self._readers[sources]

    def catalog(self, split: Split) -> Catalog:
        """Return the ids and labels of the readable records that a split is selected from."""
        sources = self.settings.sources(split)
        if sources not in self._catalogs:
            self._catalogs[sources] = read_catalog(self.dataset(split, SeededTransform([], 0)))
            self.skipped.update(self._catalogs[sources].problems)
            self._check_all_readable()
        return self._catalogs[sources]

    def _check_all_readable(self) -> None:
        if self.settings.folds is not None and self.skipped:
            raise InputError(
                f"data.folds={self.settings.folds}: expected every record to be readable, found {len(self.skipped)} "
                f"problems. The first: {min(self.skipped)} Without these records, folds would differ between "
                "resolutions. Fix the data set (python src/prepare.py verify root=DIR), or train without folds."
            )
