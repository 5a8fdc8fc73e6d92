"""The order of records: a pure function of seed and epoch, so the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

PADDING = -1
"""In place of a record's number: none, so that every rank has as many draws."""


class Draw(NamedTuple):
    """A record to read, and the epoch in which: its augmentation depends on both, and on nothing else."""

    epoch: int
    number: int


def epoch_order(
    count: int, *, seed: int, epoch: int, shuffle: bool, rank: int = 0, ranks: int = 1
) -> NDArray[np.int64]:
    """The record numbers that one rank reads in an epoch, int64 `[N]`.

    Shuffled, it is a permutation of all records, cut to a multiple of `ranks` so that every rank has as
    many; in order, the ranks together read each record once.
    """
    if not shuffle:
        return np.arange(rank, count, ranks)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[rank : count - count % ranks : ranks]


class EpochSampler(Sampler[Draw]):
    """The draws of one rank, epoch by epoch, as many as every other rank's; Lightning calls `set_epoch`."""

    def __init__(self, count: int, *, seed: int, shuffle: bool, rank: int = 0, ranks: int = 1, epoch: int = 0) -> None:
        self.count = count
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.ranks = ranks
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _order(self) -> NDArray[np.int64]:
        return epoch_order(
            self.count, seed=self.seed, epoch=self.epoch, shuffle=self.shuffle, rank=self.rank, ranks=self.ranks
        )

    def __len__(self) -> int:
        return self.count // self.ranks if self.shuffle else -(-self.count // self.ranks)

    def __iter__(self) -> Iterator[Draw]:
        epoch, order = self.epoch, self._order()
        padding = [PADDING] * (len(self) - len(order))
        return (Draw(epoch, number) for number in [*order.tolist(), *padding])
