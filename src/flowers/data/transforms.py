"""Seed Albumentations for each image, and crop images as timm does.

The augmentation of an image does not depend on who reads it, or when.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from flowers.errors import InputError
from flowers.settings import Positive

Image = NDArray[np.uint8]


class SeededTransform:
    """Applies Albumentations transforms, one after the other, as a pure function of image and sample index.

    Left to itself, Albumentations draws from generators that every DataLoader worker copies, and so
    repeats the same augmentations in each epoch. Here all draw from one generator, which is set to a place of its own
    for each image: Philox (Salmon et al. 2011) is a function of key and counter, so that costs a microsecond.

    The transforms keep that generator: they serve no other SeededTransform afterwards.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose], seed: int) -> None:
        self._transforms = list(transforms)
        self._seed = seed
        self._start()

    def _start(self) -> None:
        self._bits = np.random.Philox(key=self._seed)
        # Nothing is left over in it from the image before.
        self._state: Any = {**self._bits.state, "buffer_pos": 4, "has_uint32": 0}
        generator = np.random.Generator(self._bits)
        self._random = _PythonRandom(generator)
        for transform in self._transforms:
            transform.set_random_state(generator, self._random)

    def __getstate__(self) -> dict[str, object]:
        return {"_transforms": self._transforms, "_seed": self._seed}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, image: Image, index: Sequence[int]) -> Image:
        """Transform an image, uint8 `[H, W, 3]`, with all randomness drawn for `index`, three numbers."""
        self._state["state"]["counter"][1:] = index
        self._bits.state = self._state
        self._random.gauss_next = None  # of the two that `gauss` makes at once
        data: dict[str, Image] = {"image": image}
        for transform in self._transforms:
            data = transform(**data)
        return data["image"]


class _PythonRandom(random.Random):
    """Draws Python's random numbers from a NumPy generator: Python's own would take 5 µs to be seeded anew."""

    def __init__(self, generator: np.random.Generator) -> None:
        super().__init__(0)
        self._generator = generator

    gauss_next: float | None

    def random(self) -> float:  # Random's other methods draw from this one, if a subclass has it
        return self._generator.random()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return random.Random, ()  # a SeededTransform that is unpickled makes it anew


class TimmCenterCrop(A.Sequential):  # type: ignore[misc]
    """Resizes square images and takes their middle, as timm does to evaluate a backbone.

    The backbone's data config has the interpolation and the fraction that is kept.

    Args:
        backbone: a timm model's name.
        size: the side of the images afterwards, in pixels.

    Raises:
        InputError: timm has no such model.
    """

    def __init__(self, backbone: str, size: Positive) -> None:
        fraction, interpolation = _timm_data_config(backbone)
        side = int(size / fraction)
        # Pillow, which timm uses, filters more pixels where it reduces an image. OpenCV does so with areas alone.
        resize = A.Resize(side, side, interpolation=interpolation, area_for_downscale="image")
        start = round((side - size) / 2)
        super().__init__([resize, A.Crop(start, start, start + size, start + size)], p=1)


def _timm_data_config(backbone: str) -> tuple[float, int]:
    """Return the fraction of a side that timm keeps for a backbone, and OpenCV's number of its interpolation."""
    import timm  # takes a second, which readers of shards can do without
    from timm.data import resolve_data_config

    try:
        weights = timm.get_pretrained_cfg(backbone)
    except RuntimeError:
        weights = None
    if weights is None:
        raise InputError(
            f"data/eval=timm: expected a backbone of timm's with a data config, found {backbone}. Choose another "
            "model.backbone, or data/eval=resize."
        )
    config = resolve_data_config(pretrained_cfg=weights.to_dict(), use_test_size=True)
    interpolation = cv2.INTER_LINEAR if config["interpolation"] == "bilinear" else cv2.INTER_CUBIC
    return float(config["crop_pct"]), interpolation
