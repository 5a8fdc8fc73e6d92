"""The label of a row has no influence on its own prediction."""

from __future__ import annotations

import numpy as np
import pytest

from flowers.data.folds import assign_folds
from flowers.ensembling.calibration import calibrate
from flowers.ensembling.methods import METHODS, Method
from flowers.ensembling.scores import Labels, Probabilities, log_probabilities
from flowers.ensembling.validation import Blend, Rows, choose, cross_validate, cross_validate_choice
from tests.helpers.simulation import World

ALL: list[Method] = list(METHODS)


def draw_members(rows: int = 240) -> tuple[Labels, Probabilities, Labels]:
    rng = np.random.default_rng(0)
    labels, members = World.random(rng, 6, 3).draw(rng, rows)
    return labels, members, assign_folds([str(row) for row in range(rows)], labels, folds=4, seed=0)


def test_the_labels_of_a_fold_do_not_affect_its_predictions() -> None:
    """Changing the labels of one fold changes the predictions for the other folds, and not for this one."""
    labels, members, folds = draw_members()
    changed = np.where(folds == 1, (labels + 1) % 6, labels)
    found = []
    for each in (labels, changed):
        rows = Rows(log_probabilities(members), each, folds)
        validated = cross_validate(rows, ALL)
        found.append({**validated, "auto": cross_validate_choice(rows, validated, offsets=True)})
    own, others = folds == 1, folds != 1
    for name in found[0]:
        before, after = found[0][name], found[1][name]
        np.testing.assert_array_equal(before.probabilities[own], after.probabilities[own])
        np.testing.assert_array_equal(before.predicted[own], after.predicted[own])
    for name in ("mean", "weights", "stacked", "auto"):  # the mean changes through its temperatures
        assert not np.allclose(found[0][name].probabilities[others], found[1][name].probabilities[others])


@pytest.mark.parametrize("method", ALL)
def test_a_fold_is_predicted_by_a_fit_on_the_other_folds(method: Method) -> None:
    labels, members, folds = draw_members()
    log_p = log_probabilities(members)
    validated = cross_validate(Rows(log_p, labels, folds), [method])[method]
    for fold in range(4):
        others, held_out = folds != fold, folds == fold
        alone = Rows(log_p[:, others], labels[others], np.unique(folds[others], return_inverse=True)[1])
        pool = alone.fit([method])[method]
        expected = pool(Rows(log_p, labels, folds).calibrate(held_out, {fold}))
        np.testing.assert_allclose(validated.probabilities[held_out], expected, atol=1e-5)


def test_each_fit_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, members, folds = draw_members()
    calls = []

    def count_fit(calibrated: Probabilities, known: Labels) -> object:
        calls.append(len(known))
        return METHODS["mean"](calibrated, known)

    monkeypatch.setitem(METHODS, "weights", count_fit)
    rows = Rows(log_probabilities(members), labels, folds)
    validated = cross_validate(rows, ["weights"])
    cross_validate_choice(rows, validated, offsets=True)
    assert len(calls) == 4 + 6  # fits with one fold left out, and with two


def test_the_choice_is_by_macro_f1_then_log_loss_then_simplicity() -> None:
    labels = np.array([0, 1, 0, 1])
    right = np.array([[0.9, 0.1], [0.1, 0.9]] * 2, np.float32)
    unsure = np.array([[0.6, 0.4], [0.4, 0.6]] * 2, np.float32)
    wrong = right[:, ::-1]
    assert choose({"mean": wrong, "rank": unsure, "greedy": right}, labels) == "greedy"
    assert choose({"mean": unsure, "rank": right}, labels) == "rank"
    assert choose({"mean": right, "rank": right}, labels) == "mean"


def test_a_missing_row_is_replaced_by_the_mean_of_the_other_members() -> None:
    """The mean is taken over calibrated probabilities, and is not calibrated again."""
    labels, members, folds = draw_members()
    rows = Rows(log_probabilities(members), labels, folds)
    blend = Blend(np.array([0.2, 1.0, 3.0]), rows.fit(["stacked"])["stacked"])
    there = np.ones((3, len(labels)), bool)
    there[0, 5] = there[1, 6] = there[2, 6] = False
    lacking = np.where(there[..., None], members, 0)
    found = blend(log_probabilities(lacking), there)
    own = calibrate(rows.log_p, blend.temperatures)
    filled = own.copy()
    filled[0, 5] = (own[1, 5] + own[2, 5]) / 2
    filled[1, 6] = filled[2, 6] = own[0, 6]
    np.testing.assert_allclose(found, blend.pool(filled), rtol=1e-5)
    np.testing.assert_array_equal(blend(rows.log_p), blend(rows.log_p, np.ones((3, len(labels)), bool)))
