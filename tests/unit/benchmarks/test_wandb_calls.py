"""The seconds within W&B's calls are added up once each."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from benchmarks.wandb_calls import CALLS, Stopwatch, describe


def test_a_call_within_another_counts_for_the_outer_one() -> None:
    stopwatch = Stopwatch()
    inner = stopwatch.timed("inner", lambda: time.sleep(0.05))
    outer = stopwatch.timed("outer", lambda: inner() or "result")
    assert outer() == "result"
    assert stopwatch.seconds.keys() == {"outer"} and 0.05 <= stopwatch.seconds["outer"] < 0.5
    inner()
    assert stopwatch.seconds.keys() == {"outer", "inner"}


def test_a_call_that_fails_is_counted() -> None:
    stopwatch = Stopwatch()
    with pytest.raises(ZeroDivisionError):
        stopwatch.timed("fails", lambda: 1 / 0)()
    stopwatch.timed("next", lambda: None)()
    assert stopwatch.seconds.keys() == {"fails", "next"}


def test_every_call_exists() -> None:
    assert all(callable(getattr(owner, name)) for owner, names in CALLS for name in names)


def test_the_percentage_is_that_of_the_training() -> None:
    described = describe(Counter({"a": 1.0, "b": 3.0}), 200.0)
    assert described.index("`b`") < described.index("`a`") and "4.0 s of 200.0 s: 2.0%" in described
