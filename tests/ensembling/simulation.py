"""Members whose truth is known: points drawn from a mixture of Gaussians, seen by each member through noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]

DIMENSIONS = 6


@dataclass(frozen=True, slots=True)
class World:
    """Classes of unlike frequency as points in space, and members that see them the worse the larger their noise.

    Each member believes in another sharpness than it should, and half of its noise is common to all members.
    """

    centres: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    noises: NDArray[np.float64]
    sharpness: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator, classes: int, members: int) -> World:
        frequencies = 1 / np.arange(1, classes + 1) ** 0.7
        return cls(
            rng.normal(size=(classes, DIMENSIONS)) * 1.5,
            frequencies / frequencies.sum(),
            rng.uniform(0.7, 1.6, members),
            rng.uniform(0.4, 2.5, members),
        )

    def draw(self, rng: np.random.Generator, rows: int) -> tuple[Labels, Probabilities]:
        """Labels `[N]` and the members' probabilities `[M, N, K]`."""
        labels = rng.choice(len(self.centres), rows, p=self.frequencies)
        common = rng.normal(size=(rows, DIMENSIONS))
        seen = []
        for noise, sharpness in zip(self.noises, self.sharpness, strict=True):
            own = (common + rng.normal(size=common.shape)) / np.sqrt(2)
            points = self.centres[labels] + noise * own
            distances = ((points[:, None] - self.centres) ** 2).sum(-1)
            logits = sharpness * (np.log(self.frequencies) - distances / (2 * noise**2))
            exp = np.exp(logits - logits.max(-1, keepdims=True))
            seen.append(exp / exp.sum(-1, keepdims=True))
        return labels, np.stack(seen).astype(np.float32)
