"""Fit a pool to the members' calibrated probabilities, float32 `[M, N, K]`, and labels, int64 `[N]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from flowers.ensembling.pools import LinearPool, LogarithmicPool, Pool, RankPool, equal_weights
from flowers.ensembling.scores import SMALLEST, Labels, Probabilities, log_probabilities, macro_f1

Method = Literal["mean", "geometric", "rank", "weights", "greedy", "stacked"]
Fit = Callable[[Probabilities, Labels], Pool]

GREEDY_STEPS = 50
"""The most members that the greedy selection takes, with replacement: each gets a weight of at least 2 %."""

SHARED_SCALE, OWN_SCALE, BIAS_SCALE = 0.5, 0.1, 0.3
"""Standard deviations of the priors of `stacked`: of a member's exponent, of its deviation for one class, of a bias.

Chosen without tuning: half a member, a tenth of a member, and a class that is a third more or less likely."""


def fit_mean(members: Probabilities, labels: Labels) -> Pool:
    """Return a pool that takes the mean of the probabilities."""
    return LinearPool(equal_weights(len(members)))


def fit_geometric(members: Probabilities, labels: Labels) -> Pool:
    """Return a pool that takes the geometric mean of the probabilities."""
    count, _, classes = members.shape
    return LogarithmicPool(np.full((count, classes), 1 / count), np.zeros(classes))


def fit_rank(members: Probabilities, labels: Labels) -> Pool:
    """Return a pool that takes a vote of ranks."""
    return RankPool(equal_weights(len(members)))


def fit_weights(members: Probabilities, labels: Labels) -> Pool:
    """Fit the weighted mean with the lowest log loss.

    Only the probabilities of the true classes matter, and the problem is convex. Under w >= 0, the minimum of
    mean(-log(A w)) + sum(w) has weights that sum to one (Kim et al. 2020, arXiv:1806.01412). Therefore the solver
    needs bounds, but no constraint on the sum.
    """
    truth = members[:, np.arange(len(labels)), labels].T.astype(np.float64)
    truth = np.maximum(truth, SMALLEST)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed = truth @ weights
        return -np.log(mixed).mean() + weights.sum(), 1 - truth.T @ (1 / mixed) / len(mixed)

    start = equal_weights(len(members))
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8}
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(1e-12, None)] * len(start), options=options)
    weights = np.where(solution.x > 1e-6, solution.x, 0.0)
    return LinearPool(weights / weights.sum())


def fit_greedy(members: Probabilities, labels: Labels) -> Pool:
    """Select members forward by macro F1, with replacement (Caruana et al. 2004, doi:10.1145/1015330.1015432).

    Each step takes the member with which the mean of all taken members has the highest macro F1; log loss breaks ties.
    The result is the mean of the best step, or of the first of equally good ones.
    """
    count, rows, classes = members.shape
    truth = np.maximum(members[:, np.arange(rows), labels], SMALLEST)
    total = np.zeros((rows, classes), np.float32)
    total_truth = np.zeros(rows, np.float32)
    votes = [member.argmax(-1) for member in members]
    taken: list[int] = []
    best, best_length = (-1.0, -np.inf), 0
    for step in range(1, GREEDY_STEPS + 1):
        scores = [
            (macro_f1(labels, vote, classes), float(np.log((total_truth + own) / step).mean()))
            for vote, own in zip(votes, truth, strict=True)
        ]
        winner = max(range(count), key=scores.__getitem__)
        taken.append(winner)
        total += members[winner]
        total_truth += truth[winner]
        if scores[winner] > best:
            best, best_length = scores[winner], step
        votes = _next_votes(total, members)
    weights = np.bincount(taken[:best_length], minlength=count) / best_length
    return LinearPool(weights)


def _next_votes(total: Probabilities, members: Probabilities) -> list[Labels]:
    """Return the decisions int64 `[N]` with each of the `M` members added to the sum so far.

    A row whose first class leads the second by more than 1 keeps its class with any further member. After a few steps
    that is true of nearly all rows. Only the other rows are computed.
    """
    second, first = np.partition(total, -2, axis=-1)[:, -2:].T
    open_rows = np.flatnonzero(first - second <= 1)
    standing = total.argmax(-1)
    undecided = total[open_rows]
    votes = []
    for member in members:
        vote = standing.copy()
        vote[open_rows] = (undecided + member[open_rows]).argmax(-1)
        votes.append(vote)
    return votes


def fit_stacked(members: Probabilities, labels: Labels) -> Pool:
    """Fit a logistic regression of the label on the members' log-probabilities, regularised to the geometric mean.

    The logit of a class is a bias plus the sum of the members' log-probabilities of that class, each times an exponent.
    The exponent is the sum of the member's own and one of the member for this class. The priors are Gaussian around
    the geometric mean: with few rows the fit is close to that mean, with many it follows the data.
    """
    count, rows, classes = members.shape
    log_p = log_probabilities(members)
    one_hot = np.zeros((rows, classes), np.float32)
    one_hot[np.arange(rows), labels] = 1
    scales = np.concatenate(
        [np.full(count, SHARED_SCALE), np.full(count * classes, OWN_SCALE), np.full(classes, BIAS_SCALE)]
    )

    def exponents(parameters: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shared, own, bias = np.split(parameters * scales, [count, count + count * classes])
        return 1 / count + shared[:, None] + own.reshape(count, classes), bias

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = exponents(parameters)
        logits = np.einsum("mk,mnk->nk", weights.astype(np.float32), log_p) + bias.astype(np.float32)
        logits -= logits.max(-1, keepdims=True)
        exp = np.exp(logits)
        total = exp.sum(-1, keepdims=True)
        residual = exp / total - one_hot
        value = float((np.log(total[:, 0]) - (logits * one_hot).sum(-1)).sum(dtype=np.float64))
        own = np.einsum("nk,mnk->mk", residual, log_p).astype(np.float64)
        gradient = np.concatenate([own.sum(1), own.ravel(), residual.sum(0, dtype=np.float64)]) * scales
        return value + 0.5 * float(parameters @ parameters), gradient + parameters

    solution = minimize(
        loss, np.zeros(len(scales)), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-8}
    )
    return LogarithmicPool(*exponents(solution.x))


METHODS: dict[Method, Fit] = {
    "mean": fit_mean,
    "geometric": fit_geometric,
    "rank": fit_rank,
    "weights": fit_weights,
    "greedy": fit_greedy,
    "stacked": fit_stacked,
}
"""The methods by name, the simplest first."""
