"""How a DataLoader's workers start and end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext

import cv2


def fork_server() -> ForkServerContext:
    """Workers from a process that has no threads: a fork of this one would inherit the locks of its threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.batches"])
    return context


def start_worker(worker: int) -> None:
    """Start a worker with one thread, that ends when the process which it works for does."""
    cv2.setNumThreads(0)  # workers are the parallelism: without this each would have as many threads as there are cores
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # PyTorch's workers look at their parent's process number, which under a fork server is the server's: they would
    # outlive a training that is killed, and the server with them.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
