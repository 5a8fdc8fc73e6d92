"""Class offsets: what is added to the log-probabilities of a row before the greatest of them decides.

The most probable class is the best answer for accuracy. For macro F1 it is not: there a rare class is worth naming
where it is only the second most probable. The offsets are -tau times the log of a class's frequency (Menon et al. 2021,
arXiv:2007.07314), with the one tau that the labels at hand reward most. An offset free for each class fits those labels
better and others worse: docs/ensembling.md has figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Labels, Probabilities, macro_f1
from flowers.inference.submission import decide

TAUS = np.linspace(0, 1.5, 31)
"""What is tried: 0 is the most probable class, 1 takes out all that a balanced training would not know."""


def fit_offsets(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return the offsets `[K]` with the highest macro F1 on probabilities `[N, K]`; of equal ones, the smallest."""
    classes = probabilities.shape[1]
    # One row more for each class, so that a class without any has a frequency.
    frequency = (np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes)
    tried = [-tau * np.log(frequency) for tau in TAUS]
    return max(tried, key=lambda offsets: macro_f1(labels, decide(probabilities, offsets), classes))
