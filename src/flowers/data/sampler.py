"""Order the records: a pure function of seed and epoch, the same for any number of workers and ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler, SequentialSampler

from flowers.data.mixing import Mixture, mix_epoch

Balance = Literal["sqrt", "full"]

PADDING = -1
"""The record number of a padding row. Padding gives every rank the same number of full batches."""


class SampleIndex(NamedTuple):
    """Identifies a sample. Its augmentation depends on these three numbers and the seed, and on nothing else.

    epoch: the epoch.
    number: the record's number.
    repeat: how often the epoch has drawn this record before.
    """

    epoch: int
    number: int
    repeat: int = 0


def class_weights(labels: NDArray[np.int64], balance: Balance) -> NDArray[np.float64]:
    """Return each record's sampling weight, float64 `[N]`, for labels, int64 `[N]`, all at least 0.

    With `sqrt`, a class is drawn in proportion to the square root of its count; with `full`, each class equally often.
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
    mixture: Mixture | None = None,
) -> NDArray[np.int64]:
    """Return the record numbers of an epoch's global batches, concatenated, int64 `[K * global_batch_size]`.

    Without `shuffle`, these are `numbers`, int64 `[N]`, in order. With `shuffle`, the remainder that does not
    fill a global batch is dropped, and no record is dropped a second time before all others were. If there is less than
    one global batch, nothing is dropped. With `weights`, float64 `[N]`, the same number of records is drawn in
    proportion to them. With `mixture`, `numbers` are those of its data sets, each with its own number of passes.
    `PADDING` fills the last batch.
    """
    generator = np.random.default_rng([seed, epoch])
    kept = kept_count(numbers, mixture, global_batch_size, shuffle)
    if not shuffle:
        order = numbers
    elif mixture is not None:
        order = generator.permutation(mix_epoch(numbers, mixture, seed=seed, epoch=epoch, kept=kept))
    elif weights is None:
        order = generator.permutation(_rotate(numbers, seed, epoch, kept))
    else:
        order = generator.permutation(_resample(numbers, weights, kept, generator))
    return np.pad(order, (0, -kept % global_batch_size), constant_values=PADDING)


def kept_count(numbers: NDArray[np.int64], mixture: Mixture | None, global_batch_size: int, shuffle: bool) -> int:
    """Return how many records an epoch has: with `shuffle`, full global batches if there is at least one."""
    count = len(numbers) if mixture is None else mixture.total()
    return count - count % global_batch_size if shuffle and count >= global_batch_size else count


def _rotate(numbers: NDArray[np.int64], seed: int, epoch: int, kept: int) -> NDArray[np.int64]:
    """Return `kept` of the numbers. The dropped ones are a window over one permutation that moves on each epoch."""
    dropped = len(numbers) - kept
    # A separate stream: NumPy treats [seed] as [seed, 0], which is epoch 0's generator.
    (generator,) = np.random.default_rng(seed).spawn(1)
    return np.roll(generator.permutation(numbers), -epoch * dropped)[dropped:]


def _resample(
    numbers: NDArray[np.int64], weights: NDArray[np.float64], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` of the numbers in proportion to their weights, each floor or ceil of its expected number of times.

    Systematic resampling over a shuffled order: Kitagawa 1996, "Monte Carlo Filter and Smoother for Non-Gaussian
    Nonlinear State Space Models", J. Comput. Graph. Stat. 5(1).
    """
    shuffled = generator.permutation(len(numbers))
    edges = np.cumsum(weights[shuffled]) * (count / weights.sum())
    points = np.arange(count) + generator.random()
    # The last edge is omitted, because rounding may put it before the last point.
    return numbers[shuffled[np.searchsorted(edges[:-1], points, side="right")]]


def count_earlier(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each entry of `order`, int64 `[N]`, occurs before its own position, int64 `[N]`."""
    count = len(order)
    # A stable argsort by distinct keys: NumPy's sort is several times as fast as its argsort.
    number, position = np.divmod(np.sort(order * count + np.arange(count)), count)
    earlier = np.empty_like(order)
    earlier[position] = np.arange(count) - np.searchsorted(number, number)
    return earlier


class EpochSampler(DistributedSampler[SampleIndex]):
    """Yields one rank's sample indices of an epoch, in full batches, the same number on every rank.

    The k-th batches of all ranks together are the k-th global batch, which depends only on `ranks * batch_size`.
    Lightning keeps a `DistributedSampler` such as this one, and replaces other samplers by its own.

    Args:
        numbers: the record numbers to draw from, int64 `[N]`.
        seed: the seed of the order.
        shuffle: whether to shuffle, for training; if not, each record is read once, in order.
        batch_size: the samples per batch on each rank.
        rank: the rank of this process.
        ranks: the number of ranks.
        epoch: the first epoch; Lightning calls `set_epoch` for the following ones.
        start_batch: the number of batches of the first epoch that were seen before the run was resumed. They are
            skipped, but still count in the sampler's length.
        weights: the sampling weights of `numbers` in training, float64 `[N]`; None if all are equal.
        mixture: the data sets that `numbers` come from, in training; None if there is one.
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
        mixture: Mixture | None = None,
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
        self.mixture = mixture

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. An epoch other than the current one starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start_batch = epoch, 0

    def __len__(self) -> int:
        global_batch_size = self.ranks * self.batch_size
        kept = kept_count(self.numbers, self.mixture, global_batch_size, self.shuffle)
        return -(-kept // global_batch_size) * self.batch_size

    @property
    def drawn_epoch(self) -> int:
        """Return the epoch whose order and augmentations are drawn."""
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
            mixture=self.mixture,
        )
        repeats = np.zeros_like(order) if self.weights is None and self.mixture is None else count_earlier(order)
        return order[self.rank :: self.ranks], repeats[self.rank :: self.ranks]


class FixedSampler(EpochSampler, SequentialSampler):  # type: ignore[misc]
    """Repeats epoch 0 in every epoch, with the same images and augmentations, so that a model can overfit them.

    Under `trainer.overfit_batches` Lightning replaces every sampler that is not a SequentialSampler. This class is one,
    so that folds, class balance and each process's part of a batch are unchanged.
    """

    @property
    def drawn_epoch(self) -> int:
        """Return 0."""
        return 0
