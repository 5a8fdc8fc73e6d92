"""Albumentations with a seed a picture, so that a picture's augmentation does not depend on who reads it, or when."""

from __future__ import annotations

import random
from collections.abc import Sequence

import albumentations as A
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class SeededTransform:
    """A composed Albumentations transform as a pure function of image and seed.

    Left to itself, Albumentations draws from generators that every DataLoader worker copies, and so
    repeats the same augmentations in each epoch.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose]) -> None:
        self._compose = A.Compose(list(transforms))

    def __call__(self, image: Image, seed: Sequence[int]) -> Image:
        """Transform an image, uint8 `[H, W, 3]`, with all randomness drawn from `seed` (non-negative numbers)."""
        generator = np.random.default_rng(list(seed))
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        transformed: Image = self._compose(image=image)["image"]
        return transformed
