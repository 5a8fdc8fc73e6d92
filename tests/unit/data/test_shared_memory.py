"""The pool: slots come back when nothing looks at them any more, and never before."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from flowers.data.shared_memory import SharedMemoryPool

SHAPE = (2, 3)


def test_a_slot_is_given_back_with_the_last_tensor_that_looks_at_it() -> None:
    pool = SharedMemoryPool(workers=1, slots=1, slot_bytes=6)
    slot = pool.take(0)
    assert slot is not None
    tensor = pool.tensor(slot, SHAPE)
    part = tensor[1:, :2]
    array = part.numpy()
    del tensor
    gc.collect()
    assert pool.take(0) is None
    del part
    gc.collect()
    assert pool.take(0) is None
    del array
    gc.collect()
    assert pool.take(0) == slot


def test_each_worker_has_slots_of_its_own() -> None:
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
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.take(0) is None
    del tensor
    gc.collect()
    assert pool.take(0) == 0


SMALL = """
import os, signal, sys
from flowers.data.shared_memory import SharedMemoryPool

start, started = os.pipe()
ranks = []
for _ in range(2):
    if not (rank := os.fork()):
        os.close(started)
        os.read(start, 1)  # ends when the parent closes its side: both start together
        pool = SharedMemoryPool(workers=1, slots=2, slot_bytes=40_000_000)
        for slot in range(2):
            pool.array(slot, (40_000_000,))[:] = 1
        os._exit(0)
    ranks.append(rank)
os.close(started)
codes = [os.waitpid(rank, 0)[1] for rank in ranks]
sys.exit(any(codes))
"""


def test_two_ranks_that_start_together_do_not_need_dev_shm() -> None:
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"  # Docker's default
    private = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else []), "sh", "-c"]
    possible = shutil.which("unshare") and subprocess.run([*private, mount], check=False).returncode == 0
    command = [*private, f'{mount} && exec "$@"', "sh"] if possible else []
    subprocess.run([*command, sys.executable, "-c", SMALL], check=True, timeout=60)
    pool = SharedMemoryPool(workers=1, slots=1, slot_bytes=6)
    if sys.platform == "linux":  # where nothing could be mounted, this alone is the test
        assert str(Path(f"/proc/self/fd/{pool._memory._file}").readlink()).startswith("/memfd:")
