"""Run tasks in a pool of worker processes, and end worker processes together with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from flowers.errors import InputError
from flowers.system.processor import available_cores

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_on_processes(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """Yield `work(task)` for every task, in order, computed on the cores of this machine.

    If a task raises, or the caller stops iterating, the remaining tasks are cancelled.

    Raises:
        InputError: the system killed a worker.
    """
    with _process_pool(len(tasks)) as pool:
        try:
            futures = deque(pool.submit(work, task) for task in tasks)
            while futures:
                yield futures.popleft().result()
        except BrokenProcessPool:
            raise InputError(
                "A worker process was killed, probably because memory ran out. Run the command again: it continues "
                "where it stopped. It needs less memory on fewer cores: taskset -c 0 python src/prepare.py ..."
            ) from None


@contextmanager
def _process_pool(tasks: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool with a process for each core, but at most `tasks`. If the block raises, the processes end at once.

    By default, the pool would first finish all tasks.
    """
    # Spawned, not forked: the caller may have threads running.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(max(1, min(available_cores(), tasks)), context, _start_pool_worker) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            raise


def _start_pool_worker() -> None:
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end silently at Ctrl-C, which the whole process group receives
    exit_with_parent()


def exit_with_parent() -> None:
    """Exit this process as soon as its parent ends. Otherwise it would wait for tasks forever."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def exit_with_starter() -> None:
    """Exit this process within a second of the one that started it, of any kind.

    A training's other processes would otherwise wait for their first one, on a GPU for half an hour and in its memory.
    """
    threading.Thread(target=_exit_when_adopted, args=(os.getppid(),), daemon=True).start()


def _exit_when_adopted(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(1)
    os._exit(1)


def accept_sigterm_from_parent_only() -> None:
    """Ignore SIGTERM unless the parent of this process sends it.

    A scheduler sends it to the whole process group, and a training needs its workers to finish the current step.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_at_sigterm_from, args=(parent.pid,), daemon=True).start()


def _exit_at_sigterm_from(process: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)
