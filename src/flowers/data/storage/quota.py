"""Limit the space of cached remote shards, and remove the least recently used ones.

What is used is counted from the files each time, so a killed process leaves nothing to correct. Space is reserved by
allocating it in the cached shard before the download, under a lock; others count it from then on.

A cached shard is removed by emptying its file, which stays: a process that has it open finds its records missing, and
fetches them again. A process that reads or writes a cached shard holds a shared lock on it, and such a shard is not
removed. The kernel releases the locks of a killed process.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from upath import UPath

from flowers.errors import InputError

_BLOCK = 4096
"""Bytes in which most file systems allocate space."""
_WAIT = 0.02
"""Seconds between two attempts to remove cached shards that other processes are using."""


class _Copy(NamedTuple):
    """A cached shard: when it was last used, in nanoseconds, and the bytes that it takes on the disk."""

    path: Path
    used: int
    taken: int


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits the cached shards in `directory` to `limit` bytes."""

    directory: Path
    limit: int

    def check(self, source: UPath, size: int) -> None:
        """Raise `InputError` if a shard of `size` bytes is larger than the cache may be."""
        if _with_extents(round_to_blocks(0, size), 1) > self.limit:
            raise InputError(
                f"data.cache_gb={self.limit / 1e9:g}: expected room for the largest shard, found {source} with "
                f"{size / 1e9:.3g} GB. Raise data.cache_gb, or write the data set again in smaller shards."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes and threads from reserving space."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "quota.lock"):
            yield

    def make_room(self, needed: Callable[[], int], own: Collection[Path] = ()) -> None:
        """Remove cached shards, the least recently used first, until `needed()` more bytes fit. Call it under `lock`.

        Shards in use are waited for. They are in use for a request at most, and who uses them does not need the lock.

        Args:
            needed: returns the bytes; called again after a shard of `own` was removed, whose records are then missing.
            own: the shards that the bytes are for. They are removed after all others.
        """
        while True:
            copies = self._copies()
            shards = {copy.path for copy in copies if copy.taken}.union(own)
            excess = _with_extents(sum(copy.taken for copy in copies) + needed(), len(shards)) - self.limit
            if excess <= 0:
                return
            removed = False
            for copy in sorted(copies, key=lambda copy: (copy.path in own, copy.used)):
                if copy.taken and excess > 0 and remove_copy(copy.path):
                    removed = True
                    excess -= copy.taken
                    if copy.path in own:
                        break
            if not removed:
                time.sleep(_WAIT)

    def _copies(self) -> list[_Copy]:
        copies = []
        for path in self.directory.glob("*/*.tfrec"):
            with suppress(FileNotFoundError):  # a user may remove the cache
                status = path.stat()
                copies.append(_Copy(path, status.st_mtime_ns, status.st_blocks * 512))
        return copies


def _with_extents(size: int, shards: int) -> int:
    """Return the most bytes that `size` bytes in these many cached shards take, with the file system's own blocks.

    ext4 lists the pieces of a file, from the fifth on, in such blocks of up to 340, often while it writes the data. One
    for each shard and one for 128 blocks suffice even if each second block is missing and the lists are half full.
    """
    return size + _BLOCK * (shards + size // _BLOCK // 128)


def remove_copy(path: Path) -> bool:
    """Remove the records of a cached shard, and return whether that was possible: it is not while one is in use."""
    with suppress(BlockingIOError, FileNotFoundError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            os.truncate(path.with_suffix(".present"), 0)  # first, as marks must never be without their records
        size = os.fstat(file.fileno()).st_size
        file.truncate(0)
        file.truncate(size)
        return True
    return False


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keep a cached shard from being removed."""
    with path.open("rb") as file, locked(file.fileno()):
        yield


@contextmanager
def locked(file: int) -> Iterator[None]:
    """Keep the cached shard of an open file from being removed."""
    with suppress(OSError):  # a file system without locks: records that are removed meanwhile are fetched again
        fcntl.flock(file, fcntl.LOCK_SH)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def touch(path: Path) -> None:
    """Record that a cached shard is used now."""
    with suppress(OSError):
        os.utime(path)


def reserve_blocks(path: Path, start: int, end: int) -> None:
    """Allocate the space from byte `start` to `end` of a cached shard. Bytes that are there are not changed."""
    # macOS has no such call. There, processes may exceed the quota by what they fetch at once.
    if hasattr(os, "posix_fallocate") and end > start:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), start, end - start)


def round_to_blocks(start: int, end: int) -> int:
    """Return the bytes that the blocks from byte `start` to `end` take."""
    return -(-end // _BLOCK) * _BLOCK - start // _BLOCK * _BLOCK
