"""Members' predictions of a split joined on the id: the same rows, classes and labels, checked, member by member.

The joined probabilities lie in a file: a million rows of many members need no more memory than their ids.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flowers.data.class_names import class_difference
from flowers.ensembling.members import Member
from flowers.ensembling.scores import Labels, Probabilities
from flowers.errors import InputError
from flowers.inference.predictions import Part, read_ids, read_provenance, read_rows
from flowers.interfaces import NO_LABEL

SUM_TOLERANCE = 1e-3
"""How far a row's sum may be from one: what 16 bits a number leave, and no more."""

_SHOWN = 3
_DIVIDED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Joined:
    """The members' predictions of the same rows.

    ids: of the rows, in the order of the first member.
    labels: int64 `[N]`, `NO_LABEL` where there is none.
    there: which rows each member has, bool `[M, N]`; those that it lacks are zero.
    file: with the probabilities, of `shape` `[M, N, K]`.
    """

    ids: pa.Array
    labels: Labels
    there: NDArray[np.bool_]
    file: Path
    shape: tuple[int, int, int]

    @property
    def probabilities(self) -> Probabilities:
        """Float32 `[M, N, K]`, mapped from the file anew each time; each row sums to one.

        What was looked at stays in memory as long as the array does: take one for some rows at a time.
        """
        return np.memmap(self.file, np.float32, mode="r+", shape=self.shape)


def check_same_classes(members: Sequence[Member]) -> list[str]:
    """Return the members' class names in label order.

    Raises:
        InputError: they are not the same for all members.
    """
    first = members[0]
    names = first.provenance.class_names
    for member in members[1:]:
        if differing := class_difference(names, member.provenance.class_names):
            raise InputError(
                f"{member.name}: expected the {len(names)} classes of {first.name} in their order, found {differing}. "
                "Only members that were trained on the same classes can be blended."
            )
    return names


def join_validation(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> Joined:
    """Return the members' validation predictions; with `allow_missing` only of the rows that all of them have.

    Raises:
        InputError: the members' rows differ, a label does, or a row is none of probabilities.
    """
    classes = check_same_classes(members)
    own = [_ids_of(member, member.val) for member in members]
    ids = own[0]
    if allow_missing:
        for other in own[1:]:
            ids = ids.filter(pc.is_in(ids, value_set=other))
    else:
        _check_same_ids([(member.name, ids) for member, ids in zip(members, own, strict=True)], "validation")
    if len(ids) == 0:
        raise InputError("runs: expected validation images that all members have predicted, found none.")
    joined = _empty(ids, len(members), len(classes), scratch / "val")
    for number, member in enumerate(members):
        for path in member.val:
            joined.there[number, _copy_rows(member, path, joined, number, classes, labelled=True)] = True
    return joined


def join_test(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> Joined:
    """Return the members' test predictions; with `allow_missing` of all rows that a member has.

    Raises:
        InputError: the members' rows differ, or a row is none of probabilities.
    """
    classes = check_same_classes(members)
    parts = [(_at(member, path), _ids_of(member, [path])) for member in members for path in member.test]
    own = [ids for _, ids in parts]
    for name, ids in parts:
        if len(ids) == 0:
            raise InputError(f"{name}: expected test images, found none. Predict again, or leave the member out.")
    ids = own[0]
    if allow_missing:
        for other in own[1:]:
            ids = pa.concat_arrays([ids, other.filter(pc.invert(pc.is_in(other, value_set=ids)))])
    else:
        _check_same_ids(parts, "test")
        _check_none_skipped(members)
    joined = _empty(ids, len(members), len(classes), scratch / "test")
    for number, member in enumerate(members):
        counts = np.zeros(len(ids), np.int32)
        for path in member.test:
            counts[_copy_rows(member, path, joined, number, classes, labelled=False)] += 1
        joined.there[number] = counts > 0
        if len(member.test) > 1:
            _divide(joined, number, np.maximum(counts, 1))
    return joined


def _ids_of(member: Member, paths: Sequence[Path]) -> pa.Array:
    ids = pa.concat_arrays([read_ids(path) for path in paths])
    if ids.null_count:
        raise InputError(
            f"{member.name}: expected an id in each row of {_named(paths)}, found {ids.null_count} without one. "
            "Predict again."
        )
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = ids.value_counts()
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise InputError(
            f"{member.name}: expected each id once in {_named(paths)}, found {len(twice)} more than once: "
            f"{_examples(twice)}. Predict again from a data set without duplicates."
        )
    return ids


def _check_same_ids(parts: Sequence[tuple[str, pa.Array]], split: str) -> None:
    """Compare the ids of each part with those of the part that has most."""
    fullest, expected = max(parts, key=lambda part: len(part[1]))
    for name, ids in parts:
        missing = expected.filter(pc.invert(pc.is_in(expected, value_set=ids)))
        unexpected = ids.filter(pc.invert(pc.is_in(ids, value_set=expected)))
        if len(missing) or len(unexpected):
            problems = [f"{len(missing)} missing ({_examples(missing)})"] * bool(len(missing))
            problems += [f"{len(unexpected)} that the other lacks ({_examples(unexpected)})"] * bool(len(unexpected))
            raise InputError(
                f"{name}: expected the {len(expected)} {split} ids of {fullest}, found {' and '.join(problems)}. "
                "Predict both from the same data set, or set allow_missing=true."
            )


def _check_none_skipped(members: Sequence[Member]) -> None:
    for member in members:
        for path in member.test:
            if skipped := read_provenance(path).skipped:
                raise InputError(
                    f"{_at(member, path)}: expected every record of the data set, found that {skipped} had "
                    "been skipped as unreadable. Fix the data set and predict again, or set allow_missing=true."
                )


def _empty(ids: pa.Array, members: int, classes: int, file: Path) -> Joined:
    """Make rows without labels, with zeros for probabilities."""
    size = 4 * members * len(ids) * classes
    if (free := shutil.disk_usage(file.parent).free) < size:
        raise InputError(
            f"{file.parent}: expected {size / 1e9:.1f} GB of room for the members' joined predictions, found "
            f"{free / 1e9:.1f} GB. Make room, or write elsewhere with paths.log_dir=DIR."
        )
    with file.open("wb") as new:
        new.truncate(size)
    there = np.zeros((members, len(ids)), bool)
    return Joined(ids, np.full(len(ids), NO_LABEL), there, file, (members, len(ids), classes))


def _copy_rows(
    member: Member, path: Path, joined: Joined, number: int, classes: Sequence[str], *, labelled: bool
) -> NDArray[np.int64]:
    """Add a file's rows to the member's of that number, where their ids are; the numbers of these rows."""
    bad = _RowProblems(member, path)
    # For the whole file: a look-up first makes an index of all ids.
    targets: NDArray[np.int64] = (
        pc.index_in(read_ids(path), value_set=joined.ids).fill_null(-1).to_numpy().astype(np.int64)
    )
    start = 0
    for rows in read_rows(path, classes):
        bad.check(rows)
        target = targets[start : start + len(rows.ids)]
        start += len(rows.ids)
        wanted = target >= 0
        target = target[wanted]
        if labelled:
            bad.check_labels(rows, len(classes))
            bad.check_same_labels(rows.labels[wanted], joined.labels[target], joined.ids.take(pa.array(target)))
            joined.labels[target] = rows.labels[wanted]
        probabilities = rows.probabilities[wanted]
        with np.errstate(divide="ignore", invalid="ignore"):  # in rows that are reported
            joined.probabilities[number, target] += probabilities / probabilities.sum(-1, keepdims=True)
    bad.raise_first()
    placed: NDArray[np.int64] = targets[targets >= 0]
    return placed


@dataclass(slots=True)
class _RowProblem:
    """How many rows have a problem, and the first of them."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)


class _RowProblems:
    """What is wrong with the rows of a member's file: counted over all of it, reported with examples."""

    def __init__(self, member: Member, path: Path) -> None:
        self._where = _at(member, path)
        self._found: dict[str, _RowProblem] = {}  # by what was expected

    def check(self, rows: Part) -> None:
        with np.errstate(invalid="ignore"):
            sums = rows.probabilities.sum(-1)
            broken = np.logical_not(np.isfinite(rows.probabilities).all(-1))
            negative = ~broken & (rows.probabilities < 0).any(-1)
            off = ~broken & ~negative & (np.abs(sums - 1) > SUM_TOLERANCE)
        self._note("finite numbers as probabilities", broken, lambda row: f"{rows.ids[row]}")
        self._note("probabilities of at least 0", negative, lambda row: f"{rows.ids[row]}")
        self._note("probabilities that sum to one", off, lambda row: f"{rows.ids[row]}: {sums[row]:.4g}")

    def check_labels(self, rows: Part, class_count: int) -> None:
        wrong = (rows.labels < 0) | (rows.labels >= class_count)

        def describe(row: int) -> str:
            return f"{rows.ids[row]}: {'none' if rows.labels[row] == NO_LABEL else rows.labels[row]}"

        self._note(f"a label from 0 to {class_count - 1}", wrong, describe)

    def check_same_labels(self, labels: Labels, known: Labels, ids: pa.Array) -> None:
        differ = (known != NO_LABEL) & (labels != known)
        self._note("the label of the first member", differ, lambda row: f"{ids[row]}: {labels[row]}, not {known[row]}")

    def _note(self, expected: str, wrong: NDArray[Any], describe: Callable[[int], str]) -> None:
        problem = self._found.setdefault(expected, _RowProblem())
        problem.rows += int(wrong.sum())
        problem.examples += [
            describe(row) for row in np.flatnonzero(wrong)[: _SHOWN + 1 - len(problem.examples)].tolist()
        ]

    def raise_first(self) -> None:
        """Raise `InputError` if there was a problem."""
        for expected, problem in self._found.items():
            if problem.rows:
                rows = "1 row that is" if problem.rows == 1 else f"{problem.rows} rows that are"
                raise InputError(
                    f"{self._where}: expected {expected} in each row, found {rows} otherwise "
                    f"({_examples(problem.examples)}). Predict again, or leave the member out."
                )


def _divide(joined: Joined, number: int, counts: NDArray[np.int32]) -> None:
    """Divide a member's sums over its folds to get means."""
    for start in range(0, len(counts), _DIVIDED_AT_ONCE):
        rows = np.s_[start : start + _DIVIDED_AT_ONCE]
        joined.probabilities[number, rows] /= counts[rows, None]


def _at(member: Member, path: Path) -> str:
    """Return a member, and which of its files."""
    if member.name == str(path):
        return member.name
    parts = path.parts[-3:] if len(member.val) > 1 else path.parts[-2:]
    return f"{member.name} ({'/'.join(parts)})"


def _named(paths: Sequence[Path]) -> str:
    return " and ".join(path.name for path in dict.fromkeys(paths))


def _examples(items: pa.Array | Sequence[str]) -> str:
    shown = items[:_SHOWN].to_pylist() if isinstance(items, pa.Array) else list(items[:_SHOWN])
    return ", ".join([*map(str, shown), *(["..."] if len(items) > _SHOWN else [])])
