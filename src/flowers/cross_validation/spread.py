"""Summarise a metric over folds: mean, standard deviation and interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean of a metric over folds, its standard deviation (of a sample), and its 95 % interval by Student's t.

    Folds share most of their training images, so their metrics are not independent and the interval is too narrow. No
    estimate of the variance is unbiased (Bengio and Grandvalet 2004, JMLR 5, pages 1089 to 1105).
    """

    mean: float
    deviation: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise a metric's values, one for each of at least two folds."""
    count, mean, deviation = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / math.sqrt(count)
    return Spread(mean, deviation, mean - half, mean + half)


def spreads(folds: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """Summarise each metric that all folds have, with a finite value in each."""
    values = {name: [fold.get(name) for fold in folds] for name in folds[0]}
    whole = {name: [each for each in own if each is not None] for name, own in values.items()}
    return {name: spread(own) for name, own in whole.items() if len(own) == len(folds)}
