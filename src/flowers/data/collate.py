"""How samples become batches: each picture is decoded straight into its row of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from flowers.data.dataset import FlowersDataset, Sample, Skipped
from flowers.data.sampler import PADDING, Draw
from flowers.data.shared_memory import Ring
from flowers.data.transforms import Image
from flowers.errors import InputError
from flowers.interfaces import NO_LABEL, Batch


class Batches(Dataset["Batch | SentBatch"]):
    """A data set's records as Batches of just `batch_size` rows.

    For a DataLoader, which hands over the draws of a whole batch at once; workers pass their batches through `ring`.
    A sampler of ints, such as PyTorch's or Lightning's own, draws positions in `records`, with epoch 0's augmentations.

    Args:
        dataset: the records.
        records: the numbers of those that are in use, int64 `[N]`.
        batch_size: rows of a batch. Those beyond its draws are padding.
        image_size: the side of the images after the transform, in pixels.
        ring: shared memory for the batches of workers.
    """

    def __init__(
        self,
        dataset: FlowersDataset,
        records: NDArray[np.int64],
        batch_size: int,
        image_size: int,
        ring: Ring | None = None,
    ) -> None:
        self.dataset = dataset
        self.records = records
        self.shape = (batch_size, image_size, image_size, 3)
        self.ring = ring

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, items: Sequence[Draw | int]) -> Batch | SentBatch:
        draws = [item if isinstance(item, Draw) else Draw(0, int(self.records[item])) for item in items]
        worker = get_worker_info()
        if worker is None:
            return self._fill(np.empty(self.shape, np.uint8), draws).batch()
        slot = self.ring.take(worker.id) if self.ring else None
        if self.ring is None or slot is None:
            return SentBatch(self._fill(np.empty(self.shape, np.uint8), draws))
        return SentBatch(self._fill(self.ring.array(slot, self.shape), draws), self.ring.key, slot)

    def _fill(self, image: NDArray[np.uint8], draws: Sequence[Draw]) -> _Rows:
        self.dataset.reader.prefetch(draw.number for draw in draws if draw.number != PADDING)
        rows = _Rows.empty(image)
        for row, (draw, picture) in enumerate(zip(draws, image, strict=False)):
            rows.put(row, picture, self.dataset.sample(draw, out=picture))
        image[~rows.valid] = 0
        return rows


@dataclass(slots=True)
class _Rows:
    """A Batch as arrays; rows are not valid until they are filled."""

    image: NDArray[np.uint8]
    label: NDArray[np.int64]
    id: list[str]
    valid: NDArray[np.bool_]
    skipped: list[str]

    @staticmethod
    def empty(image: NDArray[np.uint8]) -> _Rows:
        rows = len(image)
        return _Rows(image, np.full(rows, NO_LABEL, np.int64), [""] * rows, np.zeros(rows, bool), [])

    def put(self, row: int, picture: Image, sample: Sample | Skipped | None) -> None:
        """Fill a row, whose part of `image` is `picture`; a sample that was made there is not copied."""
        if isinstance(sample, Skipped):
            self.skipped.append(sample.reason)
        elif sample is not None:
            _check_image(sample, self.image.shape[1])
            if sample.image is not picture:
                picture[:] = sample.image
            self.label[row], self.id[row], self.valid[row] = sample.label, sample.id, True

    def batch(self) -> Batch:
        return _batch(torch.from_numpy(self.image), self.label, self.id, self.valid, self.skipped)


def _batch(
    image: torch.Tensor, label: NDArray[np.int64], ids: list[str], valid: NDArray[np.bool_], skipped: list[str]
) -> Batch:
    return Batch(image=image, label=torch.from_numpy(label), id=ids, valid=torch.from_numpy(valid), skipped=skipped)


@dataclass(frozen=True, slots=True)
class SentBatch:
    """A Batch on its way from a worker; it arrives in the main process as the Batch.

    Its images are pickled as the number of the ring's slot they are in or, where they are in none, as bytes: PyTorch
    would put a tensor in a file of /dev/shm, which ends in a bus error where that is full.
    """

    rows: _Rows
    ring: int | None = None
    slot: int | None = None

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[object, ...]]:
        rows = self.rows
        rest = rows.label, rows.id, rows.valid, rows.skipped
        if self.slot is None:
            return _unpack, (rows.image, *rest)
        return _arrive, (self.ring, self.slot, rows.image.shape, *rest)


def _unpack(image: NDArray[np.uint8], *rest: object) -> Batch:
    return _batch(torch.from_numpy(image), *rest)  # type: ignore[arg-type]


def _arrive(ring: int, slot: int, shape: Sequence[int], *rest: object) -> Batch:
    return _batch(Ring.of(ring).tensor(slot, shape), *rest)  # type: ignore[arg-type]


def _check_image(sample: Sample, side: int) -> None:
    if sample.image.dtype != np.uint8:
        raise InputError(
            f"record {sample.id}: expected the transform to give uint8 pixels, found {sample.image.dtype}. Take "
            "Normalize, ToFloat and the like out of it: the model normalises on the device."
        )
    if sample.image.shape != (side, side, 3):
        height, width = sample.image.shape[:2]
        raise InputError(
            f"record {sample.id}: expected the transform to give {side}x{side} pixels, found {width}x{height}. End "
            "data.train_transform in data.train_size, data.eval_transform in data.eval_size."
        )
