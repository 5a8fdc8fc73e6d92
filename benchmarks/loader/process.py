"""Run a loader in its own process, which works only while it is measured.

TensorFlow and `tfrecord` cannot be imported together, and DataLoader workers cannot safely be forked from a process
with TensorFlow's threads. Each of the processes imports this module, so it must not import anything heavy.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.loader.work import Batches, Name, Work
from flowers.errors import InputError

MODULES: dict[Name, str] = {
    "flowers": "flowers_loader",
    "tf.data": "tf_data",
    "tfrecord": "tfrecord_package",
    "torchvision": "torchvision_loader",
    "decode_only": "decode_only",
}

PAUSE = 0.2
"""Seconds without work after which a process counts as idle."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The work of one process during a measurement, and the evidence for it.

    images: the number of images delivered in `seconds`.
    layouts: the (dtype, shape) of all batches.
    pulled: the number of images, including those of the warm-up.
    different: the number of different ids among these.
    """

    images: int
    seconds: float
    layouts: frozenset[tuple[str, tuple[int, ...]]]
    pulled: int
    different: int


class LoaderProcess:
    """A loader in its own process, idle until it is measured. The decode-only upper bound has a process per worker."""

    def __init__(self, name: Name, work: Work) -> None:
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(work.workers if name == "decode_only" else 1):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, name, work))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def wait(self) -> None:
        """Wait until the loader is ready.

        Raises:
            ImportError: the loader's library is not installed.
            InputError: a record cannot be read.
        """
        for pipe in self._pipes:
            self._answer(pipe)

    def measure(self, seconds: float) -> list[Measured]:
        """Measure the loader for some seconds, its processes in parallel, and wait until they are idle again."""
        for pipe in self._pipes:
            pipe.send(seconds)
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe: Connection) -> Any:
        try:
            answer = pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended early, see above") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the loader's processes."""
        for pipe in self._pipes:
            pipe.close()  # the process ends when it finds its pipe closed
        for process in self._processes:
            process.join(timeout=10)
            process.kill()
            process.join()


def _serve(pipe: Connection, name: Name, work: Work) -> None:
    """Run a loader: wait until it is ready, then send a measurement for each number of seconds received."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the closed pipe ends this process, without a traceback
    multiprocessing.set_start_method(None, force=True)  # DataLoader workers start as usual, not as this process did
    try:
        batches = import_module(f"benchmarks.loader.baselines.{MODULES[name]}").batches(work)
        next(batches)
        _wait_until_idle()
        pipe.send(None)
        while True:
            measured = measure(batches, pipe.recv())
            _wait_until_idle()
            pipe.send(measured)
    except (ImportError, InputError) as error:
        pipe.send(error)
    except (EOFError, ConnectionError):
        pass  # the other end is closed


def measure(batches: Batches, seconds: float) -> Measured:
    """Pull batches for some seconds, after a warm-up of half that time, which uses up the buffered batches."""
    layouts: set[tuple[str, tuple[int, ...]]] = set()
    ids: list[str | bytes] = []

    def pull(seconds: float) -> tuple[int, float]:
        images, elapsed, start = 0, 0.0, time.perf_counter()
        while elapsed < seconds:
            names, image = next(batches)
            elapsed = time.perf_counter() - start
            images += len(image)
            layouts.add((str(image.dtype), image.shape))
            ids.extend(names)
        return images, elapsed

    pull(seconds / 2)
    images, elapsed = pull(seconds)
    return Measured(images, elapsed, frozenset(layouts), len(ids), len(set(ids)))


def _wait_until_idle() -> None:
    """Wait until the loader's buffers are full and it is idle, so that the next loader has all cores to itself."""
    used = _cpu_seconds()
    while True:
        time.sleep(PAUSE)
        before, used = used, _cpu_seconds()
        if used - before < PAUSE / 10:
            return


def _cpu_seconds() -> float:
    """Return the CPU time so far of this process and its workers; without /proc, of this process only."""
    workers = [Path(f"/proc/{worker.pid}/stat") for worker in multiprocessing.active_children()]
    return time.process_time() + sum(_worker_seconds(stat) for stat in workers if stat.exists())


def _worker_seconds(stat: Path) -> float:
    fields: Sequence[str] = stat.read_text().rpartition(")")[2].split()  # the name in brackets may contain spaces
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: see proc(5)
