"""Temperatures equal those that an optimiser finds, for any part of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from flowers.ensembling.calibration import Temperatures, calibrate
from flowers.ensembling.scores import log_loss, log_probabilities
from tests.helpers.simulation import World


def test_temperatures_match_an_optimiser() -> None:
    rng = np.random.default_rng(0)
    labels, members = World.random(rng, 8, 4).draw(rng, 600)
    log_p = log_probabilities(members)
    parts = np.arange(600) % 3
    temperatures = Temperatures(log_p, labels, parts)
    for excluded in ((), (1,), (0, 2)):
        rows = ~np.isin(parts, excluded)
        for member, found in zip(log_p[:, rows].astype(np.float64), temperatures.fit(excluded), strict=True):

            def loss(sharpness: float, member: np.ndarray = member, rows: np.ndarray = rows) -> float:
                return -log_softmax(sharpness * member, axis=1)[np.arange(rows.sum()), labels[rows]].mean()

            best = minimize_scalar(loss, bounds=(1 / 16, 16), method="bounded")
            assert 1 / found == pytest.approx(best.x, rel=0.01)
            assert loss(1 / found) == pytest.approx(best.fun, rel=1e-4)


def test_calibration_corrects_an_overconfident_member() -> None:
    # Probabilities sharpened by a known power are recovered.
    rng = np.random.default_rng(1)
    truth = rng.dirichlet(np.full(6, 0.5), 20000)
    labels = (rng.random(20000)[:, None] > truth.cumsum(1)).sum(1).clip(max=5)
    overconfident = truth**3 / (truth**3).sum(1, keepdims=True)
    log_p = log_probabilities(overconfident.astype(np.float32))[None]
    temperature = Temperatures(log_p, labels, np.zeros(len(labels), np.int64)).fit()
    assert temperature == pytest.approx([3], rel=0.05)
    calibrated_log_p = calibrate(log_p, temperature)[0]
    assert log_loss(labels, calibrated_log_p) < log_loss(labels, overconfident.astype(np.float32))
    assert log_loss(labels, calibrated_log_p) == pytest.approx(log_loss(labels, truth.astype(np.float32)), rel=0.01)


def test_calibration_keeps_the_order_of_classes_and_sums_to_one() -> None:
    rng = np.random.default_rng(2)
    members = rng.dirichlet(np.ones(7), (3, 5000)).astype(np.float32)  # more rows than one block
    found = calibrate(log_probabilities(members), np.array([0.1, 1.0, 9.0]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), members.argmax(-1))
    np.testing.assert_allclose(found[1], members[1], rtol=1e-4, atol=1e-7)


def test_a_perfect_member_gets_a_finite_temperature() -> None:
    labels = np.arange(40) % 4
    log_p = log_probabilities(np.eye(4, dtype=np.float32)[labels])[None]
    temperatures = Temperatures(log_p, labels, labels).fit()
    assert np.isfinite(temperatures).all() and (temperatures > 0).all()


def test_a_uniform_member_over_many_classes_stays_uniform() -> None:
    labels = np.arange(900) % 900
    log_p = log_probabilities(np.full((1, 900, 900), 1 / 900, np.float32))
    temperatures = Temperatures(log_p, labels, np.zeros(900, np.int64)).fit()
    for temperature in (temperatures, np.array([1 / 16])):
        np.testing.assert_allclose(calibrate(log_p, temperature), 1 / 900, rtol=1e-4)
