"""Compare data.reader=native with data.reader=tfrecord by the records read per second of CPU time.

The records are read by number, in random order: python -m benchmarks.readers
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np

from flowers.data.storage.cache import ReaderName, open_reader
from flowers.data.tfrecord.framing import write_shard
from flowers.data.tfrecord.reader import ShardReader

SETS = ((10_000, 150, 16), (50_000, 798, 2))
"""Bytes of a record, records of a shard, and shards: about those of the garden at 192 px, and of the competition at
512 px."""

READS = 1_000
ROUNDS = 5


def main() -> None:
    """Print the median rate of each reader on each set."""
    for size, count, shards in SETS:
        with tempfile.TemporaryDirectory() as temporary:
            paths = [Path(temporary) / f"{number:02d}.tfrec" for number in range(shards)]
            for path in paths:
                write_shard(path, [os.urandom(size) for _ in range(count)])
            readers = {name: open_reader(paths, Path(temporary), name) for name in get_args(ReaderName)}
            rates: dict[str, list[float]] = {name: [] for name in readers}
            for _ in range(ROUNDS + 1):  # the first round reads the shards into the page cache, and does not count
                for name, reader in readers.items():
                    rates[name].append(measure(reader))
        found = ", ".join(f"{name} {median(rate[1:]):,.0f}" for name, rate in rates.items())
        print(f"{size:,} bytes a record, {count} records a shard: {found} records/s")


def measure(reader: ShardReader) -> float:
    """Return the rate of a reader, in records per second of CPU time."""
    numbers = np.random.default_rng(0).permutation(len(reader))[:READS].tolist()
    start = time.process_time()
    for number in numbers:
        reader.read(number)
    return len(numbers) / (time.process_time() - start)


if __name__ == "__main__":
    main()
