"""Scores of predicted labels, and how far a score, or the gain of one over another, is from the truth by chance.

All that macro F1 depends on is how many rows have each (truth, prediction): a resample of the rows is one draw of
these counts, and thousands of resamples take milliseconds.
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
"""The least probability that is taken at its word: a member that gave the truth none would cost infinitely much."""


def log_probabilities(probabilities: Probabilities) -> Probabilities:
    """log p of probabilities of any shape, none of them taken for less than `SMALLEST`."""
    return np.log(np.maximum(probabilities, SMALLEST))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval of 95 % confidence."""

    value: float
    low: float
    high: float


def macro_f1(labels: Labels, predicted: Labels, class_count: int) -> float:
    """The mean F1 of the classes that occur, as truth or as prediction: scikit-learn's `f1_score(average="macro")`."""
    counts = np.bincount(labels * class_count + predicted, minlength=class_count**2)
    confusion = counts.reshape(class_count, class_count)
    hits = confusion.diagonal()
    return float(_mean_f1(hits, confusion.sum(0) + confusion.sum(1)))


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """The mean of -log p of the true class, of labels `[N]` and probabilities `[N, K]`."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, SMALLEST), dtype=np.float64).mean())


def estimate_macro_f1(labels: Labels, predicted: Labels, class_count: int, *, resamples: int, seed: int) -> Estimate:
    """Macro F1 with its interval, of labels and predictions `[N]`."""
    value, bootstrap = _bootstrap(labels, [predicted], class_count, resamples, seed)
    return _estimate(value[0], bootstrap[0], (0.0, 1.0))


def estimate_gain(
    labels: Labels, predicted: Labels, reference: Labels, class_count: int, *, resamples: int, seed: int
) -> Estimate:
    """How much higher the macro F1 of `predicted` is than that of `reference`, on the same rows, with its interval."""
    value, bootstrap = _bootstrap(labels, [predicted, reference], class_count, resamples, seed)
    return _estimate(value[0] - value[1], bootstrap[0] - bootstrap[1], (-1.0, 1.0))


def _bootstrap(
    labels: Labels, predictions: Sequence[Labels], class_count: int, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Macro F1 of each of the predictions on the rows `[P]`, and on resamples of the rows `[P, R]`."""
    cells, counts = np.unique(np.stack([labels, *predictions]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    drawn = np.concatenate([counts[None], drawn]).astype(np.float32)  # counts: exact, and quick to multiply
    one_hot = np.eye(class_count, dtype=np.float32)
    truth = one_hot[cells[0]]
    scores = []
    for predicted in cells[1:]:
        hits = drawn @ (truth * (predicted == cells[0])[:, None])
        scores.append(_mean_f1(hits, drawn @ (truth + one_hot[predicted])))
    stacked = np.stack(scores)
    return stacked[:, 0], stacked[:, 1:]


def _mean_f1(hits: NDArray[Any], occurrences: NDArray[Any]) -> NDArray[np.float64]:
    """Macro F1 `[...]` of each class's hits and its occurrences as truth and as prediction, `[..., K]`."""
    f1 = np.where(occurrences > 0, 2 * hits / np.maximum(occurrences, 1), 0.0)
    mean: NDArray[np.float64] = f1.sum(-1) / np.maximum((occurrences > 0).sum(-1), 1)
    return mean


def _estimate(value: float, resampled: NDArray[np.float64], bounds: tuple[float, float]) -> Estimate:
    """The basic bootstrap interval (Davison and Hinkley 1997, section 5.2), within what the figure can be.

    Not the percentile interval: macro F1 over rare classes falls with resampling, where classes are lost, and those
    intervals lie too low. With 104 classes and 800 rows they held the truth in 58 % of simulations, these in 94 %.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(value), float(max(2 * value - high, bounds[0])), float(min(2 * value - low, bounds[1])))
