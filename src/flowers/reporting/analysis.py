"""Compute prediction sets and suspected label errors. The libraries take seconds to import."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from cleanlab.filter import find_label_issues
from crepes import ConformalClassifier
from crepes.extras import hinge
from numpy.typing import NDArray

from flowers.training.outcomes import Outcomes

CONFIDENCE = 0.9
"""The fraction of images whose prediction set should contain the true class."""


@dataclass(frozen=True, slots=True)
class PredictionSets:
    """Conformal prediction sets of a labelled split.

    sizes: the number of classes in each image's set, int64 `[N]`.
    coverage: the fraction of sets that contain the true class.
    """

    sizes: NDArray[np.int64]
    coverage: float


def prediction_sets(outcomes: Outcomes, seed: int = 0) -> PredictionSets | None:
    """Return the prediction sets of a split, or None for a single image. Each half is calibrated on the other half.

    Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World"; with the library crepes.
    """
    rows = len(outcomes.labels)
    if rows <= 1:
        return None
    halves = np.array_split(np.random.default_rng(seed).permutation(rows), 2)
    classes = np.arange(len(outcomes.class_names))
    sizes, covered = np.zeros(rows, np.int64), np.zeros(rows, bool)
    for own, other in (halves, halves[::-1]):
        classifier = ConformalClassifier()
        classifier.fit(hinge(outcomes.probabilities[other], classes, outcomes.labels[other]), seed=seed)
        sets = classifier.predict_set(hinge(outcomes.probabilities[own]), confidence=CONFIDENCE)
        sizes[own] = sets.sum(axis=1)
        covered[own] = sets[np.arange(len(own)), outcomes.labels[own]] == 1
    return PredictionSets(sizes, float(covered.mean()))


def suspected_label_errors(outcomes: Outcomes, most: int) -> NDArray[np.int64]:
    """Return the rows whose labels are probably wrong, the most suspicious first, int64 `[<= most]`.

    The model must not be trained on these images. Northcutt, Jiang and Chuang 2021, "Confident Learning",
    doi:10.1613/jair.1.12125; with the library cleanlab.
    """
    present = np.unique(outcomes.labels)  # cleanlab requires images of every class
    if len(present) <= 1:
        return np.empty(0, np.int64)
    labels = np.searchsorted(present, outcomes.labels)
    probabilities = outcomes.probabilities[:, present].astype(np.float64)
    probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with few images
        rows: NDArray[np.int64] = find_label_issues(
            labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    return rows[:most]
