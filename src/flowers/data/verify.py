"""Checking a whole data set: what each shard holds, and what is wrong with it, with a split, with the resolutions.

A shard is read by `scan_shard`, in a process of its own, and only its ids and labels are kept: `gather` makes arrays of
them, a number in place of each id. The other functions are pure, from these arrays to findings.
"""

from __future__ import annotations

import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowers.cores import available_cores
from flowers.data.example import check_label, decode_example, decode_image
from flowers.data.layout import (
    SPLITS,
    ShardFile,
    Split,
    find_shards,
    image_sizes,
    read_class_names,
    shard_name,
    size_directory,
)
from flowers.data.reader import ShardReader
from flowers.data.shards import index_shard, shard_fault
from flowers.errors import BadRecord, InputError
from flowers.progress import progress

NO_LABEL = -1
"""In place of a label: there is none, or none that can be."""

Kind = Literal["split", "shard", "record", "duplicate", "leak", "resolution"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault: its kind, where it is as far as that can be told, and a sentence that says all of it."""

    kind: Kind
    message: str
    file: str
    record: int | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to scan."""

    size: int
    split: Split
    shard: ShardFile


class Row(NamedTuple):
    """A record whose id could be read: its number in the shard, the id, the label, `NO_LABEL` where there is none."""

    record: int
    id: str
    label: int


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a shard holds: `found` records, readable or not; `rows` of those whose id could be read."""

    task: ShardTask
    found: int
    rows: list[Row]
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Part:
    """A split at one resolution; its `N` records are those whose id could be read, in order.

    files: the shards.
    found: the records that were found, readable or not.
    unread: those that are known to be there but for damage, without an id to know them by.
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
        """How many records cannot be used."""
        return sum(finding.kind == "record" for finding in self.findings)

    @property
    def classes(self) -> int:
        """How many classes have a record."""
        return len(np.unique(self.labels[self.labels != NO_LABEL]))

    def where(self, row: int) -> str:
        """A record's place for messages, as `ShardReader.where` gives it."""
        return f"{self.files[self.shards[row]]}: record {self.records[row]}"

    def finding(self, kind: Kind, row: int, identity: str, fault: str) -> Finding:
        """What is wrong with a record."""
        file = str(self.files[self.shards[row]])
        return Finding(kind, f"{self.where(row)}: {fault}", file, int(self.records[row]), identity)

    def first_rows(self, id_count: int) -> NDArray[np.int64]:
        """The row where each id stands first, int64 `[id_count]`, -1 where it does not."""
        rows = np.full(id_count, -1)
        ids, first = np.unique(self.ids, return_index=True)
        rows[ids] = first
        return rows


@dataclass(frozen=True, slots=True)
class Verification:
    """A data set's parts, and everything that is wrong with it."""

    class_count: int
    parts: list[Part]
    findings: list[Finding]


def verify(root: Path, *, decode: bool) -> Verification:
    """Check every record of a data set in Kaggle's layout, on all cores.

    Args:
        root: its directory.
        decode: whether each JPEG is decoded; if not, its payload's CRC, features and label are still checked.

    Raises:
        InputError: there is no data set, or its classes.txt is none.
    """
    if re.match(r"\w{2,}:/", str(root)):  # a Path has made one slash of two
        raise InputError(f"root={root}: expected a directory, found a URL: verify reads local data sets only. Copy it.")
    sizes = image_sizes(root) if root.is_dir() else []
    if not sizes:
        raise InputError(
            f"{root}: expected a data set in Kaggle's layout (tfrecords-jpeg-SxS/{{train,val,test}}), found none. "
            "Set root to one."
        )
    class_count = len(read_class_names(root))
    tasks, findings = plan(root, sizes)
    scan = partial(scan_shard, class_count=class_count, decode=decode)
    parts, ids = gather(_scan_all(scan, tasks))
    findings += [finding for part in parts for finding in part.findings]
    return Verification(class_count, parts, [*findings, *find_faults(parts, ids)])


def plan(root: Path, sizes: Sequence[int]) -> tuple[list[ShardTask], list[Finding]]:
    """The shards to scan, by resolution and split, and the splits that are missing; test may be missing everywhere."""
    shards: dict[tuple[int, Split], list[ShardFile]] = {}
    for size in sizes:
        for split in SPLITS:
            try:
                shards[size, split] = find_shards(root, split, size)
            except InputError:
                shards[size, split] = []
    tasks = [ShardTask(size, split, shard) for (size, split), found in shards.items() for shard in found]
    wanted = {"train", "val", *(task.split for task in tasks)}
    missing = [size_directory(root, size) / split for (size, split), found in shards.items() if not found]
    expected = f"expected shards named like {shard_name(0, sizes[0], 798)}, found none. Copy or download the split."
    return tasks, [Finding("split", f"{path}: {expected}", str(path)) for path in missing if path.name in wanted]


def _scan_all(scan: partial[ShardFacts], tasks: Sequence[ShardTask]) -> Iterator[ShardFacts]:
    # Spawned, not forked: the caller may have threads running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(available_cores(), len(tasks))), mp_context=context) as pool:
        yield from progress(pool.map(scan, tasks), "Verifying", len(tasks))


def scan_shard(task: ShardTask, class_count: int, decode: bool) -> ShardFacts:
    """Read every record of a shard."""
    path = task.shard.local
    try:
        index = index_shard(path)
    except OSError as error:
        message = f"{path}: expected a shard, found what cannot be read ({error.strerror}). Copy or download it again."
        return ShardFacts(task, 0, [], [Finding("shard", message, str(path))])
    fault = shard_fault(index, task.shard.count)
    findings = [Finding("shard", fault, str(path))] if fault else []
    rows: list[Row] = []
    reader = ShardReader([index])
    pixels = np.empty((task.size, task.size, 3), np.uint8)
    for number in range(len(reader)):
        where = reader.where(number)
        row = None
        try:
            record = decode_example(reader[number], labelled=task.split != "test", where=where)
            row = Row(number, record.id, NO_LABEL)
            check_label(record, class_count, where)
            row = row._replace(label=NO_LABEL if record.label is None else record.label)
            if decode:
                decode_image(record, where, pixels)
        except BadRecord as error:
            findings.append(Finding("record", str(error), str(path), number, row.id if row else None))
        if row:
            rows.append(row)
    return ShardFacts(task, len(reader), rows, findings)


def gather(facts: Iterable[ShardFacts]) -> tuple[list[Part], list[str]]:
    """The parts, from their shards' facts in order, and the data set's ids by number."""
    numbers: dict[str, int] = {}
    parts = []
    for (size, split), shards in groupby(facts, key=lambda shard: (shard.task.size, shard.task.split)):
        parts.append(_gather_part(size, split, shards, numbers))
    return parts, list(numbers)


def _gather_part(size: int, split: Split, facts: Iterable[ShardFacts], numbers: dict[str, int]) -> Part:
    files: list[Path] = []
    findings: list[Finding] = []
    columns: list[NDArray[np.int64]] = []
    found = unread = 0
    for place, shard in enumerate(facts):
        files.append(shard.task.shard.local)
        findings += shard.findings
        rows = [(place, row.record, numbers.setdefault(row.id, len(numbers)), row.label) for row in shard.rows]
        columns.append(np.array(rows, np.int64).reshape(-1, 4).T)
        found += shard.found
        unread += max(shard.found, shard.task.shard.count or 0) - len(rows)
    shards, records, ids, labels = np.concatenate(columns, axis=1)
    return Part(size, split, files, found, unread, shards, records, ids, labels, findings)


def find_faults(parts: Sequence[Part], ids: Sequence[str]) -> list[Finding]:
    """What is wrong between records that can be read: within a split, between splits, between resolutions."""
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
    """Records whose id stood in the split before."""
    for row in np.flatnonzero(first[part.ids] != np.arange(len(part.ids))).tolist():
        number = int(part.ids[row])
        earlier = part.where(int(first[number]))
        fault = f"expected each id once in {part.split}, found {ids[number]} here and in {earlier}."
        yield part.finding("duplicate", row, ids[number], fault)


def _leaks(
    parts: Sequence[Part], rows: dict[tuple[int, Split], NDArray[np.int64]], ids: Sequence[str]
) -> Iterator[Finding]:
    """Ids that are in more than one split, at whatever resolutions: once each."""
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
    """Ids of one split that some resolutions have and others have not; `first` is int64 `[parts, ids]`."""
    present = first >= 0
    known = present.any(axis=0)
    absent = known & ~present
    for row, part in enumerate(parts):
        if absent[row].sum() <= part.unread:
            absent[row] = False  # what could not be read explains them, and is told already
    for number in np.flatnonzero(absent.any(axis=0)).tolist():
        has = [part.size for part, there in zip(parts, present[:, number], strict=True) if there]
        lacks = [part for part, missing in zip(parts, absent[:, number], strict=True) if missing]
        directory = lacks[0].files[0].parent
        fault = f"expected the same ids at every resolution, found {ids[number]} at {has}, not at "
        message = f"{directory}: {fault}{[part.size for part in lacks]}."
        yield Finding("resolution", message, str(directory), None, ids[number])


def _differing(parts: Sequence[Part], first: NDArray[np.int64], ids: Sequence[str]) -> Iterator[Finding]:
    """Ids of one split whose label is not the same at every resolution; `first` is int64 `[parts, ids]`."""
    # Row -1, of an id that is not there, is the label appended.
    labels = np.stack([np.append(part.labels, NO_LABEL)[rows] for part, rows in zip(parts, first, strict=True)])
    highest = labels.max(axis=0)
    for number in np.flatnonzero(((labels != highest) & (labels != NO_LABEL)).any(axis=0)).tolist():
        column = labels[:, number].tolist()
        counts = Counter(label for label in column if label != NO_LABEL)
        odd = column.index(counts.most_common()[-1][0])  # the part that is likeliest wrong
        found = ", ".join(f"{label} at {part.size}" for part, label in zip(parts, column, strict=True) if label >= 0)
        fault = f"expected one label at every resolution, found for {ids[number]}: {found}."
        yield parts[odd].finding("resolution", int(first[odd, number]), ids[number], fault)


def write_report(path: Path, verification: Verification) -> None:
    """Everything that was found, as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    parts = [
        {"size": part.size, "split": part.split, "shards": len(part.files), "records": part.found}
        | {"classes": part.classes, "bad": part.bad}
        for part in verification.parts
    ]
    findings = [asdict(finding) for finding in verification.findings]
    report = {"class_count": verification.class_count, "parts": parts, "findings": findings}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"report={path}: cannot be written: {error.strerror}. Set it to a file that can.") from None
