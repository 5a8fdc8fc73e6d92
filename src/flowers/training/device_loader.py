"""Prefetch batches to a device: the next ones are sent while a step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from torch.utils.data import DataLoader

PREFETCHED_BATCHES = 2
"""The number of batches that wait on the device while a step runs."""


class DeviceLoader:
    """Yields a loader's batches on the device. A thread reads and sends the next ones while a step runs.

    Args:
        loader: the source of batches. Its exceptions are raised here, after the batches that precede them.
        make_send: a function that is called at the start of each pass. It returns a function that sends a batch of
            this pass to the device, without waiting for the transfer.
    """

    def __init__(self, loader: DataLoader[Any], make_send: Callable[[], Callable[[Any], Any]]) -> None:
        self.sampler = loader.sampler  # Lightning sets its epoch
        self._loader = loader
        self._make_send = make_send
        self._running: Generator[Any, None, None] | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        if self._running is not None:
            self._running.close()  # one iteration at a time, as the loader's workers are shared
        self._running = self._batches()
        return self._running

    def close(self) -> None:
        """Stop the running pass and the loader's workers."""
        if self._running is not None:
            self._running.close()
        workers = self._loader._iterator
        if workers is not None and self._loader.num_workers > 0:
            workers._shutdown_workers()  # type: ignore[attr-defined]  # as Lightning does with its own loaders
        self._loader._iterator = None

    def _batches(self) -> Generator[Any, None, None]:
        ready: queue.Queue[Any] = queue.Queue(PREFETCHED_BATCHES)
        stopped = threading.Event()
        arguments = ready, stopped, self._make_send()
        thread = threading.Thread(target=self._fill, args=arguments, daemon=True, name="DeviceLoader")
        thread.start()
        try:
            while True:
                item = ready.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stopped.set()
            while thread.is_alive():  # it may be waiting for room in the queue
                while not ready.empty():
                    ready.get_nowait()
                thread.join(timeout=0.05)

    def _fill(self, ready: queue.Queue[Any], stopped: threading.Event, send: Callable[[Any], Any]) -> None:
        try:
            for batch in self._loader:
                ready.put(send(batch))
                if stopped.is_set():
                    return
            ready.put(None)
        except Exception as error:
            ready.put(error)
