"""A metric over folds has the mean, standard deviation and interval of a sample."""

from __future__ import annotations

import numpy as np
import pytest

from flowers.cross_validation.spread import spread, spreads


def test_the_interval_is_that_of_students_t() -> None:
    own = spread([0.1, 0.2, 0.3])
    assert (own.mean, own.deviation) == (pytest.approx(0.2), pytest.approx(0.1))
    half = 4.302653 * 0.1 / 3**0.5  # the table's value for 95 % and two degrees of freedom
    assert (own.low, own.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))


def test_the_interval_of_independent_values_holds_the_mean_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(0)
    own = [spread(values) for values in rng.normal(size=(4000, 5)).tolist()]
    assert np.mean([each.low <= 0 <= each.high for each in own]) == pytest.approx(0.95, abs=0.012)


def test_only_metrics_that_all_folds_have_are_summarised() -> None:
    folds = [{"val/loss": 1.0, "val/nan": None, "train/loss": 1.0}, {"val/loss": 3.0, "val/nan": 1.0}]
    assert set(spreads(folds)) == {"val/loss"}
    assert spreads(folds)["val/loss"].mean == 2.0
