"""Opinion pools: how the members' probabilities `[M, N, K]` of the same rows become one, `[N, K]`.

The three kinds that every method is one of (Genest and Zidek 1986, doi:10.1214/ss/1177013825): a weighted mean, a
weighted geometric mean, and a vote of ranks. Each looks at a row at a time, so any number of rows can be streamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Probabilities, log_probabilities

TIE_BREAK = np.float32(1e-4)
"""What a probability counts beside a vote: members that contradict each other are told apart by how sure they are."""


class Pool(Protocol):
    """Members' probabilities to one."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """How much each member counts, `[M]`, one together."""
        ...

    def __call__(self, members: Probabilities) -> Probabilities:
        """Probabilities float32 `[N, K]` from those of the members, float32 `[M, N, K]`."""
        ...

    def without(self, member: int) -> Pool:
        """The pool with one member that does not count, the others weighted among themselves as before."""
        ...


@dataclass(frozen=True, slots=True)
class LinearPool:
    """The mean of the members' probabilities, weighted by `weights` `[M]`."""

    weights: NDArray[np.float64]

    def __call__(self, members: Probabilities) -> Probabilities:
        result = np.zeros(members.shape[1:], np.float32)
        for member in np.flatnonzero(self.weights):
            result += np.float32(self.weights[member]) * members[member]
        return _normalised(result)

    def without(self, member: int) -> LinearPool:
        return LinearPool(_without(self.weights, member))


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

    def without(self, member: int) -> LogarithmicPool:
        exponents = self.exponents.copy()
        exponents[member] = 0
        return LogarithmicPool(exponents, self.bias)


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

    def without(self, member: int) -> RankPool:
        return RankPool(_without(self.weights, member))


def equal_weights(members: int) -> NDArray[np.float64]:
    """Weights `[M]` that count every member alike."""
    return np.full(members, 1 / members)


def _without(weights: NDArray[np.float64], member: int) -> NDArray[np.float64]:
    """Weights, one of them zero; where that was the only one, all others alike."""
    others = np.arange(len(weights)) != member
    kept = np.where(others, weights, 0.0)
    kept = kept if kept.any() else others.astype(np.float64)
    return np.asarray(kept / kept.sum())


def _normalised(rows: Probabilities) -> Probabilities:
    result: Probabilities = rows / rows.sum(-1, keepdims=True)
    return result
