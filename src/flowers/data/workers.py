"""Start and end the workers of a DataLoader."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.context import ForkServerContext

import cv2

from flowers.system.processes import accept_sigterm_from_parent_only, exit_with_parent
from flowers.system.processor import available_cores


def default_workers(processes: int) -> int:
    """Return this process's part of the cores less one, 1 to 8, if `processes` of a run share the machine."""
    return min(8, max(1, available_cores() // processes - 1))


def fork_server() -> ForkServerContext:
    """Return a context that forks workers from a process without threads, whose locks they would inherit."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.collate"])
    return context


def start_worker(worker: int) -> None:
    """Prepare a worker: one thread, and it ends when its parent does, not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C, too, goes to the whole process group
    accept_sigterm_from_parent_only()
    cv2.setNumThreads(0)  # workers are the parallelism: without this each would have as many threads as there are cores
    # PyTorch's workers look at their parent's process number, which under a fork server is the server's: they would
    # outlive a training that is killed, and the server with them.
    exit_with_parent()
