"""The blending methods agree with other optimisers and with an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from flowers.ensembling.methods import (
    BIAS_SCALE,
    GREEDY_STEPS,
    METHODS,
    OWN_SCALE,
    SHARED_SCALE,
    Method,
    fit_greedy,
    fit_stacked,
    fit_weights,
)
from flowers.ensembling.scores import Labels, Probabilities, log_loss, log_probabilities, macro_f1
from tests.helpers.simulation import World


def draw_members(rows: int, classes: int = 6, members: int = 4, seed: int = 0) -> tuple[Labels, Probabilities]:
    rng = np.random.default_rng(seed)
    return World.random(rng, classes, members).draw(rng, rows)


def test_weights_minimise_the_log_loss_on_the_simplex() -> None:
    labels, members = draw_members(800)
    truth = members[:, np.arange(800), labels].astype(np.float64)

    def loss(weights: np.ndarray) -> float:
        return -np.log(weights @ truth).mean()

    start = np.full(4, 0.25)
    bounds, one = [(0, 1)] * 4, {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    best = minimize(loss, start, method="SLSQP", bounds=bounds, constraints=[one], options={"ftol": 1e-12})
    weights = fit_weights(members, labels).weights
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert loss(weights) <= best.fun + 1e-6
    np.testing.assert_allclose(weights, best.x, atol=2e-3)


def test_a_guessing_member_gets_almost_no_weight() -> None:
    labels, members = draw_members(2000)
    noise = np.random.default_rng(1).dirichlet(np.ones(6), 2000).astype(np.float32)
    assert fit_weights(np.concatenate([members, noise[None]]), labels).weights[-1] < 0.01


def test_greedy_is_forward_selection() -> None:
    """A plain, slow implementation selects the same members equally often."""
    labels, members = draw_members(300)
    best, best_taken, taken = (-1.0, -np.inf), list[int](), list[int]()
    total = np.zeros_like(members[0])
    for _ in range(GREEDY_STEPS):
        sums = [total + member for member in members]
        merits = [(macro_f1(labels, each.argmax(1), 6), -log_loss(labels, each / (len(taken) + 1))) for each in sums]
        winner = max(range(4), key=merits.__getitem__)
        taken.append(winner)
        total = sums[winner]
        if merits[winner] > best:
            best, best_taken = merits[winner], list(taken)
    fractions = np.bincount(best_taken, minlength=4) / len(best_taken)
    assert 0 < fractions.max() < 1  # more than one member is selected
    np.testing.assert_allclose(fit_greedy(members, labels).weights, fractions)


def test_greedy_is_at_least_as_good_as_the_best_member_on_its_rows() -> None:
    for seed in range(5):
        labels, members = draw_members(200, seed=seed)
        blended = macro_f1(labels, fit_greedy(members, labels)(members).argmax(1), 6)
        assert blended >= max(macro_f1(labels, member.argmax(1), 6) for member in members) - 1e-12


def test_stacked_matches_scikit_learn_without_a_penalty() -> None:
    """With two classes and one member, the model is a logistic regression on the log-odds."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 60000)
    odds = 1.5 * (2 * labels - 1) + rng.normal(size=60000) * 1.2 + 0.4
    first = 1 / (1 + np.exp(odds))
    members = np.stack([first, 1 - first], axis=1)[None].astype(np.float32)
    found = fit_stacked(members, labels)(members)
    features = np.log(members[0, :, 1] / members[0, :, 0])[:, None]
    expected = LogisticRegression(C=1e6).fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_stacked_maximises_its_posterior() -> None:
    """The same model is fitted from its definition in double precision, by another optimiser without our gradient."""
    labels, members = draw_members(150, classes=4, members=3)
    log_p = log_probabilities(members).astype(np.float64)
    shapes = (3, 1), (3, 4), (4,)
    scales = (SHARED_SCALE, OWN_SCALE, BIAS_SCALE)

    def parts(parameters: np.ndarray) -> list[np.ndarray]:
        cut = np.split(parameters, [3, 15])
        return [part.reshape(shape) for part, shape in zip(cut, shapes, strict=True)]

    def blended(parameters: np.ndarray) -> np.ndarray:
        shared, own, bias = parts(parameters)
        return log_softmax(((1 / 3 + shared + own)[:, None] * log_p).sum(0) + bias, axis=1)

    def loss(parameters: np.ndarray) -> float:
        prior = sum((part**2).sum() / (2 * scale**2) for part, scale in zip(parts(parameters), scales, strict=True))
        return prior - blended(parameters)[np.arange(150), labels].sum()

    best = minimize(loss, np.zeros(19), method="BFGS", options={"gtol": 1e-4})
    found = fit_stacked(members, labels)(members)
    np.testing.assert_allclose(found, np.exp(blended(best.x)), atol=2e-3)
    assert np.abs(found - METHODS["geometric"](members, labels)(members)).max() > 0.05


def test_stacked_corrects_a_class_that_is_predicted_too_rarely() -> None:
    """A constant for each class corrects members that ignore how rare a class is."""
    labels, members = draw_members(4000)
    skewed = members * np.array([1, 1, 1, 1, 1, 0.02], np.float32)
    skewed /= skewed.sum(-1, keepdims=True)
    blended = {method: METHODS[method](skewed, labels)(skewed) for method in ("mean", "geometric", "stacked")}
    losses = {method: log_loss(labels, each) for method, each in blended.items()}
    assert losses["stacked"] < min(losses["mean"], losses["geometric"]) - 0.02


@pytest.mark.parametrize("method", METHODS)
def test_any_method_accepts_zero_probabilities_and_a_single_member(method: Method) -> None:
    labels = np.arange(30) % 3
    certain = np.eye(3, dtype=np.float32)[labels]
    wrong = np.eye(3, dtype=np.float32)[(labels + 1) % 3]
    for members in (certain[None], np.stack([certain, wrong])):
        blended = METHODS[method](members, labels)(members)
        assert np.isfinite(log_probabilities(blended)).all()
        np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(METHODS[method](certain[None], labels)(certain[None]).argmax(1), labels)
