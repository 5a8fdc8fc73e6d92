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
    """Return log p of probabilities of any shape, none of them taken for less than `SMALLEST`."""
    return np.log(np.maximum(probabilities, SMALLEST))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval of 95 % confidence."""

    value: float
    low: float
    high: float


def macro_f1(labels: Labels, predicted: Labels, class_count: int) -> float:
    """Compute the mean F1 of the classes in truth or prediction: scikit-learn's `f1_score(average="macro")`."""
    counts = np.bincount(labels * class_count + predicted, minlength=class_count**2)
    confusion = counts.reshape(class_count, class_count)
    hits = confusion.diagonal()
    return float(_mean_f1(hits, confusion.sum(0) + confusion.sum(1)))


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean of -log p of the true class, of labels `[N]` and probabilities `[N, K]`."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, SMALLEST), dtype=np.float64).mean())


def estimate_macro_f1(labels: Labels, predicted: Labels, class_count: int, *, resamples: int, seed: int) -> Estimate:
    """Macro F1 with its interval, of labels and predictions `[N]`."""
    return _estimate(bootstrap_macro_f1(labels, [predicted], class_count, resamples, seed)[0], (0.0, 1.0))


def estimate_gain(
    labels: Labels, predicted: Labels, reference: Labels, class_count: int, *, resamples: int, seed: int
) -> Estimate:
    """Estimate how much the macro F1 of `predicted` exceeds that of `reference` on the same rows."""
    scores = bootstrap_macro_f1(labels, [predicted, reference], class_count, resamples, seed)
    return _estimate(scores[0] - scores[1], (-1.0, 1.0))


def bootstrap_macro_f1(
    labels: Labels, predictions: Sequence[Labels], class_count: int, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Macro F1 of each of the predictions `[P, 2 + R]`: on the rows, on the smoothed rows, on resamples of those.

    Smoothed means with one error more of each prediction, spread over the classes: where no error is seen, one is
    still likely, and without it an interval of a perfect score would be a point.
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
    """Macro F1 `[...]` of each class's hits and its occurrences as truth and as prediction, `[..., K]`."""
    f1 = np.where(occurrences > 0, 2 * hits / np.where(occurrences > 0, occurrences, 1), 0.0)
    mean: NDArray[np.float64] = f1.sum(-1) / np.maximum((occurrences > 0).sum(-1), 1)
    return mean


def _estimate(scores: NDArray[np.float64], bounds: tuple[float, float]) -> Estimate:
    """Return the percentile interval of the bootstrap, moved by twice its bias, within what the figure can be.

    Macro F1 over rare classes falls with resampling, where classes are lost, as much as the score is already below what
    it would be over all images there are; hence twice (Efron 1987, doi:10.1080/01621459.1987.10478410, on bias).
    How often these intervals and plain percentiles hold the truth: docs/ensembling.md.
    """
    value, centre, resampled = scores[0], scores[1], scores[2:]
    tail = (1 - CONFIDENCE) / 2
    low, high = value - centre + np.quantile(resampled, [tail, 1 - tail]) - 2 * (resampled.mean() - centre)
    return Estimate(float(value), float(np.clip(low, bounds[0], value)), float(np.clip(high, value, bounds[1])))
