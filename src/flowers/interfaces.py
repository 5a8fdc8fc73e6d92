"""The contracts between the packages: the batch, and what training asks of a data module and of a model."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

NO_LABEL = -1
"""The label of an image without one."""


class Batch(TypedDict):
    """`B` samples. Rows that are not `valid` are padding or stand for a record that could not be read.

    image: uint8 `[B, H, W, 3]`, RGB.
    label: int64 `[B]`, `NO_LABEL` where the split has none.
    id: the images' ids, empty where not valid.
    valid: bool `[B]`.
    skipped: why each unreadable record was skipped; no fixed length.
    """

    image: Tensor
    label: Tensor
    id: list[str]
    valid: Tensor
    skipped: list[str]
