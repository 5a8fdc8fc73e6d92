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
    """Members' probabilities to one. A pool's `weights` say how much each member counts: they sum to one."""

    @property
    def weights(self) -> NDArray[np.float64]: ...

    def __call__(self, members: Probabilities) -> Probabilities:
        """Probabilities float32 `[N, K]` from those of the members, float32 `[M, N, K]`."""
        ...

    def without(self, member: int) -> Pool:
        """The pool of the other members, as they are weighted among themselves."""
        ...


@dataclass(frozen=True, slots=True)
class LinearPool:
    """The mean of the members' probabilities, weighted by `shares` `[M]`."""

    shares: NDArray[np.float64]

    @property
    def weights(self) -> NDArray[np.float64]:
        return self.shares

    def __call__(self, members: Probabilities) -> Probabilities:
        result = np.zeros(members.shape[1:], np.float32)
        for member in np.flatnonzero(self.shares):
            result += np.float32(self.shares[member]) * members[member]
        return _normalised(result)

    def without(self, member: int) -> LinearPool:
        shares = np.delete(self.shares, member)
        total = shares.sum()
        return LinearPool(shares / total if total > 0 else np.full(len(shares), 1 / len(shares)))


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
            logits += exponents * log_probabilities(member)
        return _normalised(np.exp(logits - logits.max(-1, keepdims=True)))

    def without(self, member: int) -> LogarithmicPool:
        return LogarithmicPool(np.delete(self.exponents, member, axis=0), self.bias)


@dataclass(frozen=True, slots=True)
class RankPool:
    """The mean of 1 / rank, the rank of a class among those of its row, first the most probable.

    Each member's vote counts alike, however sure it is. Reciprocal ranks, as in Dowdall's rule, since in a mean of
    plain ranks the order of the classes that nobody believes in outweighs that of the first.
    """

    members: int

    @property
    def weights(self) -> NDArray[np.float64]:
        return np.full(self.members, 1 / self.members)

    def __call__(self, members: Probabilities) -> Probabilities:
        result = np.zeros(members.shape[1:], np.float32)
        votes = (1 / np.arange(1, members.shape[2] + 1)).astype(np.float32)
        for member in members:
            order = np.argsort(-member, axis=1, kind="stable")
            vote = np.empty_like(member)
            np.put_along_axis(vote, order, np.broadcast_to(votes, member.shape), axis=1)
            result += vote + TIE_BREAK * member
        return _normalised(result)

    def without(self, member: int) -> RankPool:
        return RankPool(self.members - 1)


def equal_shares(members: int) -> NDArray[np.float64]:
    """Shares `[M]` that count every member alike."""
    return np.full(members, 1 / members)


def _normalised(rows: Probabilities) -> Probabilities:
    result: Probabilities = rows / rows.sum(-1, keepdims=True)
    return result
