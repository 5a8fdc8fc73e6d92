"""What an ensemble is worth: the figures of its members, of every method, and of the one that is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowers.cores import available_cores
from flowers.ensembling.methods import Method
from flowers.ensembling.offsets import decide, fit_offsets
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


@dataclass(frozen=True, slots=True)
class MemberFigures:
    """A member in the ensemble.

    macro_f1, log_loss: on the validation rows, as the member was given.
    temperature: it is calibrated with.
    weight: how much it counts in the blend; those of all members are 1 together.
    adds: by how much the blend's cross-validated macro F1 falls without it, the others weighted as they are; None for
        an only member.
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
        method: one of them, or `auto`: the best of them by cross-validation.
        offsets: whether class offsets decide.
        resamples: of each bootstrap.
        seed: of the bootstrap.
    """
    labels, classes = rows.labels, rows.class_count
    votes = rows.log_p.argmax(-1)
    scores = [macro_f1(labels, vote, classes) for vote in votes]
    best = int(np.argmax(scores))

    def estimate(predicted: Labels) -> Estimate:
        return estimate_macro_f1(labels, predicted, classes, resamples=resamples, seed=seed)

    def figures(fitted: Labels, validated: Validated) -> MethodFigures:
        return MethodFigures(
            estimate(fitted),
            estimate(validated.predicted),
            estimate_gain(labels, validated.predicted, votes[best], classes, resamples=resamples, seed=seed),
            log_loss(labels, validated.probabilities),
        )

    validated = cross_validate(rows, methods)
    pools = rows.fit(methods)
    members = rows.calibrated(np.ones(len(labels), bool))
    fitted = {each: pool(members) for each, pool in pools.items()}
    compared = {each: figures(fitted[each].argmax(-1), validated[each]) for each in methods}

    candidates = validated if method == "auto" else {method: validated[method]}
    chosen = choose({each: candidate.probabilities for each, candidate in candidates.items()}, labels)
    ensemble = validated[chosen]
    if offsets or len(candidates) > 1:
        ensemble = cross_validate_choice(rows, candidates, offsets=offsets)
    added = fit_offsets(validated[chosen].probabilities, labels) if offsets else np.zeros(classes)
    blend = Blend(rows.temperatures(), pools[chosen])
    without = _scores_without(rows, chosen) if len(votes) > 1 else None
    whole = macro_f1(labels, validated[chosen].predicted, classes)
    with ThreadPoolExecutor(available_cores()) as threads:  # drawing numbers needs no interpreter
        estimates = list(threads.map(estimate, votes))
    return Assessment(
        method=chosen,
        methods=compared,
        ensemble=figures(decide(fitted[chosen], added), ensemble),
        members=[
            MemberFigures(
                estimates[member],
                log_loss(labels, np.exp(rows.log_p[member])),
                float(blend.temperatures[member]),
                float(blend.pool.weights[member]),
                None if without is None else whole - without[member],
            )
            for member in range(len(votes))
        ],
        best=best,
        correlations=_correlations(rows),
        offsets=added if offsets else None,
        blend=blend,
        probabilities=ensemble.probabilities,
    )


def _scores_without(rows: Rows, method: Method) -> list[float]:
    """A method's cross-validated macro F1 without each member: fitted with it, applied without it."""
    count = len(rows.log_p)
    predicted = np.empty((count, len(rows.labels)), np.int64)
    for fold in range(rows.fold_count):
        held_out = rows.folds == fold
        members = rows.calibrated(held_out, {fold})
        pool = rows.fit([method], {fold})[method]
        for member in range(count):
            predicted[member, held_out] = pool.without(member)(members).argmax(-1)
    return [macro_f1(rows.labels, each, rows.class_count) for each in predicted]


def _correlations(rows: Rows) -> NDArray[np.float64]:
    """Pearson's, of the members' probabilities of the truth; 0 for a member that is as sure of every row."""
    truth = np.exp(rows.log_p[:, np.arange(len(rows.labels)), rows.labels].astype(np.float64))
    centred = truth - truth.mean(axis=1, keepdims=True)
    norms = np.maximum(np.linalg.norm(centred, axis=1), 1e-12)
    correlations: NDArray[np.float64] = centred @ centred.T / np.outer(norms, norms)
    np.fill_diagonal(correlations, 1.0)
    return correlations
