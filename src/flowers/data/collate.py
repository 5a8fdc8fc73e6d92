"""Collate samples into batches. Each image is decoded directly into its row of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from flowers.data.dataset import FlowersDataset, Sample, Skipped
from flowers.data.sampler import PADDING, SampleIndex
from flowers.data.shared_memory import SharedMemoryPool
from flowers.data.transforms import Image
from flowers.errors import InputError
from flowers.interfaces import NO_LABEL, Batch


class BatchDataset(Dataset["Batch | SentBatch"]):
    """Serves a data set's records as batches of exactly `batch_size` rows.

    A DataLoader passes the indices of a whole batch at once, and workers send their batches through `pool`. Integers
    from another sampler, such as PyTorch's or Lightning's own, are positions in `records` and get the augmentations of
    epoch 0.

    Args:
        dataset: the data set.
        records: the numbers of the records in use, int64 `[N]`.
        batch_size: the rows of a batch; rows without an index are padding.
        image_size: the side of the images after the transform, in pixels.
        pool: shared memory for the batches of workers.
    """

    def __init__(
        self,
        dataset: FlowersDataset,
        records: NDArray[np.int64],
        batch_size: int,
        image_size: int,
        pool: SharedMemoryPool | None = None,
    ) -> None:
        self.dataset = dataset
        self.records = records
        self.shape = (batch_size, image_size, image_size, 3)
        self.pool = pool

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, items: Sequence[SampleIndex | int]) -> Batch | SentBatch:
        indices = [_sample_index(item, self.records) for item in items]
        worker = get_worker_info()
        if worker is None:
            return self._fill(np.empty(self.shape, np.uint8), indices).to_batch()
        slot = self.pool.take(worker.id) if self.pool else None
        if self.pool is None or slot is None:
            return SentBatch(self._fill(np.empty(self.shape, np.uint8), indices))
        return SentBatch(self._fill(self.pool.array(slot, self.shape), indices), self.pool.key, slot)

    def _fill(self, image: NDArray[np.uint8], indices: Sequence[SampleIndex]) -> _Rows:
        self.dataset.reader.prefetch(index.number for index in indices if index.number != PADDING)
        rows = _Rows.empty(image)
        for row, (index, pixels) in enumerate(zip(indices, image, strict=False)):
            rows.put(row, pixels, self.dataset.sample(index, out=pixels))
        image[~rows.valid] = 0
        return rows


def _sample_index(item: SampleIndex | int, records: NDArray[np.int64]) -> SampleIndex:
    return item if isinstance(item, SampleIndex) else SampleIndex(0, int(records[item]))


@dataclass(slots=True)
class _Rows:
    """A batch as NumPy arrays. Rows are not valid until they are filled."""

    image: NDArray[np.uint8]
    label: NDArray[np.int64]
    id: list[str]
    valid: NDArray[np.bool_]
    skipped: list[str]

    @staticmethod
    def empty(image: NDArray[np.uint8]) -> _Rows:
        rows = len(image)
        return _Rows(image, np.full(rows, NO_LABEL, np.int64), [""] * rows, np.zeros(rows, bool), [])

    def put(self, row: int, pixels: Image, sample: Sample | Skipped | None) -> None:
        """Fill a row, whose part of `image` is `pixels`. An image already decoded there is not copied."""
        if isinstance(sample, Skipped):
            self.skipped.append(sample.reason)
        elif sample is not None:
            _check_image(sample, self.image.shape[1])
            if sample.image is not pixels:
                pixels[:] = sample.image
            self.label[row], self.id[row], self.valid[row] = sample.label, sample.id, True

    def to_batch(self) -> Batch:
        return _batch(torch.from_numpy(self.image), self.label, self.id, self.valid, self.skipped)


def _batch(
    image: torch.Tensor, label: NDArray[np.int64], ids: list[str], valid: NDArray[np.bool_], skipped: list[str]
) -> Batch:
    return Batch(image=image, label=torch.from_numpy(label), id=ids, valid=torch.from_numpy(valid), skipped=skipped)


@dataclass(frozen=True, slots=True)
class SentBatch:
    """A batch that a worker sends. It is unpickled in the main process as a `Batch`.

    Its images are pickled as the number of their slot in the pool or, without a slot, as bytes. PyTorch would put a
    tensor into a file in /dev/shm, which causes a bus error if /dev/shm is full.
    """

    rows: _Rows
    pool: int | None = None
    slot: int | None = None

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[object, ...]]:
        rows = self.rows
        rest = rows.label, rows.id, rows.valid, rows.skipped
        if self.slot is None:
            return _unpickle_images, (rows.image, *rest)
        return _unpickle_slot, (self.pool, self.slot, rows.image.shape, *rest)


def _unpickle_images(image: NDArray[np.uint8], *rest: object) -> Batch:
    return _batch(torch.from_numpy(image), *rest)  # type: ignore[arg-type]


def _unpickle_slot(pool: int, slot: int, shape: Sequence[int], *rest: object) -> Batch:
    return _batch(SharedMemoryPool.of(pool).tensor(slot, shape), *rest)  # type: ignore[arg-type]


def _check_image(sample: Sample, side: int) -> None:
    if sample.image.dtype != np.uint8:
        raise InputError(
            f"record {sample.id}: expected the transform to give uint8 pixels, found {sample.image.dtype}. "
            "Remove Normalize, ToFloat and the like from it: the model normalises on the device."
        )
    if sample.image.shape != (side, side, 3):
        height, width = sample.image.shape[:2]
        raise InputError(
            f"record {sample.id}: expected the transform to give {side}x{side} pixels, found {width}x{height}. Make "
            "data.train_transform end in data.train_size pixels, and data.eval_transform in data.eval_size."
        )
