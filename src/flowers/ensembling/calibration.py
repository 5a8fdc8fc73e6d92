"""Temperature scaling of each member (Guo et al. 2017, arXiv:1706.04599), before members are blended.

A member's log-probabilities are multiplied by its sharpness, 1 / temperature, and normalised again. The loss is convex
in the sharpness, and its sums over parts of the rows add up: it is computed once for each part on a grid, and every
fit, on whichever parts, is a look-up.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Labels, Probabilities

_GRID = np.geomspace(1 / 16, 16, 65)
"""Sharpnesses at which the loss is computed, 9 % apart."""

_ROWS = 4096
"""Rows that are worked on at once: what fits the processor's caches is faster."""


def calibrated(log_p: Probabilities, temperatures: NDArray[np.float64]) -> Probabilities:
    """Compute probabilities float32 `[M, N, K]` of log-probabilities `[M, N, K]` at each member's temperature `[M]`."""
    result = np.empty_like(log_p)
    for member, temperature in enumerate(temperatures):
        for start in range(0, log_p.shape[1], _ROWS):
            rows = np.s_[start : start + _ROWS]
            scaled = np.exp(_from_highest(log_p[member, rows]) * np.float32(1 / temperature))
            result[member, rows] = scaled / scaled.sum(-1, keepdims=True)
    return result


class Temperatures:
    """The temperature of each member, fitted on log loss, for any choice of the rows' parts.

    Args:
        log_p: log-probabilities float32 `[M, N, K]`.
        labels: int64 `[N]`.
        parts: the part that each row belongs to, int64 `[N]`.
    """

    def __init__(self, log_p: Probabilities, labels: Labels, parts: Labels) -> None:
        self._losses = np.stack([_grid_losses(member, labels, parts) for member in log_p])

    def fitted(self, excluded: Collection[int] = ()) -> NDArray[np.float64]:
        """Return the temperatures `[M]` that the rows of all parts but the `excluded` ask for."""
        kept = [part for part in range(self._losses.shape[1]) if part not in excluded]
        return np.array([1 / _lowest(losses) for losses in self._losses[:, kept].sum(axis=1)])


def _grid_losses(log_p: Probabilities, labels: Labels, parts: Labels) -> NDArray[np.float64]:
    """Return the sum of -log p of the truth over the rows of each part, at each sharpness of the grid: `[F, G]`."""
    sums = np.zeros((int(parts.max()) + 1, len(_GRID)))
    for start in range(0, len(labels), _ROWS):
        rows = np.s_[start : start + _ROWS]
        shifted = _from_highest(log_p[rows])
        true = shifted[np.arange(len(shifted)), labels[rows]]
        for point, sharpness in enumerate(_GRID):
            normaliser = np.log(np.exp(shifted * np.float32(sharpness)).sum(-1))
            sums[:, point] += np.bincount(parts[rows], normaliser - sharpness * true, minlength=len(sums))
    return sums


def _from_highest(log_p: Probabilities) -> Probabilities:
    """Return each row from its greatest value on, which becomes 0: at no sharpness does every class vanish."""
    shifted: Probabilities = log_p - log_p.max(-1, keepdims=True)
    return shifted


def _lowest(losses: NDArray[np.float64]) -> float:
    """Find the sharpness with the lowest loss: the lowest of the grid, refined by a parabola through its neighbours."""
    point = int(np.clip(losses.argmin(), 1, len(_GRID) - 2))
    below, here, above = losses[point - 1 : point + 2]
    curvature = below - 2 * here + above
    shift = 0.5 * (below - above) / curvature if curvature > 0 else 0.0
    step = np.log(_GRID[1] / _GRID[0])
    return float(_GRID[point] * np.exp(np.clip(shift, -1, 1) * step))
