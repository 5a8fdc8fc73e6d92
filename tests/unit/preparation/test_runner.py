"""Tasks run on processes, and the first error ends all of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flowers.errors import InputError
from flowers.preparation.runner import run_on_processes


def mark(file: Path) -> int:
    file.touch()
    return 2


def refuse_or_wait(file: Path) -> int:
    if file.name == "0":
        raise InputError(f"{file}: expected a photograph, found none. Add one.")
    time.sleep(0.1)
    return mark(file)


def kill_itself(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_every_task_runs(tmp_path: Path) -> None:
    run_on_processes(mark, [tmp_path / str(number) for number in range(9)], "Marking", 18)
    assert len(list(tmp_path.iterdir())) == 9


def test_the_first_error_ends_the_other_tasks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0: expected a photograph, found none"):
        run_on_processes(refuse_or_wait, [tmp_path / str(number) for number in range(100)], "Waiting", 100)
    assert len(list(tmp_path.iterdir())) < 50


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(InputError, match="worker process"):
        run_on_processes(kill_itself, [1, 2], "Dying", 2)
