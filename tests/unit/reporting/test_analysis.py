"""Prediction sets hold the truth as often as they say, and wrong labels are found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowers.reporting.analysis import CONFIDENCE, prediction_sets, suspected_label_errors
from tests.unit.training.test_outcomes import made


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_sets_hold_the_truth_as_often_as_they_say(sharpness: float) -> None:
    sets = prediction_sets(made(4000, sharpness=sharpness))
    assert sets.coverage == pytest.approx(CONFIDENCE, abs=0.02)
    assert sets.sizes.shape == (4000,)


def test_a_better_model_has_smaller_sets() -> None:
    assert prediction_sets(made(sharpness=4.0)).sizes.mean() < prediction_sets(made(sharpness=1.0)).sizes.mean()


def test_wrong_labels_are_found_first() -> None:
    outcomes = made(600, sharpness=9.0)
    wrong = np.random.default_rng(1).choice(600, 12, replace=False)
    labels = outcomes.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 6
    found = suspected_label_errors(dataclasses.replace(outcomes, labels=labels), 12)
    assert len(set(found.tolist()) & set(wrong.tolist())) >= 11
