"""Start and stop the workers of a DataLoader."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.util import Finalize
from typing import Any

import cv2
from torch.utils.data import DataLoader

from flowers.system.memory import release_freed_memory
from flowers.system.processes import accept_sigterm_from_parent_only, exit_with_parent
from flowers.system.processor import available_cores
from flowers.system.termination import hold_signals


class WorkerLoader(DataLoader[Any]):
    """A DataLoader whose workers outlive a signal to the process group, even one that arrives while they start.

    Its `worker_init_fn` is `start_worker`, which takes over the signals that a new worker holds.
    """

    def __iter__(self) -> Any:
        if self.num_workers and self._iterator is None:  # workers are about to be forked
            # They would keep a copy of freed memory once this process uses it again: 6.6 GB after steps at 512 px.
            release_freed_memory()
            Finalize(None, end_workers, exitpriority=1)  # before the semaphores that they use are removed
        with hold_signals():
            return super().__iter__()


def default_workers(processes: int) -> int:
    """Return the default number of workers: this process's part of the machine's cores less one, from 1 to 8.

    Args:
        processes: the number of processes of the run that share the machine.
    """
    return min(8, max(1, available_cores() // processes - 1))


def fork_server() -> ForkServerContext:
    """Return a context that forks workers from a process without threads, so that they inherit no held locks."""
    resource_tracker.ensure_running()  # `multiprocessing` releases held signals when it starts the tracker
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.collate"])
    return context


def start_worker(worker: int) -> None:
    """Prepare a worker: it has one thread, and ends with its parent, not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group, too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    accept_sigterm_from_parent_only()
    cv2.setNumThreads(0)  # workers are the parallelism: by default each would start a thread per core
    # PyTorch's workers watch their parent's process id, which under a fork server is the server's. They and the server
    # would outlive a killed training.
    exit_with_parent()


def end_workers() -> None:
    """End the workers that are left when this process exits, before `multiprocessing` sends SIGTERM once and waits.

    A process that holds SIGTERM keeps one of several. A worker that still starts may keep the scheduler's and lose its
    parent's.
    """
    for process in multiprocessing.active_children():
        while process.daemon and process.is_alive():
            process.terminate()
            process.join(0.1)
