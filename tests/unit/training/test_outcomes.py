"""The scores of predictions match scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from flowers.interfaces import NO_LABEL
from flowers.training.collect_outcomes import _gather, _join, _ValidationBatch
from flowers.training.outcomes import Outcomes, reliability

NAMES = [f"class {label}" for label in range(7)]


def make_outcomes(rows: int = 300, seed: int = 0, classes: int = 7, sharpness: float = 2.0) -> Outcomes:
    """Return outcomes of a model that is often right. Class 6 is never a label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += sharpness
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Outcomes([f"{row:x}" for row in range(rows)], np.arange(rows), labels, probabilities, NAMES[:classes])


def test_scores_match_scikit_learn() -> None:
    outcomes = make_outcomes()
    expected = precision_recall_fscore_support(outcomes.labels, outcomes.predicted, labels=range(7), zero_division=0.0)
    for label, score in enumerate(outcomes.class_scores()):
        assert (score.name, score.count) == (NAMES[label], expected[3][label])
        assert (score.precision, score.recall, score.f1) == pytest.approx([part[label] for part in expected[:3]])
    assert (outcomes.confusion == confusion_matrix(outcomes.labels, outcomes.predicted, labels=range(7))).all()


def test_confused_pairs_count_both_directions() -> None:
    labels = np.array([0, 0, 1, 2, 2, 2, 3])
    predicted = np.array([1, 1, 0, 3, 2, 2, 3])
    outcomes = Outcomes(list("abcdefg"), np.arange(7), labels, np.eye(4, dtype=np.float32)[predicted], NAMES[:4])
    assert [(pair.one, pair.other, pair.mistakes) for pair in outcomes.confused_pairs(9)] == [(0, 1, 3), (2, 3, 1)]
    assert len(outcomes.confused_pairs(1)) == 1


def test_the_worst_mistakes_give_the_truth_the_lowest_probability() -> None:
    outcomes = make_outcomes()
    rows = outcomes.worst_mistakes(10)
    assert (outcomes.predicted[rows] != outcomes.labels[rows]).all()
    wrong = outcomes.true_probability[outcomes.predicted != outcomes.labels]
    np.testing.assert_array_equal(outcomes.true_probability[rows], np.sort(wrong)[:10])


def test_a_calibrated_model_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000).astype(np.float32)
    labels = (rng.random(200_000) > confidence).astype(np.int64)  # class 0 as often as predicted
    outcomes = Outcomes([""] * 200_000, labels, labels, np.stack([confidence, 1 - confidence], axis=1), NAMES[:2])
    bins, error = reliability(outcomes)
    assert error < 0.01
    assert sum(part.count for part in bins) == 200_000
    assert all(part.low <= part.confidence <= part.high for part in bins)


def test_the_calibration_error_of_an_overconfident_model_is_its_excess() -> None:
    labels = np.array([0, 1] * 50)
    probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (100, 1))
    _, error = reliability(Outcomes([""] * 100, labels, labels, probabilities, NAMES[:2]))
    assert error == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_rows_of_all_processes_are_in_the_order_of_one_process(ranks: int) -> None:
    logits = torch.randn(12, 4)
    labels = torch.arange(12) % 4
    labels[7] = NO_LABEL
    parts = []
    for rank in range(ranks):
        rows = torch.arange(rank, 12, ranks)
        batches = [
            _ValidationBatch([str(int(row)) for row in part], labels[part], part != 5, logits[part])
            for part in rows.split(2)
        ]
        parts.append(_join(batches, rank, ranks))
    assert sum(len(part.ids) for part in parts) == 10
    outcomes = _gather(parts, NAMES[:4])
    valid_rows = [row for row in range(12) if row not in (5, 7)]  # 5: padding, or a record that could not be read
    assert list(outcomes.ids) == [str(row) for row in valid_rows]
    assert outcomes.places.tolist() == valid_rows
    assert outcomes.labels.tolist() == [row % 4 for row in valid_rows]
    np.testing.assert_allclose(outcomes.probabilities, logits[valid_rows].softmax(dim=1), rtol=1e-5)
