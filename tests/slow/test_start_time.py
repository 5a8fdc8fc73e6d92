"""--help answers at once. In a quiet tier, as it is about time."""

from __future__ import annotations

import time

from tests.helpers.commands import run_interpreter


def test_help_answers_in_two_seconds() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = run_interpreter("train", "--help")
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert "data: default, garden, kaggle, tfrecords" in done.stdout
    assert min(times) < 2
