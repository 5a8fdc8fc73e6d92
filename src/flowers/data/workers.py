"""How a DataLoader's workers start and end."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.context import ForkServerContext

import cv2

from flowers.processes import end_with_parent


def fork_server() -> ForkServerContext:
    """Workers from a process that has no threads: a fork of this one would inherit the locks of its threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.batches"])
    return context


def start_worker(worker: int) -> None:
    """Start a worker with one thread, that ends when the process which it works for does, and not before.

    SIGTERM reaches the whole process group where a scheduler sends it: without its workers, a training could not finish
    the step that runs.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)  # workers are the parallelism: without this each would have as many threads as there are cores
    # PyTorch's workers look at their parent's process number, which under a fork server is the server's: they would
    # outlive a training that is killed, and the server with them.
    end_with_parent()
