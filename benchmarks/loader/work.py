"""Define the work of every loader. Imports nothing heavy: a loader's process holds no library but its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flowers.data.layout import find_shards

Task = Literal["decode", "flip", "full"]
"""Decode; decode and flip; decode and the whole training transform of configs/data/default.yaml."""

Name = Literal["flowers", "tf.data", "tfrecord", "decode_only"]
NAMES: tuple[Name, ...] = get_args(Name)

# The training transform in numbers, for the libraries to share.
CROP_SCALE = (0.4, 1.0)
CROP_RATIO = (0.8, 1.25)
FLIP = 0.5
BRIGHTNESS = CONTRAST = 0.2
JITTER = 0.5
"""The probability of a change in brightness and contrast."""

SHUFFLED = 2048
"""Records in the buffer of those who shuffle by one."""

IN_MEMORY = 512
"""JPEGs that the upper bound holds in memory. Nobody may come with fewer different ones."""

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
        return [shard.local for shard in find_shards(self.root, "train", self.image_size)]
