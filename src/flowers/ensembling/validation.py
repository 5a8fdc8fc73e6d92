"""Cross-validation of everything that is fitted: temperatures, pools, the choice among methods, class offsets.

The rows are cut into folds. What is said of a fold comes from fits on the others; what is chosen for a fold, a method
or offsets, is chosen by a cross-validation within the others (Varma and Simon 2006, doi:10.1186/1471-2105-7-91). So no
row's label has a part in its own decision, if the members' probabilities have none of it; those of an ensemble, whose
own cross-validation is not nested in this one, have a little.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.calibration import Temperatures, calibrated
from flowers.ensembling.methods import METHODS, Method
from flowers.ensembling.offsets import fit_offsets
from flowers.ensembling.pools import Pool
from flowers.ensembling.scores import Labels, Probabilities, log_loss, macro_f1
from flowers.inference.submission import decide


@dataclass(frozen=True, slots=True)
class Blend:
    """Everything between the members' probabilities and one: their temperatures `[M]`, then a pool."""

    temperatures: NDArray[np.float64]
    pool: Pool

    def __call__(self, log_p: Probabilities, there: NDArray[np.bool_] | None = None) -> Probabilities:
        """Compute probabilities float32 `[N, K]` from the members' log-probabilities `[M, N, K]`.

        Args:
            log_p: of the members.
            there: which rows a member has, `[M, N]`; None: all. For a row that it lacks, the mean of the others stands.
        """
        members = calibrated(log_p, self.temperatures)
        if there is not None and not there.all():
            known = there[..., None]
            members = np.where(known, members, (members * known).sum(0) / known.sum(0, dtype=np.float32))
        return self.pool(members)


class Rows:
    """The rows that everything is fitted on and validated with.

    Args:
        log_p: the members' log-probabilities float32 `[M, N, K]`.
        labels: int64 `[N]`.
        folds: each row's fold, int64 `[N]`, from 0 on.
    """

    def __init__(self, log_p: Probabilities, labels: Labels, folds: Labels) -> None:
        self.log_p = log_p
        self.labels = labels
        self.folds = folds
        self.fold_count = int(folds.max()) + 1  # of which none is empty
        self._temperatures = Temperatures(log_p, labels, folds)
        self._pools: dict[tuple[frozenset[int], Method], Pool] = {}

    @property
    def class_count(self) -> int:
        return int(self.log_p.shape[2])

    def temperatures(self, excluded: Collection[int] = ()) -> NDArray[np.float64]:
        """Return the members' temperatures `[M]`, fitted to the rows of all folds but the `excluded`."""
        return self._temperatures.fitted(excluded)

    def calibrated(self, chosen: NDArray[np.bool_], excluded: Collection[int] = ()) -> Probabilities:
        """Return the members' probabilities `[M, n, K]` of chosen rows, at the temperatures of folds not `excluded`."""
        return calibrated(self.log_p[:, chosen], self.temperatures(excluded))

    def fit(self, methods: Sequence[Method], excluded: Collection[int] = ()) -> dict[Method, Pool]:
        """Return each method's pool, fitted to the rows of all folds but the `excluded`; fits are cached."""
        left_out = frozenset(excluded)
        due = [method for method in methods if (left_out, method) not in self._pools]
        if due:
            rows = ~np.isin(self.folds, list(left_out))
            members = self.calibrated(rows, left_out)
            for method in due:
                self._pools[left_out, method] = METHODS[method](members, self.labels[rows])
        return {method: self._pools[left_out, method] for method in methods}


@dataclass(frozen=True, slots=True)
class Validated:
    """The cross-validated scores of one method.

    probabilities: float32 `[N, K]`, those of each fold from a fit on the others.
    predicted: the decisions `[N]`.
    """

    probabilities: Probabilities
    predicted: Labels


def cross_validate(rows: Rows, methods: Sequence[Method]) -> dict[Method, Validated]:
    """Return each method, fitted outside of each fold and applied to it; the decision is the most probable class."""
    probabilities = _out_of_fold(rows, methods, excluded=())
    return {method: Validated(each, each.argmax(-1)) for method, each in probabilities.items()}


def _out_of_fold(rows: Rows, methods: Sequence[Method], excluded: Collection[int]) -> dict[Method, Probabilities]:
    """Predict probabilities `[N, K]` of each row by fits without its fold and the `excluded`, whose rows stay zero."""
    shape = rows.log_p.shape[1:]
    result: dict[Method, Probabilities] = {method: np.zeros(shape, np.float32) for method in methods}
    for fold in range(rows.fold_count):
        if fold in excluded:
            continue
        held_out = rows.folds == fold
        members = rows.calibrated(held_out, {*excluded, fold})
        for method, pool in rows.fit(methods, {*excluded, fold}).items():
            result[method][held_out] = pool(members)
    return result


def choose(probabilities: Mapping[Method, Probabilities], labels: Labels) -> Method:
    """Choose the method with the highest macro F1; of equal ones that with the lowest log loss, then the simplest."""
    simplest = list(METHODS)

    def merit(method: Method) -> tuple[float, float, int]:
        each = probabilities[method]
        return macro_f1(labels, each.argmax(-1), each.shape[1]), -log_loss(labels, each), -simplest.index(method)

    return max(probabilities, key=merit)


def cross_validate_choice(rows: Rows, outer: Mapping[Method, Validated], *, offsets: bool) -> Validated:
    """Return what `choose` among the methods of `outer` leads to, with class `offsets` or without, fold by fold.

    For each fold a method is chosen, and offsets are fitted, by a cross-validation within the other folds.
    """
    methods = list(outer)
    probabilities = np.zeros(rows.log_p.shape[1:], np.float32)
    predicted = np.zeros(len(rows.labels), np.int64)
    for fold in range(rows.fold_count):
        held_out = rows.folds == fold
        labels = rows.labels[~held_out]
        inner = {m: each[~held_out] for m, each in _out_of_fold(rows, methods, excluded=(fold,)).items()}
        method = choose(inner, labels)
        probabilities[held_out] = outer[method].probabilities[held_out]
        added = fit_offsets(inner[method], labels) if offsets else np.zeros(rows.class_count)
        predicted[held_out] = decide(probabilities[held_out], added)
    return Validated(probabilities, predicted)
