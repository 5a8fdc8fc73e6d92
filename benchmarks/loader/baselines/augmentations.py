"""Define the augmentations of a task in Albumentations, for the loaders that use it."""

from __future__ import annotations

import albumentations as A

from benchmarks.loader.work import BRIGHTNESS, CONTRAST, CROP_RATIO, CROP_SCALE, FLIP, JITTER, Task


def augmentations(task: Task, image_size: int) -> list[A.BasicTransform]:
    """Return the transforms after decoding, in order; for `full` those of configs/data/augment/medium.yaml."""
    flip = A.HorizontalFlip(p=FLIP)
    if task == "full":
        return [
            A.RandomResizedCrop((image_size, image_size), scale=CROP_SCALE, ratio=CROP_RATIO),
            flip,
            A.RandomBrightnessContrast(brightness_limit=BRIGHTNESS, contrast_limit=CONTRAST, p=JITTER),
        ]
    return [flip] if task == "flip" else []
