"""The device loader yields each batch once and in order, passes errors on, and leaves no threads or workers."""

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


def make_loader(count: int, *, workers: int = 0, bad: int | None = None) -> DataLoader[Any]:
    return DataLoader(
        Numbers(count, bad),
        collate_fn=first,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,
    )


def double(number: Any) -> Any:
    return 2 * number


def count_threads() -> int:
    return sum(thread.name == "DeviceLoader" for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 2])
def test_every_pass_yields_each_batch_once_and_in_order(workers: int) -> None:
    loader = DeviceLoader(make_loader(20, workers=workers), lambda: double)
    assert len(loader) == 20
    for _ in range(2):
        assert list(loader) == [2 * number for number in range(20)]
    assert count_threads() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_pass_leaves_no_thread(workers: int) -> None:
    loader = DeviceLoader(make_loader(50, workers=workers), lambda: double)
    for _ in range(3):
        batches = iter(loader)
        assert [next(batches) for _ in range(3)] == [0, 2, 4]
    assert list(loader) == [2 * number for number in range(50)]
    assert count_threads() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_record_is_raised_after_the_batches_before_it(workers: int) -> None:
    loader = DeviceLoader(make_loader(10, workers=workers, bad=3), lambda: double)
    batches = iter(loader)
    assert [next(batches) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(BadRecord, match="record 3: expected a good one"):
        next(batches)
    assert count_threads() == 0
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_leaves_no_thread_and_no_worker(workers: int) -> None:
    before = set(multiprocessing.active_children())
    loader = DeviceLoader(make_loader(50, workers=workers), lambda: double)
    next(iter(loader))
    assert count_threads() == 1
    started = set(multiprocessing.active_children()) - before
    assert len(started) == workers
    loader.close()
    assert count_threads() == 0
    assert not any(worker.is_alive() for worker in started)
    loader.close()  # closing twice is allowed


def test_no_more_than_the_allowed_batches_are_sent_ahead() -> None:
    sent: list[int] = []

    def send(number: Any) -> Any:
        sent.append(number)
        return number

    batches = iter(DeviceLoader(make_loader(50), lambda: send))
    next(batches)
    time.sleep(0.3)
    assert len(sent) == 1 + PREFETCHED_BATCHES + 1  # one taken, those waiting, and one held by the thread


def test_lightning_finds_the_sampler() -> None:
    loader = make_loader(3)
    assert DeviceLoader(loader, lambda: double).sampler is loader.sampler
