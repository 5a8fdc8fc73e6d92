"""Run the trainings that are not finished yet, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from benchmarks.recipes.process import TrainingFailed, run_task
from benchmarks.recipes.result import Result, read_result, result_path
from benchmarks.recipes.task import Task
from flowers.errors import InputError

Status = Literal["trained", "finished before", "runs elsewhere", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a task: its status, its result if there is one, and the reason for a failure."""

    task: Task
    status: Status
    result: Result | None = None
    reason: str = ""


def run_tasks(tasks: Sequence[Task], results: Path, *, force: bool) -> Iterator[Outcome]:
    """Run the tasks in order, each in its own process. Finished tasks are not run again unless `force` is set.

    Two processes may share a directory of results: each skips the tasks that are running in the other.

    Raises:
        InputError: a finished task was run with other overrides.
    """
    for task in tasks:
        if not force:
            read_finished(task, result_path(results, task))  # find errors before hours of work
    for task in tasks:
        yield _run(task, result_path(results, task), force=force)


def _run(task: Task, path: Path, *, force: bool) -> Outcome:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            finished = None if force else read_finished(task, path)
            if finished is not None:
                return Outcome(task, "finished before", finished)
            path.unlink(missing_ok=True)  # its predictions will be replaced
            run_task(task, path)
            return Outcome(task, "trained", read_result(path))
    except Timeout:
        return Outcome(task, "runs elsewhere")
    except TrainingFailed as error:
        return Outcome(task, "failed", reason=str(error))


def read_finished(task: Task, path: Path) -> Result | None:
    """Return the result of a task, or None if it is not finished.

    Raises:
        InputError: the task was run with other overrides.
    """
    if not path.exists():
        return None
    result = read_result(path)
    if result.overrides != list(task.overrides):
        raise InputError(
            f"{path}: expected a result with the overrides {list(task.overrides)}, found {result.overrides}. "
            "Give the variant another name, set results to another directory, or run it again with force=true."
        )
    return result
