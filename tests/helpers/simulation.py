"""Simulated members with a known true score: each sees points of a Gaussian mixture through noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.data.folds import assign_folds
from flowers.ensembling.assessment import Assessment, assess
from flowers.ensembling.methods import METHODS
from flowers.ensembling.scores import log_probabilities, macro_f1
from flowers.ensembling.validation import Rows
from flowers.inference.submission import decide

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]

DIMENSIONS = 6


@dataclass(frozen=True, slots=True)
class World:
    """Classes of unequal frequency as points in space, and members that see them through noise.

    Each member is miscalibrated by its `sharpness`, and shares half of its noise with all other members.
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
        """Draw labels `[N]` and the members' probabilities `[M, N, K]`."""
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


def confusion_rows(rng: np.random.Generator, classes: int, rows: int, accuracy: float) -> tuple[Labels, Labels, float]:
    """Draw labels and predictions from a random joint distribution, and return them with its true macro F1."""
    joint = np.empty((classes, classes))
    for label in range(classes):
        right = np.clip(rng.normal(accuracy, 0.8 * (1 - accuracy)), 0.3, 0.9995)
        joint[label] = np.insert(rng.dirichlet(np.full(classes - 1, 0.2)) * (1 - right), label, right)
    joint *= (1 / np.arange(1, classes + 1) ** 0.7)[:, None]
    joint /= joint.sum()
    truth = (2 * joint.diagonal() / (joint.sum(0) + joint.sum(1))).mean()
    labels, predicted = np.divmod(rng.choice(joint.size, rows, p=joint.ravel()), classes)
    return labels, predicted, truth


def assess_members(
    labels: Labels, members: Probabilities, *, offsets: bool = False, method: str = "auto"
) -> Assessment:
    """Assess members with all methods."""
    folds = assign_folds([str(row) for row in range(len(labels))], labels, folds=5, seed=0)
    rows = Rows(log_probabilities(members), labels, folds)
    return assess(rows, list(METHODS), method, offsets=offsets, resamples=400, seed=0)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Judged:
    """An ensemble's scores compared with the truth: coverage of the intervals, errors of the scores, and the gain."""

    held: bool
    gain_held: bool
    fitted_error: float
    validated_error: float
    margin: float


def judged_worlds(count: int, classes: int = 12) -> Iterator[Judged]:
    """Yield worlds of three members with 500 validation rows each. Every other ensemble uses class offsets."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        world = World.random(rng, classes, 3)
        found = assess_members(*world.draw(rng, 500), offsets=bool(seed % 2))
        labels, members = world.draw(rng, 15_000)
        offsets = np.zeros(classes) if found.offsets is None else found.offsets
        truth = macro_f1(labels, decide(found.blend(log_probabilities(members)), offsets), classes)
        alone = [macro_f1(labels, member.argmax(1), classes) for member in members]
        score, gain = found.ensemble.validated, found.ensemble.gain
        yield Judged(
            held=score.low <= truth <= score.high,
            gain_held=gain.low <= truth - alone[found.best] <= gain.high,
            fitted_error=found.ensemble.fitted.value - truth,
            validated_error=score.value - truth,
            margin=truth - max(alone),
        )
