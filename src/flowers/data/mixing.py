"""Mix several data sets in training: how many records of each set an epoch has, and which ones."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowers.errors import InputError


class Mixture(NamedTuple):
    """The data sets that training mixes.

    sizes: the number of records of each data set.
    passes: the number of passes per epoch over each data set.
    """

    sizes: tuple[int, ...]
    passes: tuple[float, ...]

    def shares(self) -> list[Fraction]:
        """Return the records of each data set in an epoch, before they are rounded and an incomplete batch is dropped.

        They are exact: 0.29 passes over 100 records are 29 records, not 28.999999999999996.
        """
        return [Fraction(str(passes)) * size for size, passes in zip(self.sizes, self.passes, strict=True)]

    def total(self) -> int:
        """Return the number of records in an epoch, before an incomplete batch is dropped."""
        return math.floor(sum(self.shares()))


def split_epoch(mixture: Mixture, kept: int) -> list[int]:
    """Divide an epoch of `kept` records over the data sets, in proportion to their shares, to within one record.

    The largest remainders are rounded up. The result does not depend on the epoch, so epochs have equal lengths.

    Raises:
        InputError: an epoch would have no record of a data set.
    """
    shares = mixture.shares()
    exact = [share * kept / sum(shares) for share in shares]
    counts = [math.floor(wanted) for wanted in exact]
    by_remainder = sorted(range(len(counts)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: kept - sum(counts)]:
        counts[place] += 1
    if 0 in counts:
        empty = counts.index(0)
        raise InputError(
            f"data.weights: expected at least one record of each data set per epoch, found none of the "
            f"{mixture.sizes[empty]} in data.roots.{empty} at {mixture.passes[empty]:g} passes and {kept} records per "
            "epoch. Raise its weight, or leave it out of data.roots."
        )
    return counts


def mixing_order(mixture: Mixture | None) -> dict[str, list[float] | list[int] | None]:
    """Return what the order of an epoch depends on, for checkpoints: None for each of them if there is one data set."""
    return {
        "data.weights": None if mixture is None else list(mixture.passes),
        "records by data.roots": None if mixture is None else list(mixture.sizes),
    }


def mix_epoch(numbers: NDArray[np.int64], mixture: Mixture, *, seed: int, epoch: int, kept: int) -> NDArray[np.int64]:
    """Return the record numbers of an epoch, int64 `[kept]`, data set by data set.

    Each data set has one permutation of its records, which is read over and over. An epoch starts where the last one
    has ended. So a record is read again only after all others of its data set were.

    Args:
        numbers: the record numbers, data set by data set, int64 `[sum(mixture.sizes)]`.
        mixture: the data sets.
        seed: the seed of the permutations.
        epoch: the epoch.
        kept: the number of records in each epoch.
    """
    parts = np.split(numbers, np.cumsum(mixture.sizes)[:-1])
    generators = np.random.default_rng(seed).spawn(len(parts))
    windows = [
        np.take(generator.permutation(part), np.arange(epoch * count, (epoch + 1) * count), mode="wrap")
        for part, count, generator in zip(parts, split_epoch(mixture, kept), generators, strict=True)
    ]
    return np.concatenate(windows)
