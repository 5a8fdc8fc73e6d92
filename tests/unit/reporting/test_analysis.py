"""Prediction sets have their nominal coverage, and wrong labels are found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowers.reporting.analysis import CONFIDENCE, prediction_sets, suspected_label_errors
from flowers.training.outcomes import Outcomes
from tests.unit.training.test_outcomes import make_outcomes


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_prediction_sets_have_their_nominal_coverage(sharpness: float) -> None:
    sets = prediction_sets(make_outcomes(4000, sharpness=sharpness))
    assert sets is not None
    assert sets.coverage == pytest.approx(CONFIDENCE, abs=0.02)
    assert sets.sizes.shape == (4000,)


def test_a_better_model_has_smaller_sets() -> None:
    better, worse = (prediction_sets(make_outcomes(sharpness=sharpness)) for sharpness in (4.0, 1.0))
    assert better and worse and better.sizes.mean() < worse.sizes.mean()


def test_wrong_labels_are_found_first() -> None:
    outcomes = make_outcomes(600, sharpness=9.0)
    wrong = np.random.default_rng(1).choice(600, 12, replace=False)
    labels = outcomes.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 6
    found = suspected_label_errors(dataclasses.replace(outcomes, labels=labels), 12)
    assert len(set(found.tolist()) & set(wrong.tolist())) >= 11


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("rows", "classes"), [(1, 3), (2, 2), (9, 1), (30, 7)])
def test_few_images_or_classes_are_no_error(rows: int, classes: int) -> None:
    labels = np.arange(rows) % classes
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), rows).astype(np.float32)
    outcomes = Outcomes([""] * rows, labels, labels, probabilities, [str(label) for label in range(classes)])
    sets = prediction_sets(outcomes)
    assert (sets is None) == (rows == 1)
    assert len(suspected_label_errors(outcomes, 5)) <= 5
    assert len(outcomes.class_scores()) == classes
