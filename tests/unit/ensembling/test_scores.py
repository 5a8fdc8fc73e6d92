"""Scores match scikit-learn's, and their intervals narrow with more rows."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from flowers.ensembling.scores import SMALLEST, estimate_gain, estimate_macro_f1, log_loss, macro_f1


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_macro_f1_matches_scikit_learn(rows: int) -> None:
    rng = np.random.default_rng(rows)
    labels, predicted = rng.integers(0, 30, rows), rng.integers(0, 12, rows)  # some classes occur in one, or in neither
    assert macro_f1(labels, predicted, 40) == pytest.approx(
        sklearn.metrics.f1_score(labels, predicted, average="macro")
    )
    assert estimate_macro_f1(labels, predicted, 40, resamples=100, seed=0).value == pytest.approx(
        macro_f1(labels, predicted, 40), rel=1e-6
    )


def test_log_loss_matches_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 5, 100), rng.dirichlet(np.ones(5), 100).astype(np.float32)
    assert log_loss(labels, probabilities) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities, labels=range(5)), rel=1e-5
    )


def test_zero_probability_for_the_true_class_gives_a_finite_loss() -> None:
    assert log_loss(np.array([1]), np.array([[1, 0]], np.float32)) == pytest.approx(-np.log(SMALLEST))


def test_the_interval_narrows_with_the_square_root_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for rows in (400, 1600, 6400):
        labels = rng.integers(0, 8, rows)
        predicted = np.where(rng.random(rows) < 0.8, labels, rng.integers(0, 8, rows))
        estimate = estimate_macro_f1(labels, predicted, 8, resamples=2000, seed=0)
        widths.append(estimate.high - estimate.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.15)


def test_a_perfect_score_has_an_interval() -> None:
    labels = np.arange(120) % 12
    estimate = estimate_macro_f1(labels, labels, 12, resamples=1000, seed=0)
    assert estimate.value == estimate.high == 1
    # Rule of three: with no error in N rows, an error rate of up to 3 / N is likely.
    assert 1 - 6 / 120 < estimate.low < 1 - 1 / 120


def test_a_gain_is_paired() -> None:
    """Two predictions with mostly the same errors differ far less from each other than from the truth."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    reference = np.where(rng.random(2000) < 0.8, labels, 0)
    better = reference.copy()
    wrong = np.flatnonzero(reference != labels)[:60]
    better[wrong] = labels[wrong]
    gain = estimate_gain(labels, better, reference, 10, resamples=1000, seed=0)
    alone = estimate_macro_f1(labels, better, 10, resamples=1000, seed=0)
    assert gain.value == pytest.approx(macro_f1(labels, better, 10) - macro_f1(labels, reference, 10), abs=1e-6)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < (alone.high - alone.low) / 2
    nothing = estimate_gain(labels, reference, reference, 10, resamples=1000, seed=0)
    assert nothing.low < nothing.value == 0 < nothing.high


def test_the_same_seed_gives_the_same_interval() -> None:
    labels = np.arange(50) % 5
    predicted = np.where(np.arange(50) % 7, labels, 0)
    intervals = [estimate_macro_f1(labels, predicted, 5, resamples=200, seed=seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]
