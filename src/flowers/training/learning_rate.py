"""Scale the peak learning rate with the global batch size."""

from __future__ import annotations

import math
from typing import Literal

import lightning as L

from flowers.settings import Node

LrScaling = Literal["sqrt", "linear"]

REFERENCE_BATCH = 32
"""The number of images per step that `optimizer.lr` is meant for."""


def scale_rate(optimizer: Node, scaling: LrScaling | None, images: int | None) -> Node:
    """Return an optimizer's settings with `lr` scaled to the global batch size.

    Args:
        optimizer: the optimizer's settings, with `lr` for `REFERENCE_BATCH` images per step.
        scaling: `sqrt`: multiply by the square root of the ratio of batch sizes, as suits Adam (Malladi et al. 2022,
            arXiv:2205.10287); `linear`: multiply by the ratio, as suits SGD (Goyal et al. 2017, arXiv:1706.02677);
            None: no scaling.
        images: the number of images per step; None: unknown, no scaling.
    """
    if scaling is None or images is None or not isinstance(optimizer.get("lr"), int | float):
        return optimizer
    ratio = images / REFERENCE_BATCH
    return {**optimizer, "lr": optimizer["lr"] * (math.sqrt(ratio) if scaling == "sqrt" else ratio)}


def count_images_per_step(datamodule: L.LightningDataModule, trainer: L.Trainer) -> int | None:
    """Return the number of images per optimizer step over all processes; None if the data have no `batch_size`."""
    size = getattr(datamodule, "batch_size", None)
    return size * trainer.world_size * trainer.accumulate_grad_batches if isinstance(size, int) else None
