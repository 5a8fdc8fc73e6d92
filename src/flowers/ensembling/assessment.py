"""Score an ensemble: its members, each method, and the blend that is used."""

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
"""The largest number of members for which leave-one-out gains are computed: each takes a cross-validation."""


@dataclass(frozen=True, slots=True)
class MemberScores:
    """The scores of a member, and its part in the ensemble.

    macro_f1, log_loss: on the validation rows, before calibration.
    temperature: the member's calibration.
    weight: the member's weight in the blend. The weights of all members sum to 1.
    adds: the leave-one-out gain: how much lower the method's cross-validated macro F1, without offsets, is if it is
        fitted to the other members only. None for a single member, and for more than `MOST_LEFT_OUT` members.
    """

    macro_f1: Estimate
    log_loss: float
    temperature: float
    weight: float
    adds: float | None


@dataclass(frozen=True, slots=True)
class MethodScores:
    """The scores of a method.

    fitted: macro F1 on the rows that the method was fitted to.
    validated: cross-validated macro F1.
    gain: `validated` over the macro F1 of the best member. The member is chosen on these same rows, which favours it.
    log_loss: cross-validated log loss.
    """

    fitted: Estimate
    validated: Estimate
    gain: Estimate
    log_loss: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """An ensemble with all its scores.

    method: the method of the blend, chosen or given.
    methods: the scores of each method.
    ensemble: the scores of the ensemble. The choice of the method and the offsets are cross-validated as well.
    members: the scores of each member.
    best: the number of the member with the highest macro F1.
    correlations: correlations of the members' probabilities of the true class, `[M, M]`.
    offsets: class offsets, `[K]`; None without offsets.
    blend: the blend, fitted to all rows.
    probabilities: the cross-validated probabilities, float32 `[N, K]`.
    """

    method: Method
    methods: Mapping[Method, MethodScores]
    ensemble: MethodScores
    members: list[MemberScores]
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
    """Fit and cross-validate the methods, and make the ensemble with one of them.

    Args:
        rows: the members' probabilities and the labels.
        methods: the methods to compare.
        method: one of them, or `auto` for the best of them by cross-validation, without offsets.
        offsets: whether to decide with class offsets.
        resamples: the number of resamples of each bootstrap.
        seed: the bootstrap's seed.
    """
    scorer = _Scorer(rows, resamples, seed)
    validated = cross_validate(rows, methods)
    pools = rows.fit(methods)
    members = rows.calibrate(np.ones(len(rows.labels), bool))
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
        methods={each: scorer.score_method(fitted[each].argmax(-1), validated[each]) for each in methods},
        ensemble=scorer.score_method(decide(fitted[chosen], added), ensemble),
        members=_score_members(rows, scorer, blend, _leave_one_out_gains(rows, chosen, validated[chosen].predicted)),
        best=scorer.best,
        correlations=_correlations(rows),
        offsets=added if offsets else None,
        blend=blend,
        probabilities=ensemble.probabilities,
    )


class _Scorer:
    """Scores decisions on the rows, and their gain over the best member."""

    def __init__(self, rows: Rows, resamples: int, seed: int) -> None:
        self.votes: Labels = rows.log_p.argmax(-1)
        self.best = int(np.argmax([macro_f1(rows.labels, vote, rows.class_count) for vote in self.votes]))
        self._rows = rows
        self._bootstrap = {"resamples": resamples, "seed": seed}

    def estimate(self, predicted: Labels) -> Estimate:
        return estimate_macro_f1(self._rows.labels, predicted, self._rows.class_count, **self._bootstrap)

    def score_method(self, fitted: Labels, validated: Validated) -> MethodScores:
        labels, predicted, reference = self._rows.labels, validated.predicted, self.votes[self.best]
        return MethodScores(
            fitted=self.estimate(fitted),
            validated=self.estimate(predicted),
            gain=estimate_gain(labels, predicted, reference, self._rows.class_count, **self._bootstrap),
            log_loss=log_loss(labels, validated.probabilities),
        )


def _score_members(rows: Rows, scorer: _Scorer, blend: Blend, gains: Sequence[float] | None) -> list[MemberScores]:
    with ThreadPoolExecutor(available_cores()) as threads:  # drawing random numbers releases the GIL
        estimates = list(threads.map(scorer.estimate, scorer.votes))
    return [
        MemberScores(
            macro_f1=estimate,
            log_loss=log_loss(rows.labels, np.exp(rows.log_p[member])),
            temperature=float(blend.temperatures[member]),
            weight=float(blend.pool.weights[member]),
            adds=None if gains is None else gains[member],
        )
        for member, estimate in enumerate(estimates)
    ]


def _leave_one_out_gains(rows: Rows, method: Method, predicted: Labels) -> list[float] | None:
    """Return for each member how much the method's cross-validated macro F1 falls without it.

    None for a single member, and for more than `MOST_LEFT_OUT`. `predicted`: the method's decisions with all members.
    """
    count = len(rows.log_p)
    if not 2 <= count <= MOST_LEFT_OUT:
        return None
    without = np.empty((count, len(rows.labels)), np.int64)
    for fold in range(rows.fold_count):
        held_out = rows.folds == fold
        known, unknown = rows.calibrate(~held_out, {fold}), rows.calibrate(held_out, {fold})
        for member in range(count):
            pool = METHODS[method](np.delete(known, member, axis=0), rows.labels[~held_out])
            without[member, held_out] = pool(np.delete(unknown, member, axis=0)).argmax(-1)
    whole = macro_f1(rows.labels, predicted, rows.class_count)
    return [whole - macro_f1(rows.labels, each, rows.class_count) for each in without]


def _correlations(rows: Rows) -> NDArray[np.float64]:
    """Return Pearson's correlations of the members' probabilities of the true class.

    They are 0 for a member that gives it the same probability in every row.
    """
    truth = np.exp(rows.log_p[:, np.arange(len(rows.labels)), rows.labels].astype(np.float64))
    centred = truth - truth.mean(axis=1, keepdims=True)
    norms = np.maximum(np.linalg.norm(centred, axis=1), 1e-12)
    correlations: NDArray[np.float64] = centred @ centred.T / np.outer(norms, norms)
    np.fill_diagonal(correlations, 1.0)
    return correlations
