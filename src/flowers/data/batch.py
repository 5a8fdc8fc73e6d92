"""The Batch, the one shape in which data flows, and how samples become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from flowers.data.transforms import Image
from flowers.errors import InputError

NO_LABEL = -1


class Batch(TypedDict):
    """`B` samples. Rows that are not `valid` are padding or stand for a record that could not be read.

    image: uint8 `[B, H, W, 3]`, RGB.
    label: int64 `[B]`, `NO_LABEL` where the split has none.
    id: the images' ids, empty where not valid.
    valid: bool `[B]`.
    skipped: what was wrong with each record that could not be read; no fixed length.
    """

    image: Tensor
    label: Tensor
    id: list[str]
    valid: Tensor
    skipped: list[str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, uint8 `[H, W, 3]`, with its id and label."""

    id: str
    image: Image
    label: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """In place of a sample: why its record could not be read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Collate:
    """Samples of `image_size` pixels a side to a Batch of just `batch_size` rows: those missing are not valid."""

    batch_size: int
    image_size: int

    def __call__(self, samples: Sequence[Sample | Skipped | None]) -> Batch:
        image = np.zeros((self.batch_size, self.image_size, self.image_size, 3), np.uint8)
        label = np.full(self.batch_size, NO_LABEL, np.int64)
        valid = np.zeros(self.batch_size, bool)
        ids = [""] * self.batch_size
        for row, sample in enumerate(samples):
            if isinstance(sample, Sample):
                self._check_image(sample)
                image[row], label[row], ids[row], valid[row] = sample.image, sample.label, sample.id, True
        return Batch(
            image=torch.from_numpy(image),
            label=torch.from_numpy(label),
            id=ids,
            valid=torch.from_numpy(valid),
            skipped=[sample.reason for sample in samples if isinstance(sample, Skipped)],
        )

    def _check_image(self, sample: Sample) -> None:
        if sample.image.dtype != np.uint8:
            raise InputError(
                f"record {sample.id}: expected the transform to give uint8 pixels, found {sample.image.dtype}. Take "
                "Normalize, ToFloat and the like out of it: the model normalises on the device."
            )
        if sample.image.shape != (self.image_size, self.image_size, 3):
            height, width = sample.image.shape[:2]
            raise InputError(
                f"record {sample.id}: expected the transform to give {self.image_size}x{self.image_size} pixels, found "
                f"{width}x{height}. End data.train_transform in data.train_size, data.eval_transform in data.eval_size."
            )
