"""Run independent tasks on the cores of this machine or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowers.progress import progress
from flowers.system.processes import map_on_processes

TaskRunner = Callable[[Callable[[Any], int], Sequence[Any], str, int], None]
"""A function that calls `work` with every task: `run_tasks(work, tasks, description, total)`.

`work(task)` returns the number of images that it has processed, of `total`. The tasks are independent.
"""


def run_on_processes(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
    """Call `work` with every task on this machine's cores; a progress bar counts images.

    Raises:
        InputError: a task raised one, or the system killed a worker.
    """
    for _ in progress(map_on_processes(work, tasks), description, total, size=int):
        pass
