"""The methods: how a pool is fitted to calibrated probabilities of members, float32 `[M, N, K]`, and labels `[N]`."""

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
"""Members that the greedy selection takes at most, with replacement: shares of 2 %."""

SHARED_SCALE, OWN_SCALE, BIAS_SCALE = 0.5, 0.1, 0.3
"""Standard deviations of what `stacked` expects: of a member's exponent, of its exponent's for one class, of a bias.

Plain choices, tuned on nothing: half a member, a tenth of one, a third more or less likely."""


def fit_mean(members: Probabilities, labels: Labels) -> Pool:
    """Return the mean of the probabilities."""
    return LinearPool(equal_weights(len(members)))


def fit_geometric(members: Probabilities, labels: Labels) -> Pool:
    """Return the geometric mean of the probabilities."""
    count, _, classes = members.shape
    return LogarithmicPool(np.full((count, classes), 1 / count), np.zeros(classes))


def fit_rank(members: Probabilities, labels: Labels) -> Pool:
    """Return a vote of ranks."""
    return RankPool(equal_weights(len(members)))


def fit_weights(members: Probabilities, labels: Labels) -> Pool:
    """Return the weighted mean with the least log loss.

    Only the probability of the truth matters, and the problem is convex. Under w >= 0, the minimum of
    mean(-log(A w)) + sum(w) has weights that sum to one (Kim et al. 2020, arXiv:1806.01412), so
    bounds are all that the solver has to know of.
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
    """Forward selection on macro F1, with replacement (Caruana et al. 2004, doi:10.1145/1015330.1015432).

    At each step the member is taken that lifts the mean of those taken so far most, or harms it least; of members
    that lift it alike the one with the lower log loss. What is returned is the best of all steps, the first of them.
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
    shares = np.bincount(taken[:best_length], minlength=count) / best_length
    return LinearPool(shares)


def _next_votes(total: Probabilities, members: Probabilities) -> list[Labels]:
    """Return what each member, added to the sum so far, would make of each row: `M` of `[N]`.

    A row whose first class leads the second by more than 1 keeps its class, whatever one more member says: after a few
    steps that is nearly all of them, and the others are all that is computed.
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
    """Logistic regression of the label on the members' log-probabilities, held near the geometric mean.

    The logit of a class is the sum of the members' log-probabilities of that class, each times an exponent, plus a
    bias; an exponent is the member's own plus one of the member for this class. Gaussian priors around the geometric
    mean regularise it, so that with few rows it is that mean, and with many the data speak.
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
        fault = exp / total - one_hot
        value = float((np.log(total[:, 0]) - (logits * one_hot).sum(-1)).sum(dtype=np.float64))
        own = np.einsum("nk,mnk->mk", fault, log_p).astype(np.float64)
        gradient = np.concatenate([own.sum(1), own.ravel(), fault.sum(0, dtype=np.float64)]) * scales
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
"""By name, the simpler ones first."""
