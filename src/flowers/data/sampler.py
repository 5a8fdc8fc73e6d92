"""Order the records: a pure function of seed and epoch, the same for any number of workers and ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler, SequentialSampler

Balance = Literal["sqrt", "full"]

PADDING = -1
"""In place of a record's number: no record, so that every rank has as many whole batches."""


class SampleIndex(NamedTuple):
    """Identifies a sample: its augmentation depends on these three and the seed, and on nothing else.

    epoch: the epoch.
    number: the record's.
    repeat: how often the epoch had this record before.
    """

    epoch: int
    number: int
    repeat: int = 0


def class_weights(labels: NDArray[np.int64], balance: Balance) -> NDArray[np.float64]:
    """Return each record's weight in sampling, float64 `[N]`, by the records' labels, int64 `[N]`, none below 0.

    With `sqrt` a class is drawn in proportion to the square root of its count, with `full` each class equally often.
    """
    counts = np.bincount(labels)[labels].astype(np.float64)
    return 1 / np.sqrt(counts) if balance == "sqrt" else 1 / counts


def epoch_order(
    numbers: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    global_batch_size: int,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Return the record numbers of an epoch's global batches, one after the other, int64 `[K * global_batch_size]`.

    In order, that is each of `numbers`, int64 `[N]`, once. Shuffled, it is as many of them as fill global
    batches: the rest, less than one, is dropped, and none a second time before all others were. Fewer
    than one global batch are kept. With `weights`, float64 `[N]`, as many are drawn in proportion to them.
    `PADDING` fills the last batch.
    """
    generator = np.random.default_rng([seed, epoch])
    kept = _kept_count(len(numbers), global_batch_size, shuffle)
    if not shuffle:
        order = numbers
    elif weights is None:
        order = generator.permutation(_rotate(numbers, seed, epoch, kept))
    else:
        order = generator.permutation(_resample(numbers, weights, kept, generator))
    return np.pad(order, (0, -kept % global_batch_size), constant_values=PADDING)


def _kept_count(count: int, global_batch_size: int, shuffle: bool) -> int:
    """Return how many of `count` records an epoch has: shuffled, those that fill global batches, if they fill one."""
    return count - count % global_batch_size if shuffle and count >= global_batch_size else count


def _rotate(numbers: NDArray[np.int64], seed: int, epoch: int, kept: int) -> NDArray[np.int64]:
    """Keep `kept` of the numbers. Those dropped are a window that moves on over one permutation, epoch by epoch."""
    dropped = len(numbers) - kept
    # A stream of its own: the seed's first is epoch 0's, for numpy takes [seed] for [seed, 0].
    (generator,) = np.random.default_rng(seed).spawn(1)
    return np.roll(generator.permutation(numbers), -epoch * dropped)[dropped:]


def _resample(
    numbers: NDArray[np.int64], weights: NDArray[np.float64], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` of the numbers in proportion to their weights, each floor or ceil of its expected times.

    Systematic resampling over a shuffled order: Kitagawa 1996, "Monte Carlo Filter and Smoother for Non-Gaussian
    Nonlinear State Space Models", J. Comput. Graph. Stat. 5(1).
    """
    shuffled = generator.permutation(len(numbers))
    edges = np.cumsum(weights[shuffled]) * (count / weights.sum())
    points = np.arange(count) + generator.random()
    # Without the last edge, which rounding may put before the last point.
    return numbers[shuffled[np.searchsorted(edges[:-1], points, side="right")]]


def count_earlier(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each entry of `order`, int64 `[N]`, stands in it before, int64 `[N]`."""
    count = len(order)
    # A stable argsort, by distinct keys: numpy sorts values several times as fast as it finds their order.
    number, position = np.divmod(np.sort(order * count + np.arange(count)), count)
    earlier = np.empty_like(order)
    earlier[position] = np.arange(count) - np.searchsorted(number, number)
    return earlier


class EpochSampler(DistributedSampler[SampleIndex]):
    """Yields one rank's sample indices, epoch by epoch, in whole batches, as many as every other rank's.

    The k-th batches of all ranks together are the k-th global batch, which depends on `ranks * batch_size` only. Like
    any `DistributedSampler`, it is left in place by Lightning, which gives other samplers one of its own.

    Args:
        numbers: the record numbers to draw from, int64 `[N]`.
        seed: of the order.
        shuffle: for training; otherwise each record once, in order.
        batch_size: samples a batch, on each rank.
        rank: this process's.
        ranks: how many there are.
        epoch: the first; Lightning calls `set_epoch` from then on.
        start_batch: how many batches of that epoch were seen before the run was resumed: they are left out. The length
            stays the whole epoch's.
        weights: of the numbers in training, float64 `[N]`; None: each counts the same.
    """

    def __init__(
        self,
        numbers: NDArray[np.int64],
        *,
        seed: int,
        shuffle: bool,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        epoch: int = 0,
        start_batch: int = 0,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.numbers = numbers
        self.seed = seed
        self.shuffle = shuffle
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks
        self.epoch = epoch
        self.start_batch = start_batch
        self.weights = weights

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start_batch = epoch, 0

    def __len__(self) -> int:
        global_batch_size = self.ranks * self.batch_size
        kept = _kept_count(len(self.numbers), global_batch_size, self.shuffle)
        return -(-kept // global_batch_size) * self.batch_size

    @property
    def drawn_epoch(self) -> int:
        """The epoch whose order and augmentations are drawn."""
        return self.epoch

    def __iter__(self) -> Iterator[SampleIndex]:
        epoch = self.drawn_epoch
        numbers, repeats = self._own_part()
        for start in range(self.start_batch * self.batch_size, len(numbers), self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield from map(SampleIndex, itertools.repeat(epoch), numbers[batch].tolist(), repeats[batch].tolist())

    def _own_part(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch's record numbers and their repeats on this rank, each int64 `[len(self)]`."""
        order = epoch_order(
            self.numbers,
            seed=self.seed,
            epoch=self.drawn_epoch,
            shuffle=self.shuffle,
            global_batch_size=self.ranks * self.batch_size,
            weights=self.weights,
        )
        repeats = np.zeros_like(order) if self.weights is None else count_earlier(order)
        return order[self.rank :: self.ranks], repeats[self.rank :: self.ranks]


class FixedSampler(EpochSampler, SequentialSampler):  # type: ignore[misc]
    """Draws epoch 0 again in every epoch: the same images, augmented alike, so that a model can overfit them.

    Under `trainer.overfit_batches` Lightning replaces every sampler that is no SequentialSampler. This one is, so that
    the folds, the class balance and each process's part of a batch stay what they are.
    """

    @property
    def drawn_epoch(self) -> int:
        return 0
