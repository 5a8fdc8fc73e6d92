"""Shared memory in which workers make batches, used again and again.

A DataLoader's worker copies each batch into new shared memory, whose pages the kernel must first find and clear: at
512 px that takes as long as decoding the pictures (docs/data.md has the figures). A ring is made once.
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

from flowers.system.memory import SharedMemory


class Ring:
    """Slots of shared memory, so many for each worker: the worker takes one, the main process gives it back.

    A slot is given back when the last tensor that looks at it is gone, so a batch may be kept as long as one likes. A
    worker whose slots are all taken has to do without. Each slot's flag is set by its worker alone and cleared by the
    main process alone: no lock is needed.

    Raises:
        OSError: there is not so much memory.
    """

    _rings: ClassVar[weakref.WeakValueDictionary[int, Ring]] = weakref.WeakValueDictionary()
    _keys: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, workers: int, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self.slot_bytes = slot_bytes
        self.key = next(self._keys)
        self._flags = -(-workers * slots // mmap.PAGESIZE) * mmap.PAGESIZE  # bytes before the first slot
        self._memory = SharedMemory(self._flags + workers * slots * slot_bytes)
        self._rings[self.key] = self

    @classmethod
    def of(cls, key: int) -> Ring:
        """This process's ring of that key."""
        return cls._rings[key]

    def take(self, worker: int) -> int | None:
        """A free slot of this worker, now taken; None where there is none."""
        taken = self._memory.array(0, self._flags)
        for slot in range(worker * self.slots, (worker + 1) * self.slots):
            if not taken[slot]:
                taken[slot] = 1
                return slot
        return None

    def array(self, slot: int, shape: Sequence[int]) -> NDArray[np.uint8]:
        """A slot's memory, uint8 of that shape."""
        return self._memory.array(self._flags + slot * self.slot_bytes, math.prod(shape)).reshape(shape)

    def tensor(self, slot: int, shape: Sequence[int]) -> Tensor:
        """A slot's memory as a tensor, uint8 of that shape; the slot is free again when its storage is."""
        array = self.array(slot, shape)
        weakref.finalize(array, _give_back, self._memory.array(0, self._flags), slot, os.getpid()).atexit = False
        return torch.from_numpy(array)


def _give_back(taken: NDArray[np.uint8], slot: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child drops its copy of the tensor, while its parent's is still in use
        taken[slot] = 0
