"""Independent tasks on the cores of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich import get_console
from rich.progress import Progress

from flowers.errors import InputError
from flowers.system.processes import process_pool

Spread = Callable[[Callable[[Any], int], Sequence[Any], str, int], None]
"""Calls a function with every task, wherever that is: `spread(work, tasks, description, total)`.

`work(task)` returns how many images of the `total` it has done. The tasks are independent.
"""


def run_on_processes(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
    """Call `work` with every task on this machine's cores; a progress bar counts images.

    Raises:
        InputError: a task raised one, or the system has killed a worker.
    """
    quiet = not get_console().is_terminal  # where it would leave empty lines
    try:
        with Progress(transient=True, disable=quiet) as progress, process_pool(len(tasks)) as pool:
            bar = progress.add_task(description, total=total)
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                progress.advance(bar, future.result())
    except BrokenProcessPool:
        raise InputError(
            "A worker process was killed, as the system does where memory runs out. Run it again: it goes on where "
            "it stopped. On fewer cores it needs less: taskset -c 0 python src/prepare.py ..."
        ) from None
