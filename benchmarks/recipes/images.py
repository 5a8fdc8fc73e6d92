"""Read a split into memory, for the recipes that do not use the project's loader."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.recipes.task import Task
from flowers.data.class_names import read_class_names
from flowers.data.dataset import open_splits
from flowers.data.layout import Split
from flowers.data.tfrecord.example import Record, check_label, decode_example
from flowers.errors import BadRecord


@dataclass(frozen=True, slots=True)
class Images:
    """A split in the order of its shards: `images` uint8 `[N, S, S, 3]`, RGB; `labels` int64 `[N]`; `ids`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: list[str]


def count_classes(task: Task) -> int:
    """Return the number of classes of a task's data set."""
    return len(read_class_names(task.root))


def read_records(task: Task, split: Split) -> list[Record]:
    """Return a split's records, with their JPEGs not decoded.

    Raises:
        InputError: the split does not exist.
        BadRecord: a shard or a record is damaged.
    """
    reader, _ = open_splits(task.root, [split], task.image_size, "stop", task.cache_dir)
    class_count = count_classes(task)
    records = []
    for number in range(len(reader)):
        where = reader.where(number)
        record = decode_example(reader.read(number), labelled=True, where=where)
        check_label(record, class_count, where)
        records.append(record)
    return records


def read_images(task: Task, split: Split) -> Images:
    """Read and decode a split.

    Raises:
        InputError: the split does not exist.
        BadRecord: a shard, a record or an image is damaged.
    """
    records = read_records(task, split)
    images = np.empty((len(records), task.image_size, task.image_size, 3), np.uint8)
    for image, record in zip(images, records, strict=True):
        image[:] = _decode(record, task.image_size)
    labels = np.array([record.label for record in records], np.int64)
    return Images(images, labels, [record.id for record in records])


def _decode(record: Record, image_size: int) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)
    shape = None if decoded is None else decoded.shape
    if decoded is None or shape != (image_size, image_size, 3):
        raise BadRecord(
            f"id {record.id}: expected a JPEG of {image_size} x {image_size} pixels, found {shape or 'none'}. "
            "`python src/prepare.py verify` lists all such records."
        )
    rgb: NDArray[np.uint8] = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return rgb
