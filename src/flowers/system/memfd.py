"""Reserve memory that processes share."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowers.system.memory import available_memory


class SharedMemory:
    """Memory that a process shares with the processes it starts, by any start method. The last of them frees it.

    On Linux it belongs to no file system (memfd), so a small /dev/shm does not limit it. All of it is reserved at once:
    if there is too little, the constructor raises, whereas a page that is missing later would cause a bus error.

    Args:
        size: the size in bytes.

    Raises:
        OSError: there is too little memory.
    """

    def __init__(self, size: int) -> None:
        if size > available_memory():
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))  # to reserve it would end in a SIGKILL
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
            os.close(self._file)  # arrays keep the memory itself alive

    def __getstate__(self) -> dict[str, Any]:
        return {"file": reduction.DupFd(self._file), "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._map(state["file"].detach(), state["size"])

    def array(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes from `start` on as an array, uint8 `[size]`, which shares the memory."""
        return np.frombuffer(self._memory, np.uint8, size, start)
