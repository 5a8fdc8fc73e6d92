"""Find out how much of the machine's memory this process may use, and keep or return what it has freed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


def memory_limit(cgroups: Path = CGROUPS) -> int:
    """Return the memory limit of this container or job in bytes, or the machine's memory if that is less."""
    return min([_physical(), *(limit for limit, _ in _groups(cgroups, _own_groups()))])


def available_memory(cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this process can still allocate without swapping or being killed."""
    return max(0, min([_free(), *(limit - used for limit, used in _groups(cgroups, _own_groups()))]))


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Keep the memory that this process frees within the block for what it allocates next; then return it.

    glibc returns an array of more than 32 MiB to the system when it is freed, and its pages are cleared when the next
    one is allocated. A training step does that with each of its activations. Other C libraries are left as they are.
    See mallopt(3), and "Switch memory allocator" in PyTorch's performance tuning guide.
    """
    _set_malloc({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})
    try:
        yield
    finally:
        # The values that glibc's own, growing thresholds reach at the first large array.
        _set_malloc({_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20})
        release_freed_memory()


def _set_malloc(values: dict[int, int]) -> None:
    set_value = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_value is not None:
        for parameter, value in values.items():
            set_value(parameter, value)


def release_freed_memory() -> None:
    """Return the memory that this process has freed to the system, where the C library can: glibc's keeps it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that are available without swapping, caches included, or all memory if that is unknown."""
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else _physical()


def _own_groups(place: Path = Path("/proc/self/cgroup")) -> str:
    return place.read_text() if place.exists() else ""


def _groups(cgroups: Path, own: str) -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of this process's control groups, given as the text of /proc/self/cgroup.

    A group's limit also applies to the groups below it. A container may see its own group as the root.
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
    """Read a control group's limit and use from the files of these names, or return None if it sets no limit.

    Cached files do not count as used, because the kernel drops them when memory is short. `total` is the prefix of the
    numbers in `memory.stat` that include the groups below.
    """
    try:
        bound = int((group / limit).read_text())
        used = int((group / use).read_text())
        numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # missing, or "max"
        return None
    return bound, used - sum(int(numbers.get(f"{total}{name}", 0)) for name in ("active_file", "inactive_file"))
