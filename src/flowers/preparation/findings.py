"""Find what is wrong between the readable records of a data set: within a split, between splits, between resolutions.

The functions are pure: from arrays of numbered ids and labels to findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowers.data.layout import (
    SPLITS,
    Split,
)

NO_LABEL = -1
"""In place of a label: there is none, or none that can be."""


Kind = Literal["split", "shard", "record", "duplicate", "leak", "resolution", "manifest"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem: its kind, its place as far as that is known, and a message with all of it."""

    kind: Kind
    message: str
    file: str
    record: int | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A split at one resolution; its `N` records are those whose id could be read, in order.

    files: the shards.
    found: the records that were found, readable or not.
    unread: those that damaged or missing shards are known to have had, without an id to know them by.
    shards, records: of each record its shard's place in `files` and its number in it, int64 `[N]`.
    ids: a number for each record's id, the same in all parts, int64 `[N]`.
    labels: int64 `[N]`, `NO_LABEL` where there is none or none that can be.
    findings: what is wrong with single shards and records.
    """

    size: int
    split: Split
    files: list[Path]
    found: int
    unread: int
    shards: NDArray[np.int64]
    records: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    findings: list[Finding]

    @property
    def bad(self) -> int:
        """The number of unusable records."""
        return sum(finding.kind == "record" for finding in self.findings)

    @property
    def classes(self) -> int:
        """The number of classes that have a record."""
        return len(np.unique(self.labels[self.labels != NO_LABEL]))

    def where(self, row: int) -> str:
        """Return a record's place for messages, as `ShardReader.where` does."""
        return f"{self.files[self.shards[row]]}: record {self.records[row]}"

    def finding(self, kind: Kind, row: int, identity: str, problem: str) -> Finding:
        """Return the finding of a record's problem."""
        file = str(self.files[self.shards[row]])
        return Finding(kind, f"{self.where(row)}: {problem}", file, int(self.records[row]), identity)

    def first_rows(self, id_count: int) -> NDArray[np.int64]:
        """Return the row of each id's first record, int64 `[id_count]`, -1 if it has none."""
        rows = np.full(id_count, -1)
        ids, first = np.unique(self.ids, return_index=True)
        rows[ids] = first
        return rows


def find_problems(parts: Sequence[Part], ids: Sequence[str]) -> list[Finding]:
    """Find the problems within each split, between splits, and between resolutions."""
    rows = {(part.size, part.split): part.first_rows(len(ids)) for part in parts}
    findings = [finding for part in parts for finding in _duplicates(part, rows[part.size, part.split], ids)]
    findings += _leaks(parts, rows, ids)
    for split in SPLITS:
        same = [part for part in parts if part.split == split]
        if len(same) > 1:
            first = np.stack([rows[part.size, split] for part in same])
            findings += [*_missing(same, first, ids), *_differing(same, first, ids)]
    return findings


def _duplicates(part: Part, first: NDArray[np.int64], ids: Sequence[str]) -> Iterator[Finding]:
    """Find records whose id stood in the split before."""
    for row in np.flatnonzero(first[part.ids] != np.arange(len(part.ids))).tolist():
        number = int(part.ids[row])
        earlier = part.where(int(first[number]))
        problem = f"expected each id once in {part.split}, found {ids[number]} here and in {earlier}."
        yield part.finding("duplicate", row, ids[number], problem)


def _leaks(
    parts: Sequence[Part], rows: dict[tuple[int, Split], NDArray[np.int64]], ids: Sequence[str]
) -> Iterator[Finding]:
    """Find ids that are in more than one split, at whatever resolutions: once each."""
    counts = np.zeros(len(ids), np.int64)
    for split in SPLITS:
        present = [rows[part.size, split] >= 0 for part in parts if part.split == split]
        counts += np.logical_or.reduce(present) if present else 0
    for number in np.flatnonzero(counts > 1).tolist():
        places: dict[Split, tuple[Part, int]] = {}
        for part in parts:
            if (row := int(rows[part.size, part.split][number])) >= 0:
                places.setdefault(part.split, (part, row))
        found = " and ".join(f"in {split} ({part.where(row)})" for split, (part, row) in places.items())
        last, row = list(places.values())[-1]
        yield last.finding("leak", row, ids[number], f"expected each id in one split, found {ids[number]} {found}.")


def _missing(parts: Sequence[Part], first: NDArray[np.int64], ids: Sequence[str]) -> Iterator[Finding]:
    """Find ids of one split that some resolutions lack; `first` is int64 `[parts, ids]`."""
    present = first >= 0
    known = present.any(axis=0)
    absent = known & ~present
    for row, part in enumerate(parts):
        if absent[row].sum() <= part.unread:
            absent[row] = False  # what could not be read explains them, and is reported already
    for number in np.flatnonzero(absent.any(axis=0)).tolist():
        has = [part.size for part, there in zip(parts, present[:, number], strict=True) if there]
        lacks = [part for part, missing in zip(parts, absent[:, number], strict=True) if missing]
        directory = lacks[0].files[0].parent
        problem = f"expected the same ids at every resolution, found {ids[number]} at {has}, not at "
        message = f"{directory}: {problem}{[part.size for part in lacks]}."
        yield Finding("resolution", message, str(directory), None, ids[number])


def _differing(parts: Sequence[Part], first: NDArray[np.int64], ids: Sequence[str]) -> Iterator[Finding]:
    """Find ids of one split whose label differs between resolutions; `first` is int64 `[parts, ids]`."""
    # Row -1, of an id that is not there, is the label appended.
    labels = np.stack([np.append(part.labels, NO_LABEL)[rows] for part, rows in zip(parts, first, strict=True)])
    highest = labels.max(axis=0)
    for number in np.flatnonzero(((labels != highest) & (labels != NO_LABEL)).any(axis=0)).tolist():
        column = labels[:, number].tolist()
        counts = Counter(label for label in column if label != NO_LABEL)
        odd = column.index(counts.most_common()[-1][0])  # the part that is likeliest wrong
        found = ", ".join(f"{label} at {part.size}" for part, label in zip(parts, column, strict=True) if label >= 0)
        problem = f"expected one label at every resolution, found for {ids[number]}: {found}."
        yield parts[odd].finding("resolution", int(first[odd, number]), ids[number], problem)
