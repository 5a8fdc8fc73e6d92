"""Calibrate each member by temperature scaling, before members are blended (Guo et al. 2017, arXiv:1706.04599).

A member's log-probabilities are multiplied by its sharpness, 1 / temperature, and normalised again. The loss is convex
in the sharpness, and its sums over parts of the rows add up. Therefore it is computed once for each part, on a grid of
sharpnesses. Every fit, to any choice of parts, is then a look-up.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.scores import Labels, Probabilities

_GRID = np.geomspace(1 / 16, 16, 65)
"""Sharpnesses at which the loss is computed, 9 % apart."""

_ROWS = 4096
"""Rows that are processed at once: few enough to fit into the processor's caches."""


def calibrate(log_p: Probabilities, temperatures: NDArray[np.float64]) -> Probabilities:
    """Return probabilities at each member's temperature, float32 `[M, N, K]`.

    Args:
        log_p: log-probabilities float32 `[M, N, K]`.
        temperatures: float64 `[M]`.
    """
    result = np.empty_like(log_p)
    for member, temperature in enumerate(temperatures):
        for start in range(0, log_p.shape[1], _ROWS):
            rows = np.s_[start : start + _ROWS]
            scaled = np.exp(_subtract_maximum(log_p[member, rows]) * np.float32(1 / temperature))
            result[member, rows] = scaled / scaled.sum(-1, keepdims=True)
    return result


class Temperatures:
    """Fits the temperature of each member by log loss, to any choice of parts of the rows.

    Args:
        log_p: log-probabilities float32 `[M, N, K]`.
        labels: int64 `[N]`.
        parts: the part that each row belongs to, int64 `[N]`.
    """

    def __init__(self, log_p: Probabilities, labels: Labels, parts: Labels) -> None:
        self._losses = np.stack([_grid_losses(member, labels, parts) for member in log_p])

    def fit(self, excluded: Collection[int] = ()) -> NDArray[np.float64]:
        """Return the temperatures float64 `[M]`, fitted to the rows of all parts but the `excluded`."""
        kept = [part for part in range(self._losses.shape[1]) if part not in excluded]
        return np.array([1 / _find_best_sharpness(losses) for losses in self._losses[:, kept].sum(axis=1)])


def _grid_losses(log_p: Probabilities, labels: Labels, parts: Labels) -> NDArray[np.float64]:
    """Return the sum of -log p of the true class over each part's rows, at each sharpness of the grid: `[F, G]`."""
    sums = np.zeros((int(parts.max()) + 1, len(_GRID)))
    for start in range(0, len(labels), _ROWS):
        rows = np.s_[start : start + _ROWS]
        shifted = _subtract_maximum(log_p[rows])
        true = shifted[np.arange(len(shifted)), labels[rows]]
        for point, sharpness in enumerate(_GRID):
            normaliser = np.log(np.exp(shifted * np.float32(sharpness)).sum(-1))
            sums[:, point] += np.bincount(parts[rows], normaliser - sharpness * true, minlength=len(sums))
    return sums


def _subtract_maximum(log_p: Probabilities) -> Probabilities:
    """Subtract each row's maximum, so that not every class underflows to 0 at a high sharpness."""
    shifted: Probabilities = log_p - log_p.max(-1, keepdims=True)
    return shifted


def _find_best_sharpness(losses: NDArray[np.float64]) -> float:
    """Find the sharpness with the lowest loss on the grid, refined by a parabola through its neighbours."""
    point = int(np.clip(losses.argmin(), 1, len(_GRID) - 2))
    below, here, above = losses[point - 1 : point + 2]
    curvature = below - 2 * here + above
    shift = 0.5 * (below - above) / curvature if curvature > 0 else 0.0
    step = np.log(_GRID[1] / _GRID[0])
    return float(_GRID[point] * np.exp(np.clip(shift, -1, 1) * step))
