"""Independent tasks on the cores of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich import get_console
from rich.progress import Progress

from flowers.cores import available_cores
from flowers.errors import InputError

Spread = Callable[[Callable[[Any], int], Sequence[Any], str, int], None]
"""Calls a function with every task, wherever that is: `spread(work, tasks, description, total)`.

`work(task)` returns how many images of the `total` it has done. The tasks are independent.
"""


def run_on_processes(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
    """Call `work` with every task on this machine's cores; a progress bar counts images.

    Raises:
        InputError: a task raised one, or the system has killed a worker.
    """
    # Spawned, not forked: the caller may have threads running.
    context = multiprocessing.get_context("spawn")
    workers = min(available_cores(), len(tasks))
    quiet = not get_console().is_terminal  # where it would leave empty lines
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    with Progress(transient=True, disable=quiet) as progress, pool:
        bar = progress.add_task(description, total=total)
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                progress.advance(bar, future.result())
        except BrokenProcessPool:
            raise InputError(
                "A worker process was killed, as the system does where memory runs out. Run it again: it goes on where "
                "it stopped. On fewer cores it needs less: taskset -c 0 python src/prepare.py ..."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else all other tasks would run first
            raise


def _start_worker() -> None:
    """Let this worker end silently at Ctrl-C, and with its parent: else it would wait for tasks, or go on writing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
