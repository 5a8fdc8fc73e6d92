"""Align the members' predictions of a split on the id, and check that their rows, classes and labels agree.

The aligned probabilities are in a memory-mapped file: a million rows of many members need no more memory than their
ids.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flowers.data.class_names import class_difference
from flowers.ensembling.members import Member
from flowers.ensembling.scores import Labels, Probabilities
from flowers.errors import FULL, InputError
from flowers.interfaces import NO_LABEL
from flowers.training.predictions import read_ids, read_provenance, read_rows
from flowers.training.row_checks import RowProblems, first_rows

_DIVIDED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class AlignedPredictions:
    """The members' predictions of the same rows.

    ids: the rows' ids, in the order of the first member.
    labels: int64 `[N]`, `NO_LABEL` where there is none.
    present: which rows each member has, bool `[M, N]`. The probabilities of the other rows are zero.
    file: the file with the probabilities, float32.
    shape: the shape of the probabilities, `[M, N, K]`.
    """

    ids: pa.Array
    labels: Labels
    present: NDArray[np.bool_]
    file: Path
    shape: tuple[int, int, int]

    @property
    def probabilities(self) -> Probabilities:
        """Map the probabilities from the file, float32 `[M, N, K]`; each row sums to one.

        Rows that were read stay in memory as long as the array exists, so map it again for each part of the rows.
        """
        return np.memmap(self.file, np.float32, mode="r+", shape=self.shape)


def check_same_classes(members: Sequence[Member]) -> list[str]:
    """Return the members' class names in label order.

    Raises:
        InputError: the members have different classes, or in a different order.
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


def align_validation(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> AlignedPredictions:
    """Align the members' validation predictions.

    Args:
        members: the members, `M` of them.
        scratch: the directory for the file with the probabilities.
        allow_missing: align only the rows that all members have. Otherwise they must have the same rows.

    Raises:
        InputError: the members' rows or labels differ, or a row does not hold probabilities.
    """
    classes = check_same_classes(members)
    own = [_read_unique_ids(member, member.val) for member in members]
    ids = own[0]
    if allow_missing:
        for other in own[1:]:
            ids = ids.filter(pc.is_in(ids, value_set=other))
    else:
        _check_same_ids([(member.name, ids) for member, ids in zip(members, own, strict=True)], "validation")
    if len(ids) == 0:
        raise InputError("runs: expected validation images that all members have predicted, found none.")
    aligned = _allocate(ids, len(members), len(classes), scratch / "val")
    for number, member in enumerate(members):
        for path in member.val:
            aligned.present[number, _copy_rows(member, path, aligned, number, classes, labelled=True)] = True
    return aligned


def align_test(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> AlignedPredictions:
    """Align the members' test predictions. Those of folds are averaged.

    Args:
        members: the members, `M` of them.
        scratch: the directory for the file with the probabilities.
        allow_missing: align all rows that any member has. Otherwise they must have the same rows.

    Raises:
        InputError: the members' rows differ, or a row does not hold probabilities.
    """
    classes = check_same_classes(members)
    parts = [
        (_describe_file(member, path), _read_unique_ids(member, [path])) for member in members for path in member.test
    ]
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
    aligned = _allocate(ids, len(members), len(classes), scratch / "test")
    for number, member in enumerate(members):
        _copy_mean(member, member.test, aligned, number, classes, labelled=False)
    return aligned


def align_train(members: Sequence[Member], scratch: Path, *, allow_missing: bool) -> AlignedPredictions:
    """Align the members' training predictions.

    Each fold has other training rows. A member of folds has the rows of all its folds, each averaged over the folds
    that predicted it.

    Args:
        members: the members, `M` of them.
        scratch: the directory for the file with the probabilities.
        allow_missing: align all rows that any member has. Otherwise they must have the same rows.

    Raises:
        InputError: the members' rows or labels differ, or a row does not hold probabilities.
    """
    classes = check_same_classes(members)
    own = [
        pc.unique(pa.concat_arrays([_read_unique_ids(member, [path]) for path in member.train])) for member in members
    ]
    if not allow_missing:
        _check_same_ids([(member.name, ids) for member, ids in zip(members, own, strict=True)], "training")
    aligned = _allocate(pc.unique(pa.concat_arrays(own)), len(members), len(classes), scratch / "train")
    for number, member in enumerate(members):
        _copy_mean(member, member.train, aligned, number, classes, labelled=True)
    return aligned


def _copy_mean(
    member: Member,
    paths: Sequence[Path],
    aligned: AlignedPredictions,
    number: int,
    classes: Sequence[str],
    *,
    labelled: bool,
) -> None:
    """Set the rows of member `number` to the mean of several files' rows."""
    counts = np.zeros(len(aligned.ids), np.int32)
    for path in paths:
        counts[_copy_rows(member, path, aligned, number, classes, labelled=labelled)] += 1
    aligned.present[number] = counts > 0
    if len(paths) > 1:
        _divide(aligned, number, np.maximum(counts, 1))


def _read_unique_ids(member: Member, paths: Sequence[Path]) -> pa.Array:
    """Read the ids of files, and check that each row has one, and that they differ."""
    ids = pa.concat_arrays([read_ids(path) for path in paths])
    if ids.null_count:
        raise InputError(
            f"{member.name}: expected an id in each row of {_join_names(paths)}, found {ids.null_count} without one. "
            "Predict again."
        )
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = ids.value_counts()
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise InputError(
            f"{member.name}: expected each id once in {_join_names(paths)}, found {len(twice)} more than once: "
            f"{first_rows(twice)}. Predict again from a data set without duplicates."
        )
    return ids


def _check_same_ids(parts: Sequence[tuple[str, pa.Array]], split: str) -> None:
    """Compare the ids of each part with those of the part that has the most."""
    fullest, expected = max(parts, key=lambda part: len(part[1]))
    for name, ids in parts:
        missing = expected.filter(pc.invert(pc.is_in(expected, value_set=ids)))
        unexpected = ids.filter(pc.invert(pc.is_in(ids, value_set=expected)))
        if len(missing) or len(unexpected):
            problems = [f"{len(missing)} missing ({first_rows(missing)})"] * bool(len(missing))
            problems += [f"{len(unexpected)} that the other lacks ({first_rows(unexpected)})"] * bool(len(unexpected))
            raise InputError(
                f"{name}: expected the {len(expected)} {split} ids of {fullest}, found {' and '.join(problems)}. "
                "Predict both from the same data set, or set allow_missing=true."
            )


def _check_none_skipped(members: Sequence[Member]) -> None:
    for member in members:
        for path in member.test:
            if skipped := read_provenance(path).skipped:
                raise InputError(
                    f"{_describe_file(member, path)}: expected every record of the data set, found that {skipped} had "
                    "been skipped as unreadable. Fix the data set and predict again, or set allow_missing=true."
                )


def _allocate(ids: pa.Array, members: int, classes: int, file: Path) -> AlignedPredictions:
    """Create rows without labels whose probabilities are zero, and the file that holds them."""
    _reserve(file, 4 * members * len(ids) * classes)
    present = np.zeros((members, len(ids)), bool)
    return AlignedPredictions(ids, np.full(len(ids), NO_LABEL), present, file, (members, len(ids), classes))


def _reserve(file: Path, size: int) -> None:
    """Create a file of this size whose bytes are all on the disk: without room, writing to a mapped file kills.

    Raises:
        InputError: there is not enough room, or too little is left of a quota.
    """
    free = shutil.disk_usage(file.parent).free
    full = InputError(
        f"{file.parent}: expected {size / 1e9:.1f} GB of free space for the members' aligned predictions, found "
        f"{free / 1e9:.1f} GB, or less by a quota. Free some space, or write elsewhere with paths.log_dir=DIR."
    )
    if free < size:
        raise full
    try:
        with file.open("wb") as new:
            if size and hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(new.fileno(), 0, size)
            else:
                new.truncate(size)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise full from error


def _copy_rows(
    member: Member, path: Path, aligned: AlignedPredictions, number: int, classes: Sequence[str], *, labelled: bool
) -> NDArray[np.int64]:
    """Add a file's rows to the rows of member `number` with the same ids, and return the numbers of these rows."""
    bad = RowProblems(_describe_file(member, path), "Predict again, or leave the member out.")
    # For the whole file at once, because each call of index_in first builds an index of all ids.
    targets: NDArray[np.int64] = (
        pc.index_in(read_ids(path), value_set=aligned.ids).fill_null(-1).to_numpy().astype(np.int64)
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
            bad.check_same_labels(rows.labels[wanted], aligned.labels[target], aligned.ids.take(pa.array(target)))
            aligned.labels[target] = rows.labels[wanted]
        probabilities = rows.probabilities[wanted]
        with np.errstate(divide="ignore", invalid="ignore"):  # in bad rows, which are reported below
            aligned.probabilities[number, target] += probabilities / probabilities.sum(-1, keepdims=True)
    bad.raise_first()
    placed: NDArray[np.int64] = targets[targets >= 0]
    return placed


def _divide(aligned: AlignedPredictions, number: int, counts: NDArray[np.int32]) -> None:
    """Divide the sums over a member's folds by their counts, to get means."""
    for start in range(0, len(counts), _DIVIDED_AT_ONCE):
        rows = np.s_[start : start + _DIVIDED_AT_ONCE]
        aligned.probabilities[number, rows] /= counts[rows, None]


def _describe_file(member: Member, path: Path) -> str:
    """Return a member's name with that of one of its files, for messages."""
    if member.name == str(path):
        return member.name
    parts = path.parts[-3:] if len(member.val) > 1 else path.parts[-2:]
    return f"{member.name} ({'/'.join(parts)})"


def _join_names(paths: Sequence[Path]) -> str:
    return " and ".join(path.name for path in dict.fromkeys(paths))
