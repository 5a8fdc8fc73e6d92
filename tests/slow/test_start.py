"""`--help` starts quickly."""

from __future__ import annotations

import resource

from tests.helpers.commands import run_interpreter


def cpu_seconds() -> float:
    """Return the CPU time of the child processes that have ended. Unlike a clock, it ignores other load."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_takes_less_than_two_seconds() -> None:
    times = []
    for _ in range(5):
        start = cpu_seconds()
        done = run_interpreter("train", "--help")
        times.append(cpu_seconds() - start)
        assert done.returncode == 0
        assert "data: default, garden, kaggle, tfrecords" in done.stdout
    assert 0 < min(times) < 2
