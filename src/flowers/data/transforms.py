"""Albumentations with a seed a picture, so that a picture's augmentation does not depend on who reads it, or when."""

from __future__ import annotations

import random
from collections.abc import Sequence

import albumentations as A
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class SeededTransform:
    """A composed Albumentations transform as a pure function of image and draw.

    Left to itself, Albumentations draws from generators that every DataLoader worker copies, and so
    repeats the same augmentations in each epoch. Here they draw from one generator that is set to a place of its own
    for each picture: Philox (Salmon et al. 2011) is a function of key and counter, so that costs a microsecond.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose], seed: int) -> None:
        self._compose = A.Compose(list(transforms))
        self._generator = np.random.Generator(np.random.Philox(key=seed))
        self._random = random.Random()
        self._compose.set_random_state(self._generator, self._random)

    def __call__(self, image: Image, draw: Sequence[int]) -> Image:
        """Transform an image, uint8 `[H, W, 3]`, with all randomness drawn for `draw`, up to three numbers."""
        start = np.zeros(4, np.uint64)
        start[1 : 1 + len(draw)] = draw
        bits = self._generator.bit_generator
        state = bits.state
        state["state"]["counter"] = start
        bits.state = {**state, "buffer_pos": 4, "has_uint32": 0}  # nothing is left over from the picture before
        self._random.seed(int(self._generator.integers(2**63)))
        transformed: Image = self._compose(image=image)["image"]
        return transformed
