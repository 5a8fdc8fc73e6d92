"""A killed search ends like an uninterrupted one, and several processes share one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flowers.training.runs import Run
from tests.helpers.commands import ScriptProcess, run_process
from tests.helpers.searching import make_plan, run_search, start_search, table

POINTS: dict[str, Callable[[Path], bool]] = {
    "within a trial": lambda directory: (directory / "trial-1" / "metrics.csv").exists(),
    "between trials": lambda directory: "finished-1" in _read(directory / "reported"),
    "at the end of a trial": lambda directory: (directory / "trial-1" / "metrics.json").exists(),
}


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_search_ends_like_an_uninterrupted_one(point: str, tmp_path: Path) -> None:
    whole = table(run_search(make_plan(tmp_path / "whole")))
    directory = tmp_path / "killed"
    process = start_search(directory, ["slow=0.2"])
    wait_for(lambda: POINTS[point](directory))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    result = run_search(make_plan(directory, "slow=0.2"))
    assert table(result) == whole


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    started, directory = tmp_path / "started", tmp_path / "search"
    overrides = [f"started={started}", "slow=1"]
    processes = [start_search(directory, overrides, trials=6) for _ in range(2)]
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    result = run_search(make_plan(directory, *overrides, trials=6))
    assert [number for number, *_ in table(result)] == list(range(6))
    assert {state for _, state, *_ in table(result)} == {"COMPLETE"}
    assert sorted(started.read_text().split()) == [f"trial-{number}" for number in range(6)]  # none twice
    owners = {(directory / f"trial-{number}" / "owner").read_text() for number in range(6)}
    assert len(owners) == 2


def test_a_killed_search_takes_its_training_with_it_and_resumes_it(tiny_settings: list[str], tmp_path: Path) -> None:
    run = Run(tmp_path / "search" / "trial-0")
    settings = [*tiny_settings, "trainer.max_epochs=2", "trials=1", f"output={tmp_path}/search"]
    search = ScriptProcess("search", *settings)
    wait_for(run.last.exists)
    search.process.kill()
    search.process.join()
    done = run_process("search", *settings, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "1 complete" in done.stdout
    assert list(run.directory.glob("metrics-until-*.csv")), "the training was not resumed"
