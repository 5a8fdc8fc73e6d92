"""Run independent tasks, on the cores of this machine or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowers.progress import progress
from flowers.system.processes import map_on_processes

Spread = Callable[[Callable[[Any], int], Sequence[Any], str, int], None]
"""Calls a function with every task, wherever that is: `spread(work, tasks, description, total)`.

`work(task)` returns how many images of the `total` it has done. The tasks are independent.
"""


def run_on_processes(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
    """Call `work` with every task on this machine's cores; a progress bar counts images.

    Raises:
        InputError: a task raised one, or the system has killed a worker.
    """
    for _ in progress(map_on_processes(work, tasks), description, total, size=int):
        pass
