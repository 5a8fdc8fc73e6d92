"""Tasks on processes return their results in order, and a task that fails ends the others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flowers.errors import InputError
from flowers.system.processes import map_on_processes


def square(number: int) -> int:
    time.sleep(0.05 * (number == 0))  # the first ends last
    return number**2


def refuse_or_wait(file: Path) -> None:
    if file.name == "1":
        raise InputError(f"{file}: expected a photograph, found none. Add one.")
    time.sleep(0.1)
    file.touch()


def kill_itself(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_results_come_in_the_order_of_their_tasks() -> None:
    assert list(map_on_processes(square, range(20))) == [number**2 for number in range(20)]
    assert list(map_on_processes(square, [])) == []


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_ends_the_remaining_tasks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/1"):
        list(map_on_processes(refuse_or_wait, [tmp_path / str(number) for number in range(100)]))
    assert len(list(tmp_path.iterdir())) < 50


def test_a_caller_that_stops_ends_the_remaining_tasks(tmp_path: Path) -> None:
    results = map_on_processes(refuse_or_wait, [tmp_path / str(number) for number in range(2, 100)])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 50


def test_a_killed_worker_raises_an_input_error() -> None:
    with pytest.raises(InputError):
        list(map_on_processes(kill_itself, [1, 2]))
