"""Score predicted labels, and estimate confidence intervals of scores and of gains by the bootstrap.

Macro F1 depends only on the number of rows with each pair of true and predicted class. A resample of the rows is
therefore one sample of these counts, and thousands of resamples take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]

CONFIDENCE = 0.95
SMALLEST = np.float32(1e-7)
"""The smallest probability in a logarithm: a true class with probability 0 would have an infinite loss."""


def log_probabilities(probabilities: Probabilities) -> Probabilities:
    """Return the logarithms of probabilities of any shape, float32, none of them below that of `SMALLEST`."""
    return np.log(np.maximum(probabilities, SMALLEST))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def macro_f1(labels: Labels, predicted: Labels, class_count: int) -> float:
    """Return the mean F1 of the classes that occur in labels or predictions, int64 `[N]`.

    It equals scikit-learn's `f1_score(average="macro")`.
    """
    counts = np.bincount(labels * class_count + predicted, minlength=class_count**2)
    confusion = counts.reshape(class_count, class_count)
    hits = confusion.diagonal()
    return float(_mean_f1(hits, confusion.sum(0) + confusion.sum(1)))


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean of -log p of the true class, for labels int64 `[N]` and probabilities float32 `[N, K]`."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, SMALLEST), dtype=np.float64).mean())


def estimate_macro_f1(labels: Labels, predicted: Labels, class_count: int, *, resamples: int, seed: int) -> Estimate:
    """Estimate macro F1 with its interval, for labels and predictions int64 `[N]`."""
    return _estimate(bootstrap_macro_f1(labels, [predicted], class_count, resamples, seed)[0], (0.0, 1.0))


def estimate_gain(
    labels: Labels, predicted: Labels, reference: Labels, class_count: int, *, resamples: int, seed: int
) -> Estimate:
    """Estimate how much the macro F1 of `predicted` exceeds that of `reference` on the same rows, all int64 `[N]`."""
    scores = bootstrap_macro_f1(labels, [predicted, reference], class_count, resamples, seed)
    return _estimate(scores[0] - scores[1], (-1.0, 1.0))


def bootstrap_macro_f1(
    labels: Labels, predictions: Sequence[Labels], class_count: int, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the macro F1 of each of `P` predictions, float64 `[P, 2 + R]`.

    The columns are the score on the rows, on the smoothed rows, and on `R` resamples of the smoothed rows. Smoothing
    adds one error of each prediction, spread over the classes. Without it, the interval of a perfect score would be a
    point, although an error is still likely on other rows.
    """
    seen, counts = np.unique(np.stack([labels, *predictions]), axis=1, return_counts=True)
    there = np.unique(labels)
    errors = [np.tile(there, (len(predictions) + 1, 1)) for _ in predictions]
    for number, error in enumerate(errors, start=1):
        error[number] = np.roll(there, 1)
    cells = np.concatenate([seen, *errors], axis=1)
    smoothed = np.concatenate([counts, np.full(len(predictions) * len(there), 1 / len(there))])
    drawn = np.random.default_rng(seed).multinomial(len(labels), smoothed / smoothed.sum(), size=resamples)
    observed = np.concatenate([counts, np.zeros(len(smoothed) - len(counts))])
    weights = np.concatenate([observed[None], smoothed[None], drawn]).astype(np.float32)
    one_hot = np.eye(class_count, dtype=np.float32)
    truth = one_hot[cells[0]]
    return np.stack(
        [
            _mean_f1(weights @ (truth * (predicted == cells[0])[:, None]), weights @ (truth + one_hot[predicted]))
            for predicted in cells[1:]
        ]
    )


def _mean_f1(hits: NDArray[Any], occurrences: NDArray[Any]) -> NDArray[np.float64]:
    """Return macro F1 `[...]` from each class's hits, and its occurrences as truth and as prediction, `[..., K]`."""
    f1 = np.where(occurrences > 0, 2 * hits / np.where(occurrences > 0, occurrences, 1), 0.0)
    mean: NDArray[np.float64] = f1.sum(-1) / np.maximum((occurrences > 0).sum(-1), 1)
    return mean


def _estimate(scores: NDArray[np.float64], bounds: tuple[float, float]) -> Estimate:
    """Return the percentile interval of the bootstrap, shifted by twice its bias and clipped to the bounds.

    Resampling loses rare classes, which lowers macro F1. The score itself is already lower than on all possible images,
    by about as much: hence twice (Efron 1987, doi:10.1080/01621459.1987.10478410, on bias). docs/ensembling.md compares
    the coverage of these intervals with that of plain percentiles.
    """
    value, centre, resampled = scores[0], scores[1], scores[2:]
    tail = (1 - CONFIDENCE) / 2
    low, high = value - centre + np.quantile(resampled, [tail, 1 - tail]) - 2 * (resampled.mean() - centre)
    return Estimate(float(value), float(np.clip(low, bounds[0], value)), float(np.clip(high, value, bounds[1])))
