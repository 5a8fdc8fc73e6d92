"""Find contradictions between the readable records of a data set: within and between splits, and between resolutions.

The functions are pure: they map arrays of numbered ids and labels to findings.
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
"""The label of a record whose label is missing or invalid."""


Kind = Literal["split", "shard", "record", "duplicate", "leak", "resolution", "manifest"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem: its kind, its location as far as it is known, and a complete message."""

    kind: Kind
    message: str
    file: str
    record: int | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A split at one resolution. Its `N` records are those whose id could be read, in order.

    files: the shards.
    found: the number of records that were found, readable or not.
    unread: the number of records that damaged or missing shards should hold, but whose ids are unknown.
    shards: each record's shard, as a position in `files`, int64 `[N]`.
    records: each record's number in its shard, int64 `[N]`.
    ids: each record's id, as a number that is the same in all parts, int64 `[N]`.
    labels: each record's label, int64 `[N]`, `NO_LABEL` if it is missing or invalid.
    findings: the problems of single shards and records.
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
        """Return a record's location for messages, as `ShardReader.where` does."""
        return f"{self.files[self.shards[row]]}: record {self.records[row]}"

    def finding(self, kind: Kind, row: int, identity: str, problem: str) -> Finding:
        """Return a finding about a record."""
        file = str(self.files[self.shards[row]])
        return Finding(kind, f"{self.where(row)}: {problem}", file, int(self.records[row]), identity)

    def first_rows(self, id_count: int) -> NDArray[np.int64]:
        """Return the row of each id's first record, int64 `[id_count]`, or -1 if it has none."""
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
    """Find records whose id occurs earlier in the split."""
    for row in np.flatnonzero(first[part.ids] != np.arange(len(part.ids))).tolist():
        number = int(part.ids[row])
        earlier = part.where(int(first[number]))
        problem = f"expected each id once in {part.split}, found {ids[number]} here and in {earlier}."
        yield part.finding("duplicate", row, ids[number], problem)


def _leaks(
    parts: Sequence[Part], rows: dict[tuple[int, Split], NDArray[np.int64]], ids: Sequence[str]
) -> Iterator[Finding]:
    """Find ids that are in more than one split, at any resolutions. Each is reported once."""
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
    """Find ids of one split that some resolutions lack. `first` is int64 `[parts, ids]`."""
    present = first >= 0
    known = present.any(axis=0)
    absent = known & ~present
    for row, part in enumerate(parts):
        if absent[row].sum() <= part.unread:
            absent[row] = False  # unreadable records explain them, and are already reported
    for number in np.flatnonzero(absent.any(axis=0)).tolist():
        has = [part.size for part, there in zip(parts, present[:, number], strict=True) if there]
        lacks = [part for part, missing in zip(parts, absent[:, number], strict=True) if missing]
        directory = lacks[0].files[0].parent
        problem = f"expected the same ids at every resolution, found {ids[number]} at {has}, not at "
        message = f"{directory}: {problem}{[part.size for part in lacks]}."
        yield Finding("resolution", message, str(directory), None, ids[number])


def _differing(parts: Sequence[Part], first: NDArray[np.int64], ids: Sequence[str]) -> Iterator[Finding]:
    """Find ids of one split whose label differs between resolutions. `first` is int64 `[parts, ids]`."""
    # Row -1, for a missing id, selects the appended label.
    labels = np.stack([np.append(part.labels, NO_LABEL)[rows] for part, rows in zip(parts, first, strict=True)])
    highest = labels.max(axis=0)
    for number in np.flatnonzero(((labels != highest) & (labels != NO_LABEL)).any(axis=0)).tolist():
        column = labels[:, number].tolist()
        counts = Counter(label for label in column if label != NO_LABEL)
        odd = column.index(counts.most_common()[-1][0])  # the part that is most likely wrong
        found = ", ".join(f"{label} at {part.size}" for part, label in zip(parts, column, strict=True) if label >= 0)
        problem = f"expected one label at every resolution, found for {ids[number]}: {found}."
        yield parts[odd].finding("resolution", int(first[odd, number]), ids[number], problem)
