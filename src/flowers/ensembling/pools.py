"""Opinion pools: how the members' probabilities `[M, N, K]` of the same rows become one, `[N, K]`.

The three kinds that every method is one of (Genest and Zidek 1986, doi:10.1214/ss/1177013825): a weighted mean, a
weighted geometric mean, and a vote of ranks. Each looks at a row at a time, so any number of rows can be streamed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Probabilities, log_probabilities

TIE_BREAK = np.float32(1e-4)
"""What a probability counts beside a vote: members that contradict each other are ranked by how sure they are."""


@dataclass(frozen=True, slots=True)
class LinearPool:
    """The mean of the members' probabilities, weighted by `weights` `[M]`."""

    weights: NDArray[np.float64]

    def __call__(self, members: Probabilities) -> Probabilities:
        result = np.zeros(members.shape[1:], np.float32)
        for member in np.flatnonzero(self.weights):
            result += np.float32(self.weights[member]) * members[member]
        return _normalised(result)


@dataclass(frozen=True, slots=True)
class LogarithmicPool:
    """The softmax of the members' log-probabilities, weighted by `exponents` `[M, K]`, plus a `bias` `[K]`."""

    exponents: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def weights(self) -> NDArray[np.float64]:
        size = np.abs(self.exponents).mean(axis=1)
        shares: NDArray[np.float64] = size / size.sum()
        return shares

    def __call__(self, members: Probabilities) -> Probabilities:
        logits = np.tile(self.bias.astype(np.float32), (members.shape[1], 1))
        for exponents, member in zip(self.exponents.astype(np.float32), members, strict=True):
            if exponents.any():
                logits += exponents * log_probabilities(member)
        return _normalised(np.exp(logits - logits.max(-1, keepdims=True)))


@dataclass(frozen=True, slots=True)
class RankPool:
    """The mean, weighted by `weights` `[M]`, of 1 / rank: of a class among those of its row, first the most probable.

    A member's vote counts alike, however sure it is. Reciprocal ranks, as in Dowdall's rule, since in a mean of plain
    ranks the order of the classes that nobody believes in outweighs that of the first.
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
        return _normalised(result)


Pool = LinearPool | LogarithmicPool | RankPool
"""Called with the members' probabilities float32 `[M, N, K]` it gives theirs together, float32 `[N, K]`; its `weights`
`[M]` say how much each member counts, one together."""


def equal_weights(members: int) -> NDArray[np.float64]:
    """Return weights `[M]` that count every member alike."""
    return np.full(members, 1 / members)


def _normalised(rows: Probabilities) -> Probabilities:
    result: Probabilities = rows / rows.sum(-1, keepdims=True)
    return result
