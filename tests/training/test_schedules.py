"""Schedules at their corners, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flowers.training.schedules import warmup_cosine, warmup_decay


def rates(schedule: Callable[..., Any], steps: int, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)
    scheduler = schedule(optimizer, **settings)
    found = []
    for _ in range(steps + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_the_competitions() -> None:
    found = rates(warmup_decay, 1000, steps_per_epoch=100, epochs=10, warmup_epochs=5, start=0.025, decay=0.8)
    assert found[0] == pytest.approx(1e-5)
    assert found[250] == pytest.approx((1e-5 + 4e-4) / 2)
    assert found[500] == pytest.approx(4e-4)
    assert found[600] == pytest.approx(4e-4 * 0.8)
    assert found[1000] == pytest.approx(4e-4 * 0.8**5)


def test_cosine() -> None:
    found = rates(warmup_cosine, 400, steps_per_epoch=100, epochs=3, warmup_epochs=1, start=0.1, end=0.01)
    assert found[0] == pytest.approx(4e-5)
    assert found[100] == pytest.approx(4e-4)
    assert found[200] == pytest.approx(4e-4 * (1 + 0.01) / 2)
    assert found[300] == found[400] == pytest.approx(4e-6)  # the end, and no rise beyond it


@pytest.mark.parametrize("epochs", [0.1, 1, 3])
def test_a_warm_up_longer_than_half_the_run_is_cut(epochs: float) -> None:
    found = rates(warmup_cosine, int(20 * epochs), steps_per_epoch=20, epochs=epochs, warmup_epochs=5, start=0.1, end=0)
    assert max(found) == pytest.approx(4e-4, rel=0.01)
    assert found[-1] == pytest.approx(0, abs=1e-9)


def test_nothing_to_decay() -> None:
    assert max(rates(warmup_cosine, 2, steps_per_epoch=1, epochs=0, warmup_epochs=0, start=0.1, end=0.5)) <= 4e-4
