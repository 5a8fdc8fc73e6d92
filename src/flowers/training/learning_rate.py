"""Let the peak of the learning rate follow the global batch."""

from __future__ import annotations

import math
from typing import Literal

import lightning as L

from flowers.settings import Node

LrScaling = Literal["sqrt", "linear"]

REFERENCE_BATCH = 32
"""The images of a step that `optimizer.lr` is given for."""


def scale_rate(optimizer: Node, scaling: LrScaling | None, images: int | None) -> Node:
    """Return an optimizer's settings with `lr` for a global batch.

    Args:
        optimizer: its settings, with `lr` for `REFERENCE_BATCH` images a step.
        scaling: `sqrt`: times the root of the batch's ratio to that, as suits Adam (Malladi et al. 2022,
            arXiv:2205.10287); `linear`: times the ratio, as suits SGD (Goyal et al. 2017, arXiv:1706.02677). None: as
            it is.
        images: that a step trains on; None: unknown, nothing is scaled.
    """
    if scaling is None or images is None or not isinstance(optimizer.get("lr"), int | float):
        return optimizer
    ratio = images / REFERENCE_BATCH
    return {**optimizer, "lr": optimizer["lr"] * (math.sqrt(ratio) if scaling == "sqrt" else ratio)}


def count_images_per_step(datamodule: L.LightningDataModule, trainer: L.Trainer) -> int | None:
    """Return the images of an optimizer step over all processes; None if the data module has no `batch_size`."""
    size = getattr(datamodule, "batch_size", None)
    return size * trainer.world_size * trainer.accumulate_grad_batches if isinstance(size, int) else None
