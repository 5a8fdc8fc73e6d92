"""Cache decoded images for later epochs, in memory or on disk."""

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
    """A cache of images by record number, uint8 `[S, S, 3]` each, shared by all processes that receive this object."""

    def get(self, number: int, out: Image) -> bool:
        """Copy an image to `out` and return True, or return False if it is not cached."""

    def put(self, number: int, image: Image) -> None:
        """Cache an image."""


class ImagesInMemory:
    """Caches `count` images of `size` pixels a side in shared memory.

    Args:
        count: the number of images.
        size: the side of an image, in pixels.
        processes: the number of processes on this machine, each with a cache of its own.
        barrier: a function that returns when all these processes have called it. Memory is reserved only afterwards;
            otherwise the slower processes would compare their need with what the others have left.

    Raises:
        InputError: the images would take more than half of the memory, or more than is free.
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
                "data.decoded_cache to disk or null."
            ) from error

    def get(self, number: int, out: Image) -> bool:
        """Copy an image to `out` and return True, or return False if it is not cached."""
        filled = bool(self._memory.array(number, 1)[0])
        if filled:
            out[:] = self._pixels(number)
        return filled

    def put(self, number: int, image: Image) -> None:
        """Cache an image."""
        self._pixels(number)[:] = image
        self._memory.array(number, 1)[0] = 1

    def _pixels(self, number: int) -> Image:
        return self._memory.array(self._count + number * self._bytes, self._bytes).reshape(self._shape)


def _check_memory(needed: int) -> None:
    """Raise an OSError if `needed` bytes are too many for decoded images."""
    memory, free = memory_limit(), available_memory()
    if needed > memory / 2:
        raise OSError(f"a limit of half of the {memory / 2**30:.1f} GiB of this machine or container")
    if needed > free:
        raise OSError(f"{free / 2**30:.1f} GiB of free memory")


class ImagesOnDisk:
    """Caches the images of shards on disk, in two files: pixels, and their checksums.

    A checksum is written after its pixels. An image that a killed run or a power cut left incomplete does not match its
    checksum, and counts as not cached. If the disk becomes full during the run, caching stops and the run continues.

    Args:
        directory: the directory of the two files.
        state: the state of the shards (`ShardReader.state`), which determines the names of the files.
        count: the number of images.
        size: the side of an image, in pixels.

    Raises:
        InputError: the directory cannot be written, or has too little room for the images.
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
                    file.truncate(length)  # sparse: takes up space only as images are written
            taken = sum(path.stat().st_blocks * 512 for path in self._paths)
            missing, free = count * (self._bytes + _CHECKSUM.size) - taken, shutil.disk_usage(directory).free
        except OSError as error:
            raise InputError(
                f"{directory}: expected a directory for decoded images, found this: {error.strerror}. Set "
                "paths.cache_dir to another directory, or data.decoded_cache to null."
            ) from error
        if missing > free:
            raise InputError(
                f"{directory}: expected room for {count} images of {size}x{size} pixels, {missing >> 20} MiB, "
                f"found {free >> 20} MiB. Free disk space, set paths.cache_dir to another directory, or set "
                "data.decoded_cache to null."
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": None}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files") or ():
            os.close(file)

    def get(self, number: int, out: Image) -> bool:
        """Copy an image to `out` and return True, or return False if it is not cached."""
        pixels, checksums = self._open()
        stored = os.pread(checksums, _CHECKSUM.size, number * _CHECKSUM.size)
        if not any(stored):
            return False
        found = os.pread(pixels, self._bytes, number * self._bytes)
        valid = len(found) == self._bytes and stored == _checksum(found)
        if valid:
            out[:] = np.frombuffer(found, np.uint8).reshape(out.shape)
        return valid

    def put(self, number: int, image: Image) -> None:
        """Cache an image, unless the disk is full."""
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
                "%s: no more decoded images are cached: %s. The others are decoded in each epoch. Free disk space, or "
                "set paths.cache_dir to another directory.",
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
    """Return an image's stored checksum: its CRC-32C plus one, because zero means that there is no image."""
    return _CHECKSUM.pack(google_crc32c.value(pixels) + 1)


def _write(file: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(file, data, position)
        data, position = data[written:], position + written
