"""Check the rows of predictions files: probabilities must be valid, and labels must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flowers.errors import InputError
from flowers.interfaces import NO_LABEL
from flowers.training.predictions import Part

SUM_TOLERANCE = 1e-3
"""The largest allowed distance of a row's sum from one: the rounding error of 16-bit numbers."""

_SHOWN = 3


@dataclass(slots=True)
class _RowProblem:
    """The number of rows with a problem, and descriptions of the first ones."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)


class RowProblems:
    """Counts the problems of the rows of a predictions file, and reports them with examples.

    Args:
        where: the file, for messages.
        fix: the advice to the user, for messages.
    """

    def __init__(self, where: str, fix: str) -> None:
        self._where = where
        self._fix = fix
        self._found: dict[str, _RowProblem] = {}  # by what was expected

    def check(self, rows: Part) -> None:
        """Count rows whose probabilities are not finite, are negative or do not sum to one."""
        with np.errstate(invalid="ignore"):
            sums = rows.probabilities.sum(-1)
            broken = np.logical_not(np.isfinite(rows.probabilities).all(-1))
            negative = ~broken & (rows.probabilities < 0).any(-1)
            off = ~broken & ~negative & (np.abs(sums - 1) > SUM_TOLERANCE)
        self._note("finite numbers as probabilities", broken, lambda row: f"{rows.ids[row]}")
        self._note("probabilities of at least 0", negative, lambda row: f"{rows.ids[row]}")
        self._note("probabilities that sum to one", off, lambda row: f"{rows.ids[row]}: {sums[row]:.4g}")

    def check_labels(self, rows: Part, class_count: int) -> None:
        """Count rows whose label is missing, or is not from 0 to `class_count - 1`."""
        wrong = (rows.labels < 0) | (rows.labels >= class_count)

        def describe(row: int) -> str:
            return f"{rows.ids[row]}: {'none' if rows.labels[row] == NO_LABEL else rows.labels[row]}"

        self._note(f"a label from 0 to {class_count - 1}", wrong, describe)

    def check_same_labels(self, labels: NDArray[np.int64], known: NDArray[np.int64], ids: pa.Array) -> None:
        """Count rows whose label differs from the first member's.

        Args:
            labels: int64 `[N]`.
            known: the labels of the first member, int64 `[N]`, `NO_LABEL` for none.
            ids: the ids of the rows, `N` of them.
        """
        differ = (known != NO_LABEL) & (labels != known)
        self._note("the label of the first member", differ, lambda row: f"{ids[row]}: {labels[row]}, not {known[row]}")

    def _note(self, expected: str, wrong: NDArray[Any], describe: Callable[[int], str]) -> None:
        problem = self._found.setdefault(expected, _RowProblem())
        problem.rows += int(wrong.sum())
        problem.examples += [
            describe(row) for row in np.flatnonzero(wrong)[: _SHOWN + 1 - len(problem.examples)].tolist()
        ]

    def raise_first(self) -> None:
        """Raise `InputError` for the first problem, if there is one."""
        for expected, problem in self._found.items():
            if problem.rows:
                rows = "1 bad row" if problem.rows == 1 else f"{problem.rows} bad rows"
                raise InputError(
                    f"{self._where}: expected {expected} in each row, found {rows} "
                    f"({first_rows(problem.examples)}). {self._fix}"
                )


def first_rows(items: pa.Array | Sequence[str]) -> str:
    """Format the first few items, for a message."""
    shown = items[:_SHOWN].to_pylist() if isinstance(items, pa.Array) else list(items[:_SHOWN])
    return ", ".join([*map(str, shown), *(["..."] if len(items) > _SHOWN else [])])
