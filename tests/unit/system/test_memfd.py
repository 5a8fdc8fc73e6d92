"""Memory that processes share is reserved at once."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flowers.system import memfd
from flowers.system.memfd import SharedMemory

GIB = 2**30


def test_more_memory_than_available_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memfd, "available_memory", lambda: 60 * GIB)
    with pytest.raises(OSError, match="memory"):
        SharedMemory(61 * GIB)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files, and so of shared memory, in bytes. Keep the block short: pytest writes files as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_memory_that_cannot_be_reserved_raises_at_once() -> None:
    with limit_file_size(4096):
        SharedMemory(4096)
        with pytest.raises(OSError, match="large"):
            SharedMemory(4097)
