"""Shared memory in which workers build batches, allocated once and reused.

By default, a DataLoader's worker copies each batch into new shared memory, whose pages the kernel must first find and
clear. At 512 px that takes as long as decoding the images (docs/data.md has the measurements).
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowers.system.memfd import SharedMemory


class SharedMemoryPool:
    """A pool of shared memory with `slots` slots for each worker. The worker takes a slot, the main process frees it.

    A slot is freed with the last tensor that uses its memory, so a batch may be kept for any time. If all its slots are
    taken, a worker sends its batch without the pool. No lock is needed, because a slot's flag is set only by its worker
    and cleared only by the main process.

    Args:
        workers: the number of workers.
        slots: the number of slots for each worker.
        slot_bytes: the size of a slot, in bytes.

    Raises:
        OSError: there is too little memory.
    """

    _pools: ClassVar[weakref.WeakValueDictionary[int, SharedMemoryPool]] = weakref.WeakValueDictionary()
    _keys: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, workers: int, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self.slot_bytes = slot_bytes
        self.key = next(self._keys)
        self._flags = -(-workers * slots // mmap.PAGESIZE) * mmap.PAGESIZE  # bytes before the first slot
        self._memory = SharedMemory(self._flags + workers * slots * slot_bytes)
        self._pools[self.key] = self

    @classmethod
    def of(cls, key: int) -> SharedMemoryPool:
        """Return this process's pool with that key."""
        return cls._pools[key]

    def take(self, worker: int) -> int | None:
        """Take a free slot of a worker and return its number, or return None if all are taken."""
        taken = self._memory.array(0, self._flags)
        for slot in range(worker * self.slots, (worker + 1) * self.slots):
            if not taken[slot]:
                taken[slot] = 1
                return slot
        return None

    def array(self, slot: int, shape: Sequence[int]) -> NDArray[np.uint8]:
        """Return a slot's memory as an array, uint8 of that shape."""
        return self._memory.array(self._flags + slot * self.slot_bytes, math.prod(shape)).reshape(shape)

    def tensor(self, slot: int, shape: Sequence[int]) -> Tensor:
        """Return a slot's memory as a tensor, uint8 of that shape. The slot is freed with the tensor's storage."""
        array = self.array(slot, shape)
        weakref.finalize(array, _free, self._memory.array(0, self._flags), slot, os.getpid()).atexit = False
        return torch.from_numpy(array)


def _free(taken: NDArray[np.uint8], slot: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child drops its copy while its parent's is still in use
        taken[slot] = 0
