"""Seed Albumentations for each image, and crop images as timm does.

The augmentation of an image does not depend on the worker that reads it, or on when it is read.
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
    """Applies Albumentations transforms in sequence, as a pure function of image and sample index.

    By default, Albumentations draws from generators that every DataLoader worker copies, and so repeats the same
    augmentations in each epoch. Here all transforms draw from one generator, which is set to a separate state for each
    image. That takes a microsecond, because Philox is a function of key and counter (Salmon et al. 2011, "Parallel
    random numbers: as easy as 1, 2, 3").

    The transforms keep this generator, so they must not be used in another SeededTransform.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose], seed: int) -> None:
        self._transforms = list(transforms)
        self._seed = seed
        self._start()

    def _start(self) -> None:
        self._bits = np.random.Philox(key=self._seed)
        # An empty buffer: nothing is left over from the image before.
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
        """Transform an image, uint8 `[H, W, 3]`, with the randomness of `index`, three numbers."""
        self._state["state"]["counter"][1:] = index
        self._bits.state = self._state
        self._random.gauss_next = None  # `gauss` makes two numbers at once and keeps one
        data: dict[str, Image] = {"image": image}
        for transform in self._transforms:
            data = transform(**data)
        return data["image"]


class _PythonRandom(random.Random):
    """Draws Python's random numbers from a NumPy generator, because seeding Python's own takes 5 µs."""

    def __init__(self, generator: np.random.Generator) -> None:
        super().__init__(0)
        self._generator = generator

    gauss_next: float | None

    def random(self) -> float:  # Random's other methods call this one if a subclass defines it
        return self._generator.random()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return random.Random, ()  # an unpickled SeededTransform creates it again


class TimmCenterCrop(A.Sequential):  # type: ignore[misc]
    """Resizes square images and crops their centre, as timm does to evaluate a backbone.

    The interpolation and the crop fraction come from the backbone's data config.

    Args:
        backbone: a timm model's name.
        size: the side of the cropped images, in pixels.

    Raises:
        InputError: timm has no such model.
    """

    def __init__(self, backbone: str, size: Positive) -> None:
        fraction, interpolation = _timm_data_config(backbone)
        side = int(size / fraction)
        # Pillow, which timm uses, widens its filter to downscale an image. OpenCV does so only with area interpolation.
        resize = A.Resize(side, side, interpolation=interpolation, area_for_downscale="image")
        start = round((side - size) / 2)
        super().__init__([resize, A.Crop(start, start, start + size, start + size)], p=1)


def _timm_data_config(backbone: str) -> tuple[float, int]:
    """Return timm's crop fraction for a backbone, and its interpolation as an OpenCV constant."""
    import timm  # takes a second, and is needed only here
    from timm.data import resolve_data_config

    try:
        weights = timm.get_pretrained_cfg(backbone)
    except RuntimeError:
        weights = None
    if weights is None:
        raise InputError(
            f"data/eval=timm: expected a timm backbone with a data config, found {backbone}. Choose another "
            "model.backbone, or data/eval=resize."
        )
    config = resolve_data_config(pretrained_cfg=weights.to_dict(), use_test_size=True)
    interpolation = cv2.INTER_LINEAR if config["interpolation"] == "bilinear" else cv2.INTER_CUBIC
    return float(config["crop_pct"]), interpolation
