"""Analyse a model's predictions on a labelled split: by class, by pair of classes and by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcomes:
    """Predictions on a labelled split.

    Args:
        ids: the images' ids, `N` of them.
        places: the images' positions in the split's loader, int64 `[N]`.
        labels: int64 `[N]`, none of them missing.
        probabilities: float32 `[N, K]`.
        class_names: the class names in label order.
    """

    ids: Sequence[str]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    class_names: Sequence[str]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Return the most probable class of each image, int64 `[N]`."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """Return the probability of the most probable class, float32 `[N]`."""
        confidence: NDArray[np.float32] = self.probabilities.max(axis=1)
        return confidence

    @cached_property
    def true_probability(self) -> NDArray[np.float32]:
        """Return the probability of the true class, float32 `[N]`."""
        probability: NDArray[np.float32] = self.probabilities[np.arange(len(self.labels)), self.labels]
        return probability

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Return counts by true class (row) and predicted class (column), int64 `[K, K]`."""
        classes = len(self.class_names)
        counts = np.bincount(self.labels * classes + self.predicted, minlength=classes**2)
        return counts.reshape(classes, classes)

    def class_scores(self) -> list[ClassScore]:
        """Return precision, recall and F1 of each class, in label order. 0 / 0 counts as 0."""
        hits = self.confusion.diagonal()
        actual, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return [
            ClassScore(
                name=name,
                count=int(actual[label]),
                precision=_ratio(hits[label], predicted[label]),
                recall=_ratio(hits[label], actual[label]),
                f1=_ratio(2 * hits[label], actual[label] + predicted[label]),
            )
            for label, name in enumerate(self.class_names)
        ]

    def confused_pairs(self, most: int) -> list[ConfusedPair]:
        """Return the pairs of classes with the most mistakes in either direction, at most `most` of them."""
        both = np.triu(self.confusion + self.confusion.T, k=1)
        order = np.argsort(-both, axis=None, kind="stable")[:most]
        pairs = [(int(cell // len(both)), int(cell % len(both))) for cell in order]
        return [ConfusedPair(one, other, int(both[one, other])) for one, other in pairs if both[one, other] > 0]

    def worst_mistakes(self, most: int) -> NDArray[np.int64]:
        """Return the wrongly predicted rows with the lowest probability of the true class, int64 `[<= most]`."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(self.true_probability[wrong], kind="stable")][:most]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """The scores of one class, and the number of its images."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Two classes by label, `one < other`, and how often either was predicted as the other."""

    one: int
    other: int
    mistakes: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images whose confidence lies in one interval.

    low, high: the interval.
    count: the number of images.
    confidence: their mean confidence.
    accuracy: the fraction of them that is predicted correctly.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(outcomes: Outcomes, bins: int = 10) -> tuple[list[ReliabilityBin], float]:
    """Return the bins of a reliability diagram, and the expected calibration error.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599. Empty bins are left out.
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, outcomes.confidence, side="left") - 1, 0, bins - 1)
    correct = outcomes.predicted == outcomes.labels
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            confidence, accuracy = float(outcomes.confidence[inside].mean()), float(correct[inside].mean())
            found.append(
                ReliabilityBin(float(edges[place]), float(edges[place + 1]), int(inside.sum()), confidence, accuracy)
            )
    error = sum(part.count * abs(part.confidence - part.accuracy) for part in found) / max(len(correct), 1)
    return found, error


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
