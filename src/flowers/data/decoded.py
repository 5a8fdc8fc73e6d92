"""Decoded pictures, kept in memory or on disk for the epochs that follow."""

from __future__ import annotations

import hashlib
import os
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowers.data.transforms import Image
from flowers.errors import InputError

Place = Any
"""Memory that processes share: a ctypes array, or a file's path."""


class DecodedPictures:
    """Pictures by number, uint8 `[N, S, S, 3]`, shared by all processes that are given this object.

    A picture's mark is set after its pixels: what a killed run leaves on disk is whole.
    """

    def __init__(self, pixels: Place, filled: Place, count: int, size: int) -> None:
        self._places = pixels, filled
        self._shapes = (count, size, size, 3), (count,)
        self._opened: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None

    @staticmethod
    def in_memory(count: int, size: int, processes: int) -> DecodedPictures:
        """Room for `count` pictures of `size` pixels a side in memory; each of the machine's `processes` has its own.

        Raises:
            InputError: they would take more than half of the machine's memory.
        """
        needed, memory = count * size * size * 3, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed * processes > memory / 2:
            raise InputError(
                f"data.decoded_cache=memory: expected {count} pictures of {size}x{size} pixels, for each of "
                f"{processes} processes, to fit in half of the "
                f"memory, found {needed / 2**30:.1f} of {memory / 2**30:.1f} GiB. Set it to disk, or to null."
            )
        return DecodedPictures(RawArray("B", needed), RawArray("B", count), count, size)

    @staticmethod
    def on_disk(directory: Path, state: str, count: int, size: int) -> DecodedPictures:
        """The pictures of shards in this state, in files of `directory`."""
        name = hashlib.sha256(state.encode()).hexdigest()[:32]
        directory.mkdir(parents=True, exist_ok=True)
        pixels, filled = directory / f"{name}.pixels", directory / f"{name}.filled"
        for path, length in ((pixels, count * size * size * 3), (filled, count)):
            with path.open("ab") as file:
                file.truncate(length)  # sparse: it takes up room as pictures come
        return DecodedPictures(pixels, filled, count, size)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def get(self, number: int, out: Image) -> bool:
        """Copy a picture to `out`, if it is kept."""
        pixels, filled = self._open()
        if filled[number]:
            out[:] = pixels[number]
        return bool(filled[number])

    def put(self, number: int, image: Image) -> None:
        """Keep a picture."""
        pixels, filled = self._open()
        pixels[number] = image
        filled[number] = 1

    def _open(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if self._opened is None:
            (pixels, filled), (shape, marks) = self._places, self._shapes
            self._opened = _array(pixels, shape), _array(filled, marks)
        return self._opened


def _array(place: Place, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if isinstance(place, Path):
        return np.asarray(np.memmap(place, np.uint8, "r+", shape=shape))
    return np.frombuffer(place, np.uint8).reshape(shape)
