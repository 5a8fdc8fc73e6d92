"""Fit class offsets, which are added to a row's log-probabilities before the class with the highest sum is chosen.

The most probable class is the best decision for accuracy, but not for macro F1. For macro F1 it can be better to choose
a rare class that is only the second most probable. The offsets are -tau times the log of the class frequency (Menon et
al. 2021, arXiv:2007.07314), with the tau that has the highest macro F1 on the labels at hand. A free offset for each
class fits these labels better, and unseen ones worse: docs/ensembling.md has the measurements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Labels, Probabilities, macro_f1
from flowers.inference.submission import decide

TAUS = np.linspace(0, 1.5, 31)
"""The values to try: 0 decides for the most probable class, 1 removes the class frequencies altogether."""


def fit_offsets(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the offsets with the highest macro F1, float64 `[K]`; among equals, the smallest.

    Args:
        probabilities: float32 `[N, K]`.
        labels: int64 `[N]`.
    """
    classes = probabilities.shape[1]
    # One more row for each class, so that no frequency is zero.
    frequency = (np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes)
    tried = [-tau * np.log(frequency) for tau in TAUS]
    return max(tried, key=lambda offsets: macro_f1(labels, decide(probabilities, offsets), classes))
