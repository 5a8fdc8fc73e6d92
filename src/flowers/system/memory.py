"""The machine's memory: how much of it this process may use, and a part of it that processes share."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CGROUPS = Path("/sys/fs/cgroup")


def memory_limit(cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this container or job may use, or the machine's memory if that is less."""
    return min([_physical(), *(limit for limit, _ in _groups(cgroups, _own_groups()))])


def available_memory(cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this process can still take without swapping or being killed."""
    return max(0, min([_free(), *(limit - used for limit, used in _groups(cgroups, _own_groups()))]))


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that the system can give without swapping, caches included, or all of them if unknown."""
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else _physical()


def _own_groups(place: Path = Path("/proc/self/cgroup")) -> str:
    return place.read_text() if place.exists() else ""


def _groups(cgroups: Path, own: str) -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of the control groups that this process is in, listed as in /proc/self/cgroup.

    A group's limit holds for the groups in it, too. A container may see its own group as the root.
    """
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = cgroups, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        group = top / path.strip("/")
        for directory in (group, *group.parents):
            if found := _limit_and_use(directory, *names):
                yield found
            if directory == top:
                break


def _limit_and_use(group: Path, limit: str, use: str, total: str) -> tuple[int, int] | None:
    """Read a control group's limit and use from these files; None where it sets no limit.

    Cached files do not count as used: the kernel drops them when it needs room. `total` is the prefix of the numbers in
    `memory.stat` that include the groups below.
    """
    try:
        bound = int((group / limit).read_text())
        used = int((group / use).read_text())
        numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # not there, or "max"
        return None
    return bound, used - sum(int(numbers.get(f"{total}{name}", 0)) for name in ("active_file", "inactive_file"))


class SharedMemory:
    """Memory that a process shares with those it starts, however they are started; it ends with the last of them.

    On Linux it is of no file system (memfd), so that a small /dev/shm does not bound it, and it is reserved at once:
    where there is not enough, making it fails, while a page that is missing later would be a bus error.

    Raises:
        OSError: there is not so much memory.
    """

    def __init__(self, size: int) -> None:
        if size > available_memory():
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))  # reserving it would end in a SIGKILL
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("flowers")
        else:
            with tempfile.TemporaryFile() as unnamed:
                file = os.dup(unnamed.fileno())
        try:
            os.ftruncate(file, size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, size)
            self._map(file, size)
        except BaseException:
            os.close(file)
            raise

    def _map(self, file: int, size: int) -> None:
        self._file, self._size = file, size
        self._memory = mmap.mmap(file, size)

    def __del__(self) -> None:
        if "_memory" in self.__dict__:
            os.close(self._file)  # arrays keep the memory

    def __getstate__(self) -> dict[str, Any]:
        return {"file": reduction.DupFd(self._file), "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._map(state["file"].detach(), state["size"])

    def array(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes from `start` on, as an array."""
        return np.frombuffer(self._memory, np.uint8, size, start)
