"""Fetch the images of a split for a report, as text that a page can hold."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Literal

import cv2
import lightning as L
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from flowers.interfaces import ShowsImages
from flowers.training.outcomes import Outcomes

Image = NDArray[np.uint8]

SIDE = 160
"""Pixels a side of an image in a report."""


class Photographs:
    """The images of a split's outcomes. Without a data module that shows images there are none."""

    def __init__(self, datamodule: L.LightningDataModule, split: Literal["val", "test"], outcomes: Outcomes) -> None:
        self._source = datamodule if isinstance(datamodule, ShowsImages) else None
        self._split = split
        self._places = outcomes.places
        self._kept: dict[int, Image] = {}

    def __bool__(self) -> bool:
        return self._source is not None

    def images(self, rows: Sequence[int]) -> list[Image]:
        """Return the images of these rows of the outcomes, uint8 `[H, W, 3]`."""
        missing = [int(row) for row in dict.fromkeys(rows) if int(row) not in self._kept]
        if missing and self._source is not None:
            found = self._source.images(self._split, [int(self._places[row]) for row in missing])
            self._kept |= dict(zip(missing, found, strict=True))
        return [self._kept[int(row)] for row in rows]


def as_uri(image: Image, side: int = SIDE) -> str:
    """Return an image uint8 `[H, W, 3]` as the data URI of a JPEG, reduced to `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    sides = (round(width * min(1, scale)), round(height * min(1, scale)))
    jpeg = simplejpeg.encode_jpeg(cv2.resize(image, sides, interpolation=cv2.INTER_AREA), quality=85)
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
