"""A loader in a process of its own, which works only while it is measured.

TensorFlow and `tfrecord` cannot be imported together, and forking DataLoader workers from a process with TensorFlow's
threads is asking for trouble. This module is imported by each of those processes, and so imports nothing heavy itself.
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
    "decode_only": "decode_only",
}

PAUSE = 0.2
"""Seconds without work after which a process counts as at rest."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The work of one process while it was measured, and the evidence for it.

    images: delivered in `seconds`.
    layouts: the (dtype, shape) of all batches.
    pulled: images with the warm-up's, `different` of them by their ids.
    """

    images: int
    seconds: float
    layouts: frozenset[tuple[str, tuple[int, ...]]]
    pulled: int
    different: int


class LoaderProcess:
    """Starts at one piece of work, and then rests until it is measured. The upper bound is one process a worker."""

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
        """Wait until it is ready.

        Raises:
            ImportError: its library is not there.
            InputError: a record cannot be read.
        """
        for pipe in self._pipes:
            self._answer(pipe)

    def measure(self, seconds: float) -> list[Measured]:
        """Let it work, its processes side by side, and come to rest again."""
        for pipe in self._pipes:
            pipe.send(seconds)
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe: Connection) -> Any:
        try:
            answer = pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended before it was done, see above") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # which is how it learns that it is over
        for process in self._processes:
            process.join(timeout=10)
            process.kill()
            process.join()


def _serve(pipe: Connection, name: Name, work: Work) -> None:
    """A loader's process: get ready, then answer each number of seconds with what was done in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the closed pipe ends it, without a traceback
    multiprocessing.set_start_method(None, force=True)  # of the DataLoader's workers: the usual one, not this process's
    try:
        batches = import_module(f"benchmarks.loader.baselines.{MODULES[name]}").batches(work)
        next(batches)
        _rest()
        pipe.send(None)
        while True:
            measured = measure(batches, pipe.recv())
            _rest()
            pipe.send(measured)
    except (ImportError, InputError) as error:
        pipe.send(error)
    except (EOFError, ConnectionError):
        pass  # the other end is closed


def measure(batches: Batches, seconds: float) -> Measured:
    """Pull batches for so long, after half as long to use up what was decoded ahead while nobody pulled."""
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


def _rest() -> None:
    """Wait until the buffers ahead are full and this process is idle: the next one must have all cores to itself."""
    used = _cpu_seconds()
    while True:
        time.sleep(PAUSE)
        before, used = used, _cpu_seconds()
        if used - before < PAUSE / 10:
            return


def _cpu_seconds() -> float:
    """CPU time so far of this process and its workers; of the workers only where /proc tells."""
    workers = [Path(f"/proc/{worker.pid}/stat") for worker in multiprocessing.active_children()]
    return time.process_time() + sum(_worker_seconds(stat) for stat in workers if stat.exists())


def _worker_seconds(stat: Path) -> float:
    fields: Sequence[str] = stat.read_text().rpartition(")")[2].split()  # a name in brackets may hold blanks
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: see proc(5)
