"""Batches come in order, each once, and errors come with them; a pass that is broken off leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader

from flowers.errors import BadRecord
from flowers.training.device_loader import PREFETCHED_BATCHES, DeviceLoader
from tests.helpers.numbers import Numbers, first


def numbers(count: int, *, workers: int = 0, bad: int | None = None) -> DataLoader[Any]:
    return DataLoader(
        Numbers(count, bad),
        collate_fn=first,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,
    )


def twice(number: Any) -> Any:
    return 2 * number


def threads() -> int:
    return sum(thread.name == "DeviceLoader" for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 2])
def test_each_batch_once_and_in_order_in_every_pass(workers: int) -> None:
    loader = DeviceLoader(numbers(20, workers=workers), lambda: twice)
    assert len(loader) == 20
    for _ in range(2):
        assert list(loader) == [2 * number for number in range(20)]
    assert threads() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_may_be_broken_off(workers: int) -> None:
    loader = DeviceLoader(numbers(50, workers=workers), lambda: twice)
    for _ in range(3):
        batches = iter(loader)
        assert [next(batches) for _ in range(3)] == [0, 2, 4]
    assert list(loader) == [2 * number for number in range(50)]
    assert threads() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_record_is_raised_after_the_batches_before_it(workers: int) -> None:
    loader = DeviceLoader(numbers(10, workers=workers, bad=3), lambda: twice)
    batches = iter(loader)
    assert [next(batches) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(BadRecord, match="record 3: expected a good one"):
        next(batches)
    assert threads() == 0
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_leaves_no_thread_and_no_worker(workers: int) -> None:
    before = set(multiprocessing.active_children())
    loader = DeviceLoader(numbers(50, workers=workers), lambda: twice)
    next(iter(loader))
    assert threads() == 1
    started = set(multiprocessing.active_children()) - before
    assert len(started) == workers
    loader.close()
    assert threads() == 0
    assert not any(worker.is_alive() for worker in started)
    loader.close()  # nothing more to do


def test_no_more_than_what_is_allowed_is_sent_ahead() -> None:
    sent: list[int] = []

    def send(number: Any) -> Any:
        sent.append(number)
        return number

    batches = iter(DeviceLoader(numbers(50), lambda: send))
    next(batches)
    time.sleep(0.3)
    assert len(sent) == 1 + PREFETCHED_BATCHES + 1  # taken, waiting, and the one in the thread's hand


def test_lightning_finds_the_sampler() -> None:
    loader = numbers(3)
    assert DeviceLoader(loader, lambda: twice).sampler is loader.sampler
