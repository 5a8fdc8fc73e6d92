"""Decode JPEGs from memory with simplejpeg, in one process per core: the decode-only upper bound."""

from __future__ import annotations

import itertools

import numpy as np
import simplejpeg

from benchmarks.loader.work import IN_MEMORY, Batches, Work
from flowers.data.tfrecord.example import decode_example
from flowers.data.tfrecord.framing import index_shard
from flowers.data.tfrecord.reader import ShardReader


def batches(work: Work) -> Batches:
    """Yield endless batches of ids and images, uint8 `[B, S, S, 3]`, all in the same buffer."""
    reader = ShardReader([index_shard(path) for path in work.shards()])
    numbers = np.random.default_rng(work.seed).permutation(len(reader))[:IN_MEMORY].tolist()
    records = [decode_example(reader[number], labelled=True, where=reader.where(number)) for number in numbers]
    buffer = np.empty((work.batch_size, work.image_size, work.image_size, 3), np.uint8)
    endless = itertools.cycle(records)
    while True:
        chosen = list(itertools.islice(endless, work.batch_size))
        for record, row in zip(chosen, buffer, strict=True):
            simplejpeg.decode_jpeg(record.image, colorspace="RGB", buffer=row)
        yield [record.id for record in chosen], buffer
