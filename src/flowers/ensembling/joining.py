"""Members' predictions of a split joined on the id: the same rows, classes and labels, checked, member by member.

The joined probabilities lie in a file: a million rows of many members need no more memory than their ids.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flowers.data.batch import NO_LABEL
from flowers.ensembling.members import Member, difference
from flowers.ensembling.predictions import Part, read_ids, read_provenance, read_rows
from flowers.ensembling.scores import Labels, Probabilities
from flowers.errors import InputError

SUM_TOLERANCE = 1e-3
"""How far a row's sum may be from one: what 16 bits a number leave, and no more."""

_SHOWN = 3
_FILLED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Joined:
    """The members' predictions of the same rows.

    ids: of the rows, in the order of the first member.
    labels: int64 `[N]`, `NO_LABEL` where there is none.
    file: with the probabilities, of `shape` `[M, N, K]`.
    """

    ids: pa.Array
    labels: Labels
    file: Path
    shape: tuple[int, int, int]

    @property
    def probabilities(self) -> Probabilities:
        """Float32 `[M, N, K]`, mapped from the file anew each time; each row sums to one.

        What was looked at stays in memory as long as the array does: take one for some rows at a time.
        """
        return np.memmap(self.file, np.float32, mode="r+", shape=self.shape)


def check_same_classes(members: Sequence[Member]) -> list[str]:
    """The members' class names in label order.

    Raises:
        InputError: they are not the same for all members.
    """
    first = members[0]
    names = first.provenance.class_names
    for member in members[1:]:
        if differing := difference(names, member.provenance.class_names):
            raise InputError(
                f"{member.name}: expected the {len(names)} classes of {first.name} in their order, found {differing}. "
                "Only members that were trained on the same classes can be blended."
            )
    return names


def join_validation(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> Joined:
    """The members' validation predictions; with `allow_missing` only of the rows that all of them have.

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
        _check_same_ids(members, own, "validation")
    if len(ids) == 0:
        raise InputError("runs: expected validation images that all members have predicted, found none.")
    joined = _empty(ids, len(members), len(classes), scratch / "val")
    for number, member in enumerate(members):
        for path in member.val:
            _copy_rows(member, path, joined, number, classes, labelled=True)
    return joined


def join_test(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> Joined:
    """The members' test predictions; with `allow_missing` a row that a member lacks gets the mean of the others.

    Raises:
        InputError: the members' rows differ, or a row is none of probabilities.
    """
    classes = check_same_classes(members)
    own = [_ids_of(member, [path]) for member in members for path in member.test]
    owners = [member for member in members for _ in member.test]
    ids = own[0]
    if allow_missing:
        for other in own[1:]:
            ids = pa.concat_arrays([ids, other.filter(pc.invert(pc.is_in(other, value_set=ids)))])
    else:
        _check_same_ids(owners, own, "test")
        _check_none_skipped(members)
    if len(ids) == 0:
        raise InputError("runs: expected test images that the members have predicted, found none.")
    joined = _empty(ids, len(members), len(classes), scratch / "test")
    counts = np.zeros((len(members), len(ids)), np.int32)
    for number, (member, count) in enumerate(zip(members, counts, strict=True)):
        for path in member.test:
            count[_copy_rows(member, path, joined, number, classes, labelled=False)] += 1
    _average(joined, counts)
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


def _check_same_ids(members: Sequence[Member], own: Sequence[pa.Array], split: str) -> None:
    """Compare each member's ids with those of the member that has most."""
    fullest = max(range(len(own)), key=lambda index: len(own[index]))
    for member, ids in zip(members, own, strict=True):
        missing = own[fullest].filter(pc.invert(pc.is_in(own[fullest], value_set=ids)))
        strange = ids.filter(pc.invert(pc.is_in(ids, value_set=own[fullest])))
        if len(missing) or len(strange):
            faults = [f"{len(missing)} missing ({_examples(missing)})"] * bool(len(missing))
            faults += [f"{len(strange)} that the other lacks ({_examples(strange)})"] * bool(len(strange))
            raise InputError(
                f"{member.name}: expected the {len(own[fullest])} {split} ids of {members[fullest].name}, found "
                f"{' and '.join(faults)}. Predict both from the same data set, or set allow_missing=true."
            )


def _check_none_skipped(members: Sequence[Member]) -> None:
    for member in members:
        for path in member.test:
            if skipped := read_provenance(path).skipped:
                raise InputError(
                    f"{member.name}: expected every record of the data set, found that {skipped} had been skipped as "
                    "unreadable. Mend the data set and predict again, or set allow_missing=true."
                )


def _empty(ids: pa.Array, members: int, classes: int, file: Path) -> Joined:
    """Rows without labels, and with zeros for probabilities."""
    size = 4 * members * len(ids) * classes
    if (free := shutil.disk_usage(file.parent).free) < size:
        raise InputError(
            f"{file.parent}: expected {size / 1e9:.1f} GB of room for the members' joined predictions, found "
            f"{free / 1e9:.1f} GB. Make room, or write elsewhere with paths.log_dir=DIR."
        )
    with file.open("wb") as new:
        new.truncate(size)
    return Joined(ids, np.full(len(ids), NO_LABEL), file, (members, len(ids), classes))


def _copy_rows(
    member: Member, path: Path, joined: Joined, number: int, classes: Sequence[str], *, labelled: bool
) -> NDArray[np.int64]:
    """Add a file's rows to the member's of that number, where their ids are; the numbers of these rows."""
    bad = _Faults(member, path)
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
        with np.errstate(divide="ignore", invalid="ignore"):  # in rows that are complained of
            joined.probabilities[number, target] += probabilities / probabilities.sum(-1, keepdims=True)
    bad.complain()
    placed: NDArray[np.int64] = targets[targets >= 0]
    return placed


class _Faults:
    """What is wrong with the rows of a member's file: counted over all of it, told with examples."""

    def __init__(self, member: Member, path: Path) -> None:
        self._where = f"{member.name} ({path.name})" if member.name != str(path) else member.name
        self._found: dict[str, list[str]] = {}  # examples by what was expected

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

        def told(row: int) -> str:
            return f"{rows.ids[row]}: {'none' if rows.labels[row] == NO_LABEL else rows.labels[row]}"

        self._note(f"a label from 0 to {class_count - 1}", wrong, told)

    def check_same_labels(self, labels: Labels, known: Labels, ids: pa.Array) -> None:
        differ = (known != NO_LABEL) & (labels != known)
        self._note("the label of the first member", differ, lambda row: f"{ids[row]}: {labels[row]}, not {known[row]}")

    def _note(self, expected: str, wrong: NDArray[Any], told: Callable[[int], str]) -> None:
        self._found.setdefault(expected, []).extend(told(row) for row in np.flatnonzero(wrong).tolist())

    def complain(self) -> None:
        """Raise `InputError` if there was a fault."""
        for expected, examples in self._found.items():
            if examples:
                raise InputError(
                    f"{self._where}: expected {expected} in each row, found {len(examples)} rows that are otherwise "
                    f"({_examples(examples)}). Predict again, or leave the member out."
                )


def _average(joined: Joined, counts: NDArray[np.int32]) -> None:
    """Sums over `counts` `[M, N]` files to means; where a member has none, the mean of those that have."""
    for start in range(0, counts.shape[1], _FILLED_AT_ONCE):
        rows = np.s_[:, start : start + _FILLED_AT_ONCE]
        part, count = joined.probabilities[rows], counts[rows]
        part /= np.maximum(count, 1)[..., None]
        there = count > 0
        if not there.all():
            mean = part.sum(0) / there.sum(0)[:, None]
            part[:] = np.where(there[..., None], part, mean)


def _named(paths: Sequence[Path]) -> str:
    return " and ".join(path.name for path in dict.fromkeys(paths))


def _examples(items: pa.Array | Sequence[str]) -> str:
    shown = items[:_SHOWN].to_pylist() if isinstance(items, pa.Array) else list(items[:_SHOWN])
    return ", ".join([*map(str, shown), *(["..."] if len(items) > _SHOWN else [])])
