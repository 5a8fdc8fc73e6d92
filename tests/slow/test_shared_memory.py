"""Processes share memory with every start method, and where /dev/shm is small."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowers.data.shared_memory import SharedMemoryPool
from flowers.system.memfd import SharedMemory

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
    if sys.platform == "linux":  # without the right to mount, this is all that is tested
        assert str(Path(f"/proc/self/fd/{pool._memory._file}").readlink()).startswith("/memfd:")


def write(memory: SharedMemory) -> None:
    memory.array(10, 2)[:] = 7


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_of_any_start_method_writes_to_the_same_memory(method: str) -> None:
    shared = SharedMemory(4096)
    process = multiprocessing.get_context(method).Process(target=write, args=(shared,))  # type: ignore[attr-defined]
    process.start()
    process.join(60)
    assert shared.array(9, 4).tolist() == [0, 7, 7, 0]
