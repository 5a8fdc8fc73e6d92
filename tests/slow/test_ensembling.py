"""Intervals cover a known truth as often as they claim, over hundreds of ensembles and validation sets."""

from __future__ import annotations

import numpy as np
import pytest

from flowers.ensembling.scores import estimate_macro_f1
from tests.helpers.simulation import confusion_rows, judged_worlds

CLASSES = 12


def test_the_interval_covers_the_true_score_and_auto_is_no_worse_than_the_best_member() -> None:
    worlds = list(judged_worlds(120, CLASSES))
    assert 0.90 <= np.mean([world.held for world in worlds]) <= 0.99
    assert 0.90 <= np.mean([world.gain_held for world in worlds]) <= 0.99
    assert min(world.margin for world in worlds) > -0.01  # a sixth of the interval's width
    validated = np.mean([world.validated_error for world in worlds])
    assert abs(validated) < 0.005  # unbiased, unlike the fitted score
    assert np.mean([world.fitted_error for world in worlds]) > validated


@pytest.mark.parametrize(
    ("classes", "rows", "accuracy"),
    [(12, 120, 0.95), (12, 240, 0.995), (10, 300, 0.85), (104, 800, 0.9), (104, 800, 0.99)],
)
def test_the_interval_covers_the_truth(classes: int, rows: int, accuracy: float) -> None:
    """Classes may be rare or all predictions right, where plain percentiles cover only 0.64 and 0."""
    rng = np.random.default_rng(classes + rows)
    held = []
    for _ in range(150):
        labels, predicted, truth = confusion_rows(rng, classes, rows, accuracy)
        estimate = estimate_macro_f1(labels, predicted, classes, resamples=400, seed=0)
        held.append(estimate.low <= truth <= estimate.high)
    assert np.mean(held) >= 0.9
