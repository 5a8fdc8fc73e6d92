"""Describe a data set: its shards, the images of each class, and one image at each resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.data.catalog import read_catalog
from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import FlowersDataset, Sample
from flowers.data.layout import SPLITS, Split, image_sizes, list_shards, size_directory
from flowers.data.records import SplitRecords
from flowers.data.selection import SelectionSettings
from flowers.data.storage.remote import AnyPath
from flowers.data.transforms import Image, SeededTransform


@dataclass(frozen=True, slots=True)
class StoredSplit:
    """The shards of a split at one resolution.

    split: the split's name.
    image_size: the resolution, in pixels a side.
    shards: the number of shards.
    records: the number of records, which the names of the shards declare.
    directory: the directory of the shards.
    """

    split: Split
    image_size: int
    shards: int
    records: int
    directory: str


def list_stored_splits(root: AnyPath) -> list[StoredSplit]:
    """List the shards of a data set by split and resolution. No shard is opened.

    Raises:
        InputError: the data set is unfinished, or a directory cannot be read.
    """
    found = []
    for split in SPLITS:
        for size in image_sizes(root):
            if shards := list_shards(root, split, size):
                records = sum(shard.count or 0 for shard in shards)
                found.append(StoredSplit(split, size, len(shards), records, str(size_directory(root, size) / split)))
    return found


def count_classes(datamodule: FlowersDataModule, split: Split) -> NDArray[np.int64]:
    """Return the number of images of each class in a labelled split, int64 `[K]`. No image is decoded.

    Raises:
        BadRecord: a record cannot be read, and bad records are not skipped.
    """
    catalog = read_catalog(datamodule.dataset(split))
    labels = catalog.labels[np.isin(catalog.numbers, datamodule.records(split))]
    return np.bincount(labels, minlength=len(datamodule.class_names))


def read_at_all_sizes(datamodule: FlowersDataModule, split: Split, number: int) -> dict[int, Image]:
    """Return one image at each stored resolution: uint8 `[S, S, 3]` by `S` in pixels, in ascending order.

    Args:
        datamodule: the data set's data module.
        split: one of its splits on disk.
        number: the number of the image's record in the split, at the data module's resolution.

    Raises:
        BadRecord: a record cannot be read.
    """
    identity = _open_split(datamodule, split, datamodule.image_size).record(number).id
    images = {}
    for size in image_sizes(datamodule.root):
        dataset = _open_split(datamodule, split, size)
        # Try the same number first: usually the order is the same at all resolutions.
        order = [number, *range(len(dataset))] if number < len(dataset) else range(len(dataset))
        found = next((place for place in order if dataset.record(place).id == identity), None)
        if found is not None and isinstance(sample := dataset[found], Sample):
            images[size] = sample.image
    return images


def _open_split(datamodule: FlowersDataModule, split: Split, size: int) -> FlowersDataset:
    """Open a split as it is stored at one resolution, without transforms."""
    as_stored = SelectionSettings(train_on="train", folds=None, fold=None, balance=None, seed=0)
    records = SplitRecords(datamodule.root, size, as_stored, "stop", "always", datamodule.cache_dir, "native")
    return records.dataset(split, SeededTransform([], 0))
