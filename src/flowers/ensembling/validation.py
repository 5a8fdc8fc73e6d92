"""Cross-validate everything that is fitted: temperatures, pools, the choice of the method, class offsets.

The rows are divided into folds. The predictions for a fold come from fits to the other folds. A method or offsets are
chosen for a fold by a nested cross-validation within the other folds (Varma and Simon 2006,
doi:10.1186/1471-2105-7-91). So no row's label influences its own decision, unless the members' probabilities depend on
it. Those of a member that is itself an ensemble do a little: its cross-validation is not nested in this one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.ensembling.calibration import Temperatures, calibrate
from flowers.ensembling.methods import METHODS, Method
from flowers.ensembling.offsets import fit_offsets
from flowers.ensembling.pools import Pool
from flowers.ensembling.scores import Labels, Probabilities, log_loss, macro_f1
from flowers.inference.submission import decide


@dataclass(frozen=True, slots=True)
class Blend:
    """Blends the members' probabilities: calibrates them with the temperatures `[M]`, then combines them in a pool."""

    temperatures: NDArray[np.float64]
    pool: Pool

    def __call__(self, log_p: Probabilities, present: NDArray[np.bool_] | None = None) -> Probabilities:
        """Return the blended probabilities, float32 `[N, K]`.

        Args:
            log_p: the members' log-probabilities, float32 `[M, N, K]`.
            present: which rows each member has, bool `[M, N]`; None: all. A missing row becomes the mean of the others.
        """
        members = calibrate(log_p, self.temperatures)
        if present is not None and not present.all():
            known = present[..., None]
            members = np.where(known, members, (members * known).sum(0) / known.sum(0, dtype=np.float32))
        return self.pool(members)


class Rows:
    """The rows that everything is fitted to and validated on; caches the fits.

    Args:
        log_p: the members' log-probabilities float32 `[M, N, K]`.
        labels: int64 `[N]`.
        folds: each row's fold, int64 `[N]`, from 0 on; no fold is empty.
    """

    def __init__(self, log_p: Probabilities, labels: Labels, folds: Labels) -> None:
        self.log_p = log_p
        self.labels = labels
        self.folds = folds
        self.fold_count = int(folds.max()) + 1
        self._temperatures = Temperatures(log_p, labels, folds)
        self._pools: dict[tuple[frozenset[int], Method], Pool] = {}

    @property
    def class_count(self) -> int:
        """Return the number of classes."""
        return int(self.log_p.shape[2])

    def temperatures(self, excluded: Collection[int] = ()) -> NDArray[np.float64]:
        """Return the members' temperatures float64 `[M]`, fitted to the rows of all folds but the `excluded`."""
        return self._temperatures.fit(excluded)

    def calibrate(self, chosen: NDArray[np.bool_], excluded: Collection[int] = ()) -> Probabilities:
        """Return the members' calibrated probabilities of some rows, float32 `[M, n, K]`.

        Args:
            chosen: which rows, bool `[N]`.
            excluded: the folds that the temperatures are not fitted to.
        """
        return calibrate(self.log_p[:, chosen], self.temperatures(excluded))

    def fit(self, methods: Sequence[Method], excluded: Collection[int] = ()) -> dict[Method, Pool]:
        """Return each method's pool, fitted to the rows of all folds but the `excluded`. Fits are cached."""
        left_out = frozenset(excluded)
        due = [method for method in methods if (left_out, method) not in self._pools]
        if due:
            rows = ~np.isin(self.folds, list(left_out))
            members = self.calibrate(rows, left_out)
            for method in due:
                self._pools[left_out, method] = METHODS[method](members, self.labels[rows])
        return {method: self._pools[left_out, method] for method in methods}


@dataclass(frozen=True, slots=True)
class Validated:
    """The cross-validated predictions of one method.

    probabilities: float32 `[N, K]`; those of each fold come from a fit to the others.
    predicted: the decisions, int64 `[N]`.
    """

    probabilities: Probabilities
    predicted: Labels


def cross_validate(rows: Rows, methods: Sequence[Method]) -> dict[Method, Validated]:
    """Predict each fold by fitting each method to the others; the decision is the most probable class."""
    probabilities = _out_of_fold(rows, methods, excluded=())
    return {method: Validated(each, each.argmax(-1)) for method, each in probabilities.items()}


def _out_of_fold(rows: Rows, methods: Sequence[Method], excluded: Collection[int]) -> dict[Method, Probabilities]:
    """Predict each row, `[N, K]`, by fits without its fold and the `excluded`. Rows of the `excluded` stay zero."""
    shape = rows.log_p.shape[1:]
    result: dict[Method, Probabilities] = {method: np.zeros(shape, np.float32) for method in methods}
    for fold in range(rows.fold_count):
        if fold in excluded:
            continue
        held_out = rows.folds == fold
        members = rows.calibrate(held_out, {*excluded, fold})
        for method, pool in rows.fit(methods, {*excluded, fold}).items():
            result[method][held_out] = pool(members)
    return result


def choose(probabilities: Mapping[Method, Probabilities], labels: Labels) -> Method:
    """Choose the method with the highest macro F1; among equals the lowest log loss, then the simplest method.

    Args:
        probabilities: of each method, float32 `[N, K]`.
        labels: int64 `[N]`.
    """
    simplest = list(METHODS)

    def merit(method: Method) -> tuple[float, float, int]:
        each = probabilities[method]
        return macro_f1(labels, each.argmax(-1), each.shape[1]), -log_loss(labels, each), -simplest.index(method)

    return max(probabilities, key=merit)


def cross_validate_choice(rows: Rows, outer: Mapping[Method, Validated], *, offsets: bool) -> Validated:
    """Cross-validate the choice among the methods of `outer`, and the class offsets if `offsets` is set.

    For each fold, the method is chosen and the offsets are fitted by a cross-validation within the other folds.
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
