"""Worker processes: how a pool of them ends, and that none outlives the process which it works for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait

from flowers.system.cores import available_cores


@contextmanager
def process_pool(tasks: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool with a process for each core, but no more than `tasks`. If the block raises, they end at once.

    Left to itself, the pool would first run all tasks.
    """
    # Spawned, not forked: the caller may have threads running.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(max(1, min(available_cores(), tasks)), context, _start_worker) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


def _start_worker() -> None:
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends silently at Ctrl-C, which the whole process group receives
    end_with_parent()


def end_with_parent() -> None:
    """End this process as soon as the one which it works for does: else it would wait for tasks without an end."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
