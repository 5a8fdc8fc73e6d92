"""Define the work of every loader. It imports nothing heavy: a loader's process must hold only its own library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flowers.data.layout import find_shards

Task = Literal["decode", "flip", "full"]
"""Decode; decode and flip; decode and apply the whole transform of configs/data/augment/medium.yaml."""

Name = Literal["flowers", "tf.data", "tfrecord", "torchvision", "decode_only"]
NAMES: tuple[Name, ...] = get_args(Name)

# The parameters of the training transform, shared by all libraries.
CROP_SCALE = (0.4, 1.0)
CROP_RATIO = (0.8, 1.25)
FLIP = 0.5
BRIGHTNESS = CONTRAST = 0.2
JITTER = 0.5
"""The probability of a change in brightness and contrast."""

SHUFFLED = 2048
"""Records in the shuffle buffer of the loaders that have one."""

IN_MEMORY = 512
"""JPEGs that the upper bound holds in memory. Every loader must read at least as many different ones."""

Batches = Iterator[tuple[Sequence[str | bytes], NDArray[np.uint8]]]
"""Endless batches: ids, and images uint8 `[B, S, S, 3]`, RGB."""


@dataclass(frozen=True, slots=True)
class Work:
    """Read the training split of `root` at one resolution, shuffled, to batches of `batch_size`, with `workers`."""

    root: Path
    task: Task
    image_size: int
    batch_size: int
    workers: int
    seed: int

    def shards(self) -> list[Path]:
        """Return the paths of the shards."""
        return [shard.local for shard in find_shards(self.root, "train", self.image_size)]
