"""Augmentation is a function of image and seed."""

from __future__ import annotations

import albumentations as A
import numpy as np

from flowers.data.transforms import SeededTransform

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def transform() -> SeededTransform:
    return SeededTransform([A.RandomResizedCrop((32, 32)), A.HorizontalFlip(), A.RandomBrightnessContrast()], seed=1)


def test_the_seed_decides_and_nothing_else() -> None:
    first, second = transform(), transform()
    second(IMAGE, (9, 9, 9))  # what was drawn before does not matter
    np.testing.assert_array_equal(first(IMAGE, (1, 2, 3)), second(IMAGE, (1, 2, 3)))
    results = {first(IMAGE, (1, epoch, 3)).tobytes() for epoch in range(10)}
    assert len(results) == 10


def test_transforms_draw_independently_of_each_other() -> None:
    flips = SeededTransform([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], seed=0)
    results = {flips(IMAGE, (seed,)).tobytes() for seed in range(64)}
    assert len(results) == 4
