"""How a DataLoader's workers start and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.context import ForkServerContext

import cv2

from flowers.system.processes import end_with_parent


def fork_server() -> ForkServerContext:
    """Workers from a process that has no threads: a fork of this one would inherit the locks of its threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.collate"])
    return context


def start_worker(worker: int) -> None:
    """Start a worker with one thread, that ends when the process which it works for does, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C, too, goes to the whole process group
    _heed_sigterm_of_parent_alone()
    cv2.setNumThreads(0)  # workers are the parallelism: without this each would have as many threads as there are cores
    # PyTorch's workers look at their parent's process number, which under a fork server is the server's: they would
    # outlive a training that is killed, and the server with them.
    end_with_parent()


def _heed_sigterm_of_parent_alone() -> None:
    """Ignore SIGTERM, unless the process that this one works for sends it.

    A scheduler sends it to the whole process group: without workers, a training could not finish the step that runs.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # macOS has none
        return
    parent_id = parent.pid
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent_id:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
