"""Start and stop the workers of a DataLoader."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.context import ForkServerContext

import cv2

from flowers.system.processes import accept_sigterm_from_parent_only, exit_with_parent
from flowers.system.processor import available_cores


def default_workers(processes: int) -> int:
    """Return the default number of workers: this process's part of the machine's cores less one, from 1 to 8.

    Args:
        processes: the number of processes of the run that share the machine.
    """
    return min(8, max(1, available_cores() // processes - 1))


def fork_server() -> ForkServerContext:
    """Return a context that forks workers from a process without threads, so that they inherit no held locks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.collate"])
    return context


def start_worker(worker: int) -> None:
    """Prepare a worker: it has one thread, and ends with its parent, not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group, too
    accept_sigterm_from_parent_only()
    cv2.setNumThreads(0)  # workers are the parallelism: by default each would start a thread per core
    # PyTorch's workers watch their parent's process id, which under a fork server is the server's. They and the server
    # would outlive a killed training.
    exit_with_parent()
