"""The Batch, the one shape in which data flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from flowers.data.transforms import Image

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
