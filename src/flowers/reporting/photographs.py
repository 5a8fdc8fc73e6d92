"""Fetch the images of a split for a report, and encode them as data URIs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence

import cv2
import lightning as L
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from flowers.data.layout import Split
from flowers.interfaces import ShowsImages
from flowers.training.outcomes import Outcomes

Image = NDArray[np.uint8]

SIDE = 160
"""The longer side of an image in a report, in pixels."""


class Photographs:
    """The images of some outcomes by row. Images are fetched when they are first needed, and cached.

    Args:
        fetch: a function that returns the images of rows, uint8 `[H, W, 3]`; None: there are no images.
    """

    def __init__(self, fetch: Callable[[Sequence[int]], Sequence[Image]] | None) -> None:
        self._fetch = fetch
        self._cache: dict[int, Image] = {}

    def __bool__(self) -> bool:
        return self._fetch is not None

    def images(self, rows: Sequence[int]) -> list[Image]:
        """Return the images of these rows of the outcomes, uint8 `[H, W, 3]`."""
        missing = [int(row) for row in dict.fromkeys(rows) if int(row) not in self._cache]
        if missing and self._fetch is not None:
            self._cache |= dict(zip(missing, self._fetch(missing), strict=True))
        return [self._cache[int(row)] for row in rows]


def photographs_of(datamodule: L.LightningDataModule, split: Split, outcomes: Outcomes) -> Photographs:
    """Return the images of a split's outcomes; none unless the data module is a `ShowsImages`."""
    if not isinstance(datamodule, ShowsImages):
        return Photographs(None)
    return Photographs(lambda rows: datamodule.images(split, [int(outcomes.places[row]) for row in rows]))


def as_uri(image: Image, side: int = SIDE) -> str:
    """Return an image uint8 `[H, W, 3]` as the data URI of a JPEG of at most `side` pixels a side."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    sides = (round(width * min(1, scale)), round(height * min(1, scale)))
    jpeg = simplejpeg.encode_jpeg(cv2.resize(image, sides, interpolation=cv2.INTER_AREA), quality=85)
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
