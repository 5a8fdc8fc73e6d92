"""The map-style data set of one split: a draw in, a decoded and augmented sample out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
from torch.utils.data import Dataset

from flowers.data.batch import NO_LABEL, Sample, Skipped
from flowers.data.example import Record, check_label, decode_example, decode_image
from flowers.data.layout import Split, find_shards
from flowers.data.sampling import PADDING, Draw
from flowers.data.shards import ShardIndex, ShardReader, index_shard, shard_fault
from flowers.data.transforms import SeededTransform
from flowers.errors import BadRecord

OnBadRecord = Literal["stop", "skip"]


def open_split(root: Path, split: Split, image_size: int, on_bad_record: OnBadRecord) -> tuple[ShardReader, list[str]]:
    """The records of a split by number, and what is wrong with its shards (nothing, unless bad records are skipped).

    Raises:
        InputError: the split is not there.
        BadRecord: a shard is damaged or holds another number of records than its name says.
    """
    indexes: list[ShardIndex] = []
    faults: list[str] = []
    for shard in find_shards(root, split, image_size):
        index = index_shard(shard.path)
        indexes.append(index)
        if fault := shard_fault(index, shard.count):
            if on_bad_record == "stop":
                raise BadRecord(fault)
            faults.append(fault)
    return ShardReader(indexes), faults


class FlowersDataset(Dataset[Sample | Skipped | None]):
    """A split's records as samples.

    `dataset[Draw(epoch, number)]` is the same sample whoever asks, in whatever order: the augmentation is
    seeded by (seed, epoch, number). `dataset[number]` is the sample of epoch 0. `PADDING` gives None.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        image_size: int,
        class_names: Sequence[str],
        labelled: bool,
        transform: SeededTransform,
        seed: int,
        on_bad_record: OnBadRecord,
    ) -> None:
        self.reader = reader
        self.image_size = image_size
        self.class_names = class_names
        self.labelled = labelled
        self.transform = transform
        self.seed = seed
        self.on_bad_record = on_bad_record

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, draw: Draw | int) -> Sample | Skipped | None:
        epoch, number = draw if isinstance(draw, tuple) else (0, draw)
        if number == PADDING:
            return None
        try:
            record = self.record(number)
            image = decode_image(record, self.image_size, self.reader.where(number))
        except BadRecord as error:
            if self.on_bad_record == "stop":
                raise
            return Skipped(str(error))
        image = self.transform(image, (self.seed, epoch, number))
        return Sample(record.id, image, NO_LABEL if record.label is None else record.label)

    def record(self, number: int) -> Record:
        """Record `number` as stored, its label checked; the JPEG is not decoded.

        Raises:
            BadRecord: its CRC is wrong, a feature is missing, or its class is out of range.
        """
        payload, where = self.reader[number], self.reader.where(number)
        record = decode_example(payload, labelled=self.labelled, where=where)
        check_label(record, len(self.class_names), where)
        return record


def one_thread(worker: int) -> None:
    """Start a worker: workers are the parallelism, without this each would have as many threads as there are cores."""
    cv2.setNumThreads(0)
