"""Schedules match closed forms at their corners."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from flowers.training.schedules import warmup_cosine, warmup_decay, with_run_length


def trace_rates(schedule: Callable[..., Any], steps: int, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)
    scheduler = schedule(optimizer, **settings)
    found = []
    for _ in range(steps + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_warmup_decay_matches_the_closed_form() -> None:
    found = trace_rates(warmup_decay, 1000, steps_per_epoch=100, epochs=10, warmup_epochs=5, start=0.025, decay=0.8)
    assert found[0] == pytest.approx(1e-5)
    assert found[250] == pytest.approx((1e-5 + 4e-4) / 2)
    assert found[500] == pytest.approx(4e-4)
    assert found[600] == pytest.approx(4e-4 * 0.8)
    assert found[1000] == pytest.approx(4e-4 * 0.8**5)


def test_warmup_cosine_matches_the_closed_form() -> None:
    found = trace_rates(warmup_cosine, 400, steps_per_epoch=100, epochs=3, warmup_epochs=1, start=0.1, end=0.01)
    assert found[0] == pytest.approx(4e-5)
    assert found[100] == pytest.approx(4e-4)
    assert found[200] == pytest.approx(4e-4 * (1 + 0.01) / 2)
    assert found[300] == found[400] == pytest.approx(4e-6)  # the end, without a rise after it


@pytest.mark.parametrize("epochs", [0.1, 1, 3])
def test_a_warm_up_longer_than_half_the_run_is_cut(epochs: float) -> None:
    found = trace_rates(
        warmup_cosine, int(20 * epochs), steps_per_epoch=20, epochs=epochs, warmup_epochs=5, start=0.1, end=0
    )
    assert max(found) == pytest.approx(4e-4, rel=0.01)
    assert found[-1] == pytest.approx(0, abs=1e-9)


def test_a_run_of_no_epochs_is_accepted() -> None:
    assert max(trace_rates(warmup_cosine, 2, steps_per_epoch=1, epochs=0, warmup_epochs=0, start=0.1, end=0.5)) <= 4e-4


def test_our_schedules_receive_the_length_of_the_run() -> None:
    schedule = functools.partial(warmup_decay, warmup_epochs=1, start=0.1, decay=0.5)
    found = trace_rates(with_run_length(schedule, 10, 3), 30)
    assert found == trace_rates(schedule, 30, steps_per_epoch=10, epochs=3)


def test_a_configured_length_is_kept() -> None:
    schedule = with_run_length(functools.partial(warmup_cosine, epochs=7), 10, 3)
    assert schedule.keywords == {"epochs": 7, "steps_per_epoch": 10}  # type: ignore[attr-defined]


def test_settings_of_another_schedule_raise_when_it_is_created() -> None:
    schedule = with_run_length(functools.partial(StepLR, warmup_epochs=1), 10, 3)
    with pytest.raises(TypeError, match="warmup_epochs"):
        trace_rates(schedule, 1)


@pytest.mark.parametrize(
    ("schedule", "settings", "expected"),
    [(StepLR, {"step_size": 2, "gamma": 0.5}, [4e-4, 4e-4, 2e-4, 2e-4]), (CosineAnnealingLR, {"T_max": 1}, [4e-4, 0])],
)
def test_torchs_schedules_step_with_every_batch(
    schedule: Callable[..., Any], settings: dict[str, float], expected: list[float]
) -> None:
    found = trace_rates(with_run_length(functools.partial(schedule, **settings), 10, 3), len(expected) - 1)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [3, 23 / 10])
def test_one_cycle_ends_with_the_run(epochs: float) -> None:
    steps = round(10 * epochs)
    found = trace_rates(with_run_length(functools.partial(OneCycleLR, max_lr=4e-4), 10, epochs), steps - 1)
    assert max(found) == pytest.approx(4e-4, rel=1e-3)
    assert found[-1] == min(found)
