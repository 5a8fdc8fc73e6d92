"""Cache decoded images, in memory or on disk, for later epochs."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import google_crc32c
import numpy as np

from flowers.data.transforms import Image
from flowers.errors import InputError
from flowers.system.memfd import SharedMemory
from flowers.system.memory import available_memory, memory_limit

log = logging.getLogger(__name__)


class DecodedImages(Protocol):
    """A cache of images by number, uint8 `[S, S, 3]` each, shared by all processes that get this object."""

    def get(self, number: int, out: Image) -> bool:
        """Copy an image to `out` and return True, or return False if it is not cached."""

    def put(self, number: int, image: Image) -> None:
        """Cache an image."""


class ImagesInMemory:
    """Caches `count` images of `size` pixels a side in shared memory.

    Args:
        count: of images.
        size: in pixels.
        processes: of this machine, each of which has its own room.
        barrier: returns when each of them has called it. Until then none reserves memory: else the others would
            compare their need with what is left.

    Raises:
        InputError: they would take more than half of the memory that there is, or more than is free.
    """

    def __init__(self, count: int, size: int, processes: int, barrier: Callable[[], object] = lambda: None) -> None:
        self._shape = (size, size, 3)
        self._bytes = size * size * 3
        self._count = count
        needed = count + count * self._bytes
        try:
            _check_memory(needed * processes)
            barrier()
            self._memory = SharedMemory(needed)
        except OSError as error:
            raise InputError(
                f"data.decoded_cache=memory: expected {count} images of {size}x{size} pixels, {needed / 2**30:.1f} "
                f"GiB for each of {processes} processes, to fit in memory, found this: {error.strerror or error}. Set "
                "it to disk, or to null."
            ) from error

    def get(self, number: int, out: Image) -> bool:
        filled = bool(self._memory.array(number, 1)[0])
        if filled:
            out[:] = self._pixels(number)
        return filled

    def put(self, number: int, image: Image) -> None:
        self._pixels(number)[:] = image
        self._memory.array(number, 1)[0] = 1

    def _pixels(self, number: int) -> Image:
        return self._memory.array(self._count + number * self._bytes, self._bytes).reshape(self._shape)


def _check_memory(needed: int) -> None:
    """Raise an OSError if there are not so many bytes for decoded images."""
    memory, free = memory_limit(), available_memory()
    if needed > memory / 2:
        raise OSError(f"half of the {memory / 2**30:.1f} GiB that this machine or container has")
    if needed > free:
        raise OSError(f"{free / 2**30:.1f} GiB that are free")


class ImagesOnDisk:
    """Caches the images of shards in one `state`, in two files of `directory`: pixels, and their checksums.

    A checksum is written after its pixels. What a killed run or a power cut has left undone does not match, and counts
    as not cached. A disk that gets full during the run ends the caching, not the run.

    Raises:
        InputError: the directory cannot be written, or has no room for so many images.
    """

    def __init__(self, directory: Path, state: str, count: int, size: int) -> None:
        name = hashlib.sha256(state.encode()).hexdigest()[:32]
        self._bytes = size * size * 3
        self._paths = directory / f"{name}.pixels", directory / f"{name}.checksums"
        self._files: tuple[int, int] | None = None
        self._full = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for path, length in zip(self._paths, (count * self._bytes, count * _CHECKSUM.size), strict=True):
                with path.open("ab") as file:
                    file.truncate(length)  # sparse: it takes up room as images come
            taken = sum(path.stat().st_blocks * 512 for path in self._paths)
            missing, free = count * (self._bytes + _CHECKSUM.size) - taken, shutil.disk_usage(directory).free
        except OSError as error:
            raise InputError(
                f"{directory}: expected a directory to keep decoded images in, found this: {error.strerror}. Set "
                "paths.cache_dir to another place, or data.decoded_cache to null."
            ) from error
        if missing > free:
            raise InputError(
                f"{directory}: expected room for {count} images of {size}x{size} pixels, {missing >> 20} MiB, "
                f"found {free >> 20}. Remove what is no longer needed there, set paths.cache_dir to another "
                "place, or data.decoded_cache to null."
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": None}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files") or ():
            os.close(file)

    def get(self, number: int, out: Image) -> bool:
        pixels, checksums = self._open()
        stored = os.pread(checksums, _CHECKSUM.size, number * _CHECKSUM.size)
        if not any(stored):
            return False
        found = os.pread(pixels, self._bytes, number * self._bytes)
        kept = len(found) == self._bytes and stored == _checksum(found)
        if kept:
            out[:] = np.frombuffer(found, np.uint8).reshape(out.shape)
        return kept

    def put(self, number: int, image: Image) -> None:
        if self._full:
            return
        pixels, checksums = self._open()
        data = image.tobytes()
        try:
            _write(pixels, data, number * self._bytes)
            _write(checksums, _checksum(data), number * _CHECKSUM.size)
        except OSError as error:
            self._full = True
            log.warning(
                "%s: no more decoded images are kept: %s. The others are decoded in each epoch. Make room there, or "
                "set paths.cache_dir to another place.",
                self._paths[0],
                error.strerror,
            )

    def _open(self) -> tuple[int, int]:
        if self._files is None:
            pixels, checksums = (os.open(path, os.O_RDWR) for path in self._paths)
            self._files = pixels, checksums
        return self._files


_CHECKSUM = struct.Struct("<Q")


def _checksum(pixels: bytes) -> bytes:
    """Return what is stored of an image: its CRC-32C plus one, as zero means that there is no image."""
    return _CHECKSUM.pack(google_crc32c.value(pixels) + 1)


def _write(file: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(file, data, position)
        data, position = data[written:], position + written
