"""The map-style data set of one split: a draw in, a decoded and augmented sample out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from torch.utils.data import Dataset

from flowers.data.batch import NO_LABEL, Sample, Skipped
from flowers.data.example import Record, decode_example
from flowers.data.layout import Split, find_shards
from flowers.data.mirror import open_reader
from flowers.data.reader import ShardReader
from flowers.data.remote import AnyPath
from flowers.data.sampling import PADDING, Draw
from flowers.data.shards import ShardIndex
from flowers.data.transforms import Image, SeededTransform
from flowers.errors import BadRecord

OnBadRecord = Literal["stop", "skip"]
CheckCRC = Literal["always", "first_epoch", "never"]


def open_split(
    root: AnyPath, split: Split, image_size: int, on_bad_record: OnBadRecord, cache_dir: Path
) -> tuple[ShardReader, list[str]]:
    """The records of a split by number, and what is wrong with its shards (nothing, unless bad records are skipped).

    Raises:
        InputError: the split is not there.
        BadRecord: a shard is damaged or holds another number of records than its name says.
    """
    shards = find_shards(root, split, image_size)
    reader = open_reader([shard.path for shard in shards], cache_dir)
    faults: list[str] = []
    for shard, index in zip(shards, reader.indexes, strict=True):
        if fault := _shard_fault(index, shard.count):
            if on_bad_record == "stop":
                raise BadRecord(fault)
            faults.append(fault)
    return reader, faults


def _shard_fault(index: ShardIndex, promised: int | None) -> str | None:
    if index.fault is None and promised in (None, len(index)):
        return None
    count = f"{index.path}: expected {promised} records as the name says, found {len(index)}."
    fix = (
        "Copy or download the shard again; data.on_bad_record=skip goes on with the records before it."
        if index.fault
        else "Copy or download the shard again, or rename it to its true count."
    )
    return " ".join(part for part in (index.fault, count if promised != len(index) else "", fix) if part)


class FlowersDataset(Dataset[Sample | Skipped | None]):
    """A split's records as samples.

    A draw's sample is the same whoever asks, in whatever order: the augmentation is seeded by `seed` and the draw.
    `dataset[number]` is the sample of epoch 0. A `PADDING` draw gives None.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        image_size: int,
        class_names: Sequence[str],
        labelled: bool,
        transform: SeededTransform,
        on_bad_record: OnBadRecord,
        check_crc: CheckCRC = "always",
        first_epoch: int = 0,
    ) -> None:
        self.reader = reader
        self.image_size = image_size
        self.class_names = class_names
        self.labelled = labelled
        self.transform = transform
        self.on_bad_record = on_bad_record
        self.check_crc = check_crc
        self.first_epoch = first_epoch

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, draw: Draw | int) -> Sample | Skipped | None:
        return self.sample(draw if isinstance(draw, tuple) else Draw(0, draw))

    def sample(self, draw: Draw, out: Image | None = None) -> Sample | Skipped | None:
        """A draw's sample, its picture decoded into `out`, uint8 `[H, W, 3]`, where that fits, and then transformed.

        Raises:
            BadRecord: the record cannot be read, and bad records are not skipped.
        """
        if draw.number == PADDING:
            return None
        try:
            record = self.record(draw.number, check=self._checks(draw.epoch))
            image = self._decode(record, draw.number, out)
        except BadRecord as error:
            if self.on_bad_record == "stop":
                raise
            return Skipped(str(error))
        image = self.transform(image, draw)
        return Sample(record.id, image, NO_LABEL if record.label is None else record.label)

    def _checks(self, epoch: int) -> bool:
        return self.check_crc == "always" or (self.check_crc == "first_epoch" and epoch == self.first_epoch)

    def record(self, number: int, *, check: bool = True) -> Record:
        """Record `number` as stored, its label checked; the JPEG is not decoded. Without `check`, nor is the CRC.

        Raises:
            BadRecord: its CRC is wrong, a feature is missing, or its class is out of range.
        """
        payload, where = self.reader.read(number, check=check), self.reader.where(number)
        record = decode_example(payload, labelled=self.labelled, where=where)
        if record.label is not None and not 0 <= record.label < len(self.class_names):
            raise BadRecord(
                f"{where}: expected a class from 0 to {len(self.class_names) - 1}, found {record.label} "
                f"(id {record.id}). If the data set has more classes, name them in its classes.txt, one a line."
            )
        return record

    def _decode(self, record: Record, number: int, out: Image | None) -> Image:
        size = self.image_size
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(record.image)
            if (height, width) == (size, size):
                image = out if out is not None and out.shape == (size, size, 3) else np.empty((size, size, 3), np.uint8)
                simplejpeg.decode_jpeg(record.image, colorspace="RGB", buffer=image)
                return image
        except ValueError as error:
            raise BadRecord(
                f"{self.reader.where(number)}: expected a JPEG as the image of id {record.id}, found "
                f"{len(record.image)} bytes that are none ({str(error).strip()}). Write the shard again."
            ) from None
        raise BadRecord(
            f"{self.reader.where(number)}: expected an image of {size}x{size} pixels as "
            f"the directory says, found {width}x{height} (id {record.id}). Write the shard again."
        )


def one_thread(worker: int) -> None:
    """Start a worker: workers are the parallelism, without this each would have as many threads as there are cores."""
    cv2.setNumThreads(0)
