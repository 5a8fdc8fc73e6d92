"""A slot of the shared-memory pool is free again once nothing refers to it, and never before."""

from __future__ import annotations

import gc
import os

import torch

from flowers.data.shared_memory import SharedMemoryPool

SHAPE = (2, 3)


def test_a_slot_is_freed_with_its_last_view() -> None:
    pool = SharedMemoryPool(workers=1, slots=1, slot_bytes=6)
    slot = pool.take(0)
    assert slot is not None
    tensor = pool.tensor(slot, SHAPE)
    part = tensor[1:, :2]
    array = part.numpy()
    del tensor
    gc.collect(0)
    assert pool.take(0) is None
    del part
    gc.collect(0)
    assert pool.take(0) is None
    del array
    gc.collect(0)
    assert pool.take(0) == slot


def test_each_worker_has_its_own_slots() -> None:
    pool = SharedMemoryPool(workers=3, slots=2, slot_bytes=6)
    taken = [pool.take(worker) for worker in (0, 1, 2) for _ in range(2)]
    assert sorted(slot for slot in taken if slot is not None) == list(range(6))
    assert [pool.take(worker) for worker in range(3)] == [None] * 3


def test_a_slot_holds_what_was_written() -> None:
    pool = SharedMemoryPool(workers=1, slots=2, slot_bytes=6)
    first, second = pool.take(0), pool.take(0)
    assert first is not None
    assert second is not None
    pool.array(first, SHAPE)[:] = 1
    pool.array(second, SHAPE)[:] = 2
    assert pool.tensor(first, SHAPE).equal(torch.full(SHAPE, 1, dtype=torch.uint8))
    assert pool.tensor(second, SHAPE).equal(torch.full(SHAPE, 2, dtype=torch.uint8))


def test_a_forked_child_that_drops_its_copy_leaves_the_slot_taken() -> None:
    pool = SharedMemoryPool(workers=1, slots=1, slot_bytes=6)
    tensor = pool.tensor(pool.take(0) or 0, SHAPE)
    if not (child := os.fork()):
        del tensor
        gc.collect(0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.take(0) is None
    del tensor
    gc.collect(0)
    assert pool.take(0) == 0
