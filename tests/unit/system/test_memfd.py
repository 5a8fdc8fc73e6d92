"""Memory that processes share is reserved at once, whichever way they are started."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flowers.system import memfd
from flowers.system.memfd import SharedMemory

GIB = 2**30


def test_more_than_there_is_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memfd, "available_memory", lambda: 60 * GIB)
    with pytest.raises(OSError, match="memory"):
        SharedMemory(61 * GIB)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Bound the size of files in bytes, and so of shared memory. Never for longer: pytest writes files as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_memory_that_cannot_be_reserved_is_an_error_at_once() -> None:
    with largest_file(4096):
        SharedMemory(4096)
        with pytest.raises(OSError, match="large"):
            SharedMemory(4097)
