"""Combine the members' probabilities `[M, N, K]` into one `[N, K]` with opinion pools.

Every method uses one of three pools: a weighted mean, a weighted geometric mean, or a vote of ranks (Genest and Zidek
1986, doi:10.1214/ss/1177013825). Each row is combined on its own, so any number of rows can be streamed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Probabilities, log_probabilities

TIE_BREAK = np.float32(1e-4)
"""The weight of a probability beside a vote of ranks: where the votes are equal, the more confident member wins."""


@dataclass(frozen=True, slots=True)
class LinearPool:
    """The mean of the members' probabilities, weighted by `weights` `[M]`."""

    weights: NDArray[np.float64]

    def __call__(self, members: Probabilities) -> Probabilities:
        result = np.zeros(members.shape[1:], np.float32)
        for member in np.flatnonzero(self.weights):
            result += np.float32(self.weights[member]) * members[member]
        return _normalise(result)


@dataclass(frozen=True, slots=True)
class LogarithmicPool:
    """The softmax of the members' log-probabilities, weighted by `exponents` `[M, K]`, plus a `bias` `[K]`."""

    exponents: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Return each member's mean absolute exponent, scaled to sum to one, float64 `[M]`."""
        size = np.abs(self.exponents).mean(axis=1)
        weights: NDArray[np.float64] = size / size.sum()
        return weights

    def __call__(self, members: Probabilities) -> Probabilities:
        logits = np.tile(self.bias.astype(np.float32), (members.shape[1], 1))
        for exponents, member in zip(self.exponents.astype(np.float32), members, strict=True):
            if exponents.any():
                logits += exponents * log_probabilities(member)
        return _normalise(np.exp(logits - logits.max(-1, keepdims=True)))


@dataclass(frozen=True, slots=True)
class RankPool:
    """The mean of the classes' reciprocal ranks in each member, weighted by `weights` `[M]`.

    A member's most probable class has rank 1. Its vote does not depend on its confidence. The ranks are reciprocal, as
    in the Dowdall system: in a mean of plain ranks, the order of the least probable classes would outweigh the first.
    """

    weights: NDArray[np.float64]

    def __call__(self, members: Probabilities) -> Probabilities:
        result = np.zeros(members.shape[1:], np.float32)
        votes = (1 / np.arange(1, members.shape[2] + 1)).astype(np.float32)
        for member in np.flatnonzero(self.weights):
            order = np.argsort(-members[member], axis=1, kind="stable")
            vote = np.empty_like(result)
            np.put_along_axis(vote, order, np.broadcast_to(votes, vote.shape), axis=1)
            result += np.float32(self.weights[member]) * (vote + TIE_BREAK * members[member])
        return _normalise(result)


Pool = LinearPool | LogarithmicPool | RankPool
"""Any pool. It is called with the members' probabilities float32 `[M, N, K]`, and returns the combined ones, float32
`[N, K]`. Its `weights` `[M]` sum to one, and are the members' parts in the result."""


def equal_weights(members: int) -> NDArray[np.float64]:
    """Return equal weights that sum to one, float64 `[M]`."""
    return np.full(members, 1 / members)


def _normalise(rows: Probabilities) -> Probabilities:
    result: Probabilities = rows / rows.sum(-1, keepdims=True)
    return result
