"""The map-style data set of one split, which turns a sample index into a decoded and augmented sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from flowers.data.image_cache import DecodedImages
from flowers.data.layout import Split, find_shards
from flowers.data.sampler import PADDING, SampleIndex
from flowers.data.storage.cache import ReaderName, open_reader
from flowers.data.storage.remote import AnyPath
from flowers.data.tfrecord.example import Record, check_label, decode_example, decode_image
from flowers.data.tfrecord.framing import shard_problem
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.transforms import Image, SeededTransform
from flowers.errors import BadRecord
from flowers.interfaces import NO_LABEL

OnBadRecord = Literal["stop", "skip"]
CheckCRC = Literal["always", "first_epoch", "never"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, uint8 `[H, W, 3]`, with its id and label."""

    id: str
    image: Image
    label: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Placeholder for a sample whose record could not be read."""

    reason: str


def open_splits(
    root: AnyPath,
    splits: Sequence[Split],
    image_size: int,
    on_bad_record: OnBadRecord,
    cache_dir: Path,
    reader: ReaderName = "native",
    cache_gb: float | None = None,
) -> tuple[ShardReader, list[str]]:
    """Open the shards of splits as one reader. `cache_gb` limits the cached shards if they are remote.

    Returns:
        The reader, which numbers the records of all shards consecutively, and the problems of damaged shards. The list
        is empty unless bad records are skipped.

    Raises:
        InputError: a split is missing.
        BadRecord: a shard is damaged or does not hold the number of records that its name declares, and bad records are
            not skipped.
    """
    shards = [shard for split in splits for shard in find_shards(root, split, image_size)]
    opened = open_reader([shard.path for shard in shards], cache_dir, reader, cache_gb)
    problems: list[str] = []
    for shard, index in zip(shards, opened.indexes, strict=True):
        if problem := shard_problem(index, shard.count):
            if on_bad_record == "stop":
                raise BadRecord(problem)
            problems.append(problem)
    return opened, problems


class FlowersDataset(Dataset[Sample | Skipped | None]):
    """Serves a split's records as samples.

    A sample depends only on its index, not on the worker or the order of requests: the index and the transform's seed
    determine the augmentation. `dataset[number]` is the sample of epoch 0. A `PADDING` index gives None.
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
        decoded: DecodedImages | None = None,
    ) -> None:
        self.reader = reader
        self.image_size = image_size
        self.class_names = class_names
        self.labelled = labelled
        self.transform = transform
        self.on_bad_record = on_bad_record
        self.check_crc = check_crc
        self._first_epoch: int | None = None
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: SampleIndex | int) -> Sample | Skipped | None:
        return self.sample(index if isinstance(index, tuple) else SampleIndex(0, index))

    def sample(self, index: SampleIndex, out: Image | None = None) -> Sample | Skipped | None:
        """Return the sample of an index, decoded and augmented.

        Args:
            index: the sample's index.
            out: memory for the decoded image, uint8 `[H, W, 3]`; used only if its shape matches.

        Returns:
            None for padding, and `Skipped` for an unreadable record if bad records are skipped.

        Raises:
            BadRecord: the record cannot be read, and bad records are not skipped.
        """
        if index.number == PADDING:
            return None
        where = self.reader.where(index.number)
        try:
            record = self._read(index.number, where, self._should_check(index.epoch))
            image = self._image(record, index.number, where, out)
        except BadRecord as error:
            if self.on_bad_record == "stop":
                raise
            return Skipped(str(error))
        image = self.transform(image, index)
        return Sample(record.id, image, NO_LABEL if record.label is None else record.label)

    def _should_check(self, epoch: int) -> bool:
        if self._first_epoch is None:  # a resumed run does not start with epoch 0
            self._first_epoch = epoch
        return self.check_crc == "always" or (self.check_crc == "first_epoch" and epoch == self._first_epoch)

    def record(self, number: int) -> Record:
        """Return record `number` as stored, with its CRC and label checked. The JPEG is not decoded.

        Raises:
            BadRecord: the CRC is wrong, a feature is missing, or the class is out of range.
        """
        return self._read(number, self.reader.where(number), check=True)

    def _read(self, number: int, where: str, check: bool) -> Record:
        record = decode_example(self.reader.read(number, check=check), labelled=self.labelled, where=where)
        check_label(record, len(self.class_names), where)
        return record

    def _image(self, record: Record, number: int, where: str, out: Image | None) -> Image:
        shape = (self.image_size, self.image_size, 3)
        image = out if out is not None and out.shape == shape else np.empty(shape, np.uint8)
        if self.decoded is None:
            decode_image(record, where, image)
        elif not self.decoded.get(number, image):
            decode_image(record, where, image)
            self.decoded.put(number, image)
        return image
