"""Score an ensemble: its members, every method, and the one that is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.methods import METHODS, Method
from flowers.ensembling.offsets import fit_offsets
from flowers.ensembling.scores import (
    Estimate,
    Labels,
    Probabilities,
    estimate_gain,
    estimate_macro_f1,
    log_loss,
    macro_f1,
)
from flowers.ensembling.validation import Blend, Rows, Validated, choose, cross_validate, cross_validate_choice
from flowers.inference.submission import decide
from flowers.system.processor import available_cores

MOST_LEFT_OUT = 20
"""Members up to which each is left out in turn: every one of these is a cross-validation of its own."""


@dataclass(frozen=True, slots=True)
class MemberFigures:
    """A member in the ensemble.

    macro_f1, log_loss: on the validation rows, as the member was given.
    temperature: it is calibrated with.
    weight: how much it counts in the blend; those of all members are 1 together.
    adds: by how much the method's cross-validated macro F1, without offsets, falls where it is fitted to the others
        alone; None for an only member, and where there are more than `MOST_LEFT_OUT`.
    """

    macro_f1: Estimate
    log_loss: float
    temperature: float
    weight: float
    adds: float | None


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """A method's macro F1: on the rows that it was fitted to, cross-validated, and that one's gain over a member.

    gain: over the member with the highest macro F1 on these rows, whose luck it is measured against, too.
    log_loss: cross-validated.
    """

    fitted: Estimate
    validated: Estimate
    gain: Estimate
    log_loss: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """All figures, and the ensemble that they are of.

    method: that blends, chosen or given.
    methods: each method's figures.
    ensemble: those of the ensemble itself: with the choice of the method and the offsets cross-validated as well.
    members: each member's, and `best` the number of the one with the highest macro F1.
    correlations: of the members' probabilities of the truth, `[M, M]`.
    offsets: of the classes, `[K]`; None without.
    blend: fitted to all rows.
    probabilities: the cross-validated ones, `[N, K]`.
    """

    method: Method
    methods: Mapping[Method, MethodFigures]
    ensemble: MethodFigures
    members: list[MemberFigures]
    best: int
    correlations: NDArray[np.float64]
    offsets: NDArray[np.float64] | None
    blend: Blend
    probabilities: Probabilities


def assess(
    rows: Rows,
    methods: Sequence[Method],
    method: Method | Literal["auto"],
    *,
    offsets: bool,
    resamples: int,
    seed: int,
) -> Assessment:
    """Fit the methods to the rows, cross-validate them, and make the ensemble of the one given, or chosen by that.

    Args:
        rows: the members' probabilities and the labels.
        methods: that are compared.
        method: one of them, or `auto`: the best of them by cross-validation, without offsets.
        offsets: whether class offsets decide.
        resamples: of each bootstrap.
        seed: of the bootstrap.
    """
    scorer = _Scorer(rows, resamples, seed)
    validated = cross_validate(rows, methods)
    pools = rows.fit(methods)
    members = rows.calibrated(np.ones(len(rows.labels), bool))
    fitted = {each: pool(members) for each, pool in pools.items()}

    candidates = validated if method == "auto" else {method: validated[method]}
    chosen = choose({each: candidate.probabilities for each, candidate in candidates.items()}, rows.labels)
    ensemble = validated[chosen]
    if offsets or len(candidates) > 1:
        ensemble = cross_validate_choice(rows, candidates, offsets=offsets)
    added = fit_offsets(validated[chosen].probabilities, rows.labels) if offsets else np.zeros(rows.class_count)
    blend = Blend(rows.temperatures(), pools[chosen])
    return Assessment(
        method=chosen,
        methods={each: scorer.figures(fitted[each].argmax(-1), validated[each]) for each in methods},
        ensemble=scorer.figures(decide(fitted[chosen], added), ensemble),
        members=_member_figures(rows, scorer, blend, _added(rows, chosen, validated[chosen].predicted)),
        best=scorer.best,
        correlations=_correlations(rows),
        offsets=added if offsets else None,
        blend=blend,
        probabilities=ensemble.probabilities,
    )


class _Scorer:
    """Scores of decisions on the rows, and their gain over the best member."""

    def __init__(self, rows: Rows, resamples: int, seed: int) -> None:
        self.votes: Labels = rows.log_p.argmax(-1)
        self.best = int(np.argmax([macro_f1(rows.labels, vote, rows.class_count) for vote in self.votes]))
        self._rows = rows
        self._bootstrap = {"resamples": resamples, "seed": seed}

    def estimate(self, predicted: Labels) -> Estimate:
        return estimate_macro_f1(self._rows.labels, predicted, self._rows.class_count, **self._bootstrap)

    def figures(self, fitted: Labels, validated: Validated) -> MethodFigures:
        labels, predicted, reference = self._rows.labels, validated.predicted, self.votes[self.best]
        return MethodFigures(
            fitted=self.estimate(fitted),
            validated=self.estimate(predicted),
            gain=estimate_gain(labels, predicted, reference, self._rows.class_count, **self._bootstrap),
            log_loss=log_loss(labels, validated.probabilities),
        )


def _member_figures(rows: Rows, scorer: _Scorer, blend: Blend, added: Sequence[float] | None) -> list[MemberFigures]:
    with ThreadPoolExecutor(available_cores()) as threads:  # drawing numbers needs no interpreter
        estimates = list(threads.map(scorer.estimate, scorer.votes))
    return [
        MemberFigures(
            macro_f1=estimate,
            log_loss=log_loss(rows.labels, np.exp(rows.log_p[member])),
            temperature=float(blend.temperatures[member]),
            weight=float(blend.pool.weights[member]),
            adds=None if added is None else added[member],
        )
        for member, estimate in enumerate(estimates)
    ]


def _added(rows: Rows, method: Method, predicted: Labels) -> list[float] | None:
    """By how much a method's cross-validated macro F1, of `predicted`, is above that of the method without each member.

    None for a single member, and for so many that fitting without each would take long.
    """
    count = len(rows.log_p)
    if not 2 <= count <= MOST_LEFT_OUT:
        return None
    without = np.empty((count, len(rows.labels)), np.int64)
    for fold in range(rows.fold_count):
        held_out = rows.folds == fold
        known, unknown = rows.calibrated(~held_out, {fold}), rows.calibrated(held_out, {fold})
        for member in range(count):
            pool = METHODS[method](np.delete(known, member, axis=0), rows.labels[~held_out])
            without[member, held_out] = pool(np.delete(unknown, member, axis=0)).argmax(-1)
    whole = macro_f1(rows.labels, predicted, rows.class_count)
    return [whole - macro_f1(rows.labels, each, rows.class_count) for each in without]


def _correlations(rows: Rows) -> NDArray[np.float64]:
    """Pearson's, of the members' probabilities of the truth; 0 for a member that is as sure of every row."""
    truth = np.exp(rows.log_p[:, np.arange(len(rows.labels)), rows.labels].astype(np.float64))
    centred = truth - truth.mean(axis=1, keepdims=True)
    norms = np.maximum(np.linalg.norm(centred, axis=1), 1e-12)
    correlations: NDArray[np.float64] = centred @ centred.T / np.outer(norms, norms)
    np.fill_diagonal(correlations, 1.0)
    return correlations
