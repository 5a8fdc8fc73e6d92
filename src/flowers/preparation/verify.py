"""Checking a whole data set: what each shard holds, and what is wrong with it, with a split, with the resolutions.

A shard is read by `scan_shard`, in a process of its own, and only its ids and labels are kept: `gather` makes arrays of
them, a number in place of each id. The other functions are pure, from these arrays to findings.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from flowers.data.layout import (
    SPLITS,
    ShardFile,
    Split,
    class_difference,
    image_sizes,
    list_shards,
    read_class_names,
    shard_name,
    size_directory,
)
from flowers.data.storage.remote import open_path
from flowers.data.tfrecord.example import check_label, decode_example, decode_image
from flowers.data.tfrecord.framing import index_shard, shard_problem
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord, InputError
from flowers.preparation.manifest import Manifest, PlannedImage, read_manifest
from flowers.progress import progress
from flowers.system.atomic import write_atomic
from flowers.system.processes import map_on_processes

NO_LABEL = -1
"""In place of a label: there is none, or none that can be."""

ABSENT = -2
"""In place of the label of an id that is not there."""

Kind = Literal["split", "shard", "record", "duplicate", "leak", "resolution", "manifest"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault: its kind, where it is as far as that can be told, and a message with all of it."""

    kind: Kind
    message: str
    file: str
    record: int | None = None
    id: str | None = None


Shards = dict[tuple[int, Split], list[ShardFile]]
"""By resolution and split."""

Missing = dict[tuple[int, Split], dict[int, int]]
"""The numbers of missing shards, with the number of records that each should have or 0, by resolution and split."""


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


def local_root(text: str) -> Path:
    """The directory that `root` names, as a path or a `file://` URL.

    Raises:
        InputError: it is not local.
    """
    root = open_path(text, "root")
    if not isinstance(root, Path):
        raise InputError(
            f"root={text}: expected a local directory, found a URL. Every byte is read: copy the data set to a local "
            "directory and set root to that."
        )
    return root


def verify(root: Path, *, decode: bool) -> Verification:
    """Check every record of a data set in Kaggle's layout, on all cores.

    Args:
        root: its directory.
        decode: whether each JPEG is decoded; if not, its payload's CRC, features and label are still checked.

    Raises:
        InputError: there is no data set, it cannot be read, or its classes.txt is none.
    """
    sizes = image_sizes(root)
    if not sizes:
        raise InputError(
            f"{root}: expected a data set in Kaggle's layout (tfrecords-jpeg-SxS/{{train,val,test}}), found none. "
            "Set root to one."
        )
    class_names = read_class_names(root)
    manifest = read_manifest(UPath(root))
    shards, unreadable = _list_shards(root, sizes)
    missing = missing_shards(shards, manifest)
    tasks = [ShardTask(size, split, shard) for (size, split), found in shards.items() for shard in found]
    scan = partial(scan_shard, class_count=len(class_names), decode=decode)
    parts, ids = gather(progress(map_on_processes(scan, tasks), "Verifying", len(tasks)))
    parts = [
        replace(part, unread=part.unread + sum(missing.get((part.size, part.split), {}).values())) for part in parts
    ]
    findings = [*unreadable, *_missing_splits(root, shards, manifest), *_missing_files(root, missing)]
    findings += [finding for part in parts for finding in part.findings]
    findings += find_faults(parts, ids)
    if manifest:
        findings += compare_settings(root, manifest, sizes, class_names)
        findings += compare_manifest(manifest, parts, ids)
    return Verification(len(class_names), parts, findings)


def _list_shards(root: Path, sizes: Sequence[int]) -> tuple[Shards, list[Finding]]:
    """List the shards, none of a split that is missing, and what is wrong with the splits that cannot be read."""
    shards: Shards = {}
    findings = []
    for size in sizes:
        for split in SPLITS:
            try:
                shards[size, split] = list_shards(root, split, size)
            except InputError as error:
                findings.append(Finding("split", str(error), str(size_directory(root, size) / split)))
    return shards, findings


def missing_shards(shards: Shards, manifest: Manifest | None) -> Missing:
    """Find the shards that should be there and are not, by resolution and split; none of a split that is missing."""
    expected = _numbered_shards(shards) if manifest is None else _planned_shards(manifest)
    there = {place: {shard.number for shard in found} for place, found in shards.items()}
    return {
        place: {number: count for number, count in expected[place[1]].items() if number not in numbers}
        for place, numbers in there.items()
        if numbers
    }


def _planned_shards(manifest: Manifest) -> dict[Split, dict[int, int]]:
    """Return the numbers of a split's shards and how many records each has by the manifest."""
    counts = Counter((image.split, image.shard) for image in manifest.images)
    return {split: {shard: count for (of, shard), count in counts.items() if of == split} for split in SPLITS}


def _numbered_shards(shards: Shards) -> dict[Split, dict[int, int]]:
    """Return the same without a manifest: the shards that any resolution has, and the gaps between their numbers."""
    counts: dict[Split, dict[int, int]] = {split: {} for split in SPLITS}
    for (_, split), found in shards.items():
        counts[split] |= {shard.number: shard.count or 0 for shard in found if shard.number is not None}
    return {split: _fill_gaps(known) for split, known in counts.items()}


def _fill_gaps(counts: dict[int, int]) -> dict[int, int]:
    """Add the numbers between the least and the greatest, with 0 records.

    Where that would more than double them, they are left as they are: such numbers (dates, say) are not consecutive.
    """
    first, last = min(counts, default=0), max(counts, default=-1)
    if last - first + 1 > 2 * len(counts):
        return counts
    return {number: counts.get(number, 0) for number in range(first, last + 1)}


def _missing_files(root: Path, missing: Missing) -> Iterator[Finding]:
    for (size, split), counts in missing.items():
        for number, count in sorted(counts.items()):
            directory = size_directory(root, size) / split
            name = shard_name(number, size, count) if count else f"{number:02d}-{size}x{size}-N.tfrec"
            yield Finding("shard", f"{directory}: expected {name}, found none. Copy or download it.", str(directory))


def _missing_splits(root: Path, shards: Shards, manifest: Manifest | None) -> Iterator[Finding]:
    """Find the splits that are missing. Without a manifest, test may be missing everywhere."""
    wanted = {"train", "val", *(split for (_, split), found in shards.items() if found)}
    if manifest:
        wanted = {image.split for image in manifest.images}
    for (size, split), found in shards.items():
        if split in wanted and not found:
            path = size_directory(root, size) / split
            expected = f"expected shards named like {shard_name(0, size, 798)}, found none. Copy or download the split."
            yield Finding("split", f"{path}: {expected}", str(path))


def scan_shard(task: ShardTask, class_count: int, decode: bool) -> ShardFacts:
    """Read every record of a shard."""
    path = task.shard.local
    try:
        index = index_shard(path)
    except OSError as error:
        message = f"{path}: expected a shard, found what cannot be read ({error.strerror}). Copy or download it again."
        return ShardFacts(task, 0, [], [Finding("shard", message, str(path))])
    fault = shard_problem(index, task.shard.count)
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
            absent[row] = False  # what could not be read explains them, and is reported already
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


def compare_settings(
    root: Path, manifest: Manifest, sizes: Sequence[int], class_names: Sequence[str]
) -> Iterator[Finding]:
    """Compare the sizes and the class names of a data set with its manifest."""
    if sorted(manifest.sizes) != sorted(sizes):
        path = root / "prepare.json"
        expected = f"expected resolutions of {sorted(manifest.sizes)} pixels as in it, found {sorted(sizes)}."
        yield Finding("manifest", f"{path}: {expected}", str(path))
    planned = _class_names(manifest)
    if differing := class_difference(planned, class_names):
        path = root / "classes.txt"
        expected = f"expected the {len(planned)} classes of manifest.csv, found {differing}."
        yield Finding("manifest", f"{path}: {expected}", str(path))


def _class_names(manifest: Manifest) -> list[str]:
    return sorted({image.label for image in manifest.images})


def compare_manifest(manifest: Manifest, parts: Sequence[Part], ids: Sequence[str]) -> Iterator[Finding]:
    """Compare what all resolutions agree on with the manifest; `find_faults` compares them with each other."""
    numbers = {identity: number for number, identity in enumerate(ids)}
    labels = {split: _agreed_labels([part for part in parts if part.split == split], len(ids)) for split in SPLITS}
    classes = {name: label for label, name in enumerate(_class_names(manifest))}
    absent: dict[Split, list[Finding]] = {split: [] for split in SPLITS}
    for line, image in enumerate(manifest.images, 2):
        number = numbers.pop(image.id, None)
        found = {} if number is None else {s: int(labels[s][number]) for s in SPLITS if labels[s][number] != ABSENT}
        if fault := _image_fault(image, classes[image.label], found):
            message = f"{manifest.path}: line {line}: {fault}"
            finding = Finding("manifest", message, str(manifest.path), None, image.id)
            if found:
                yield finding
            else:
                absent[image.split].append(finding)
    for split, findings in absent.items():
        unread = [part.unread for part in parts if part.split == split]
        if unread and len(findings) > min(unread):  # what could not be read explains them, and is reported already
            yield from findings
    yield from _unexpected(parts, list(numbers.values()), ids)


def _image_fault(image: PlannedImage, label: int, found: Mapping[Split, int]) -> str | None:
    """What is wrong with a planned image, given its label in each split that has it; None where nothing is."""
    expected = f"expected {image.id} ({image.path}) in {image.split}"
    if image.split not in found:
        return f"{expected}, found it {'in ' + ' and '.join(found) if found else 'nowhere'}."
    if found[image.split] in (NO_LABEL, label):
        return None
    return f"{expected} with the class {label} ({image.label}), found {found[image.split]}."


def _unexpected(parts: Sequence[Part], numbers: Sequence[int], ids: Sequence[str]) -> Iterator[Finding]:
    """Ids that the manifest does not have, by number: at their first place."""
    rows = [part.first_rows(len(ids)) for part in parts]
    for number in numbers:
        part, row = next((part, int(of[number])) for part, of in zip(parts, rows, strict=True) if of[number] >= 0)
        yield part.finding("manifest", row, ids[number], f"expected an id of manifest.csv, found {ids[number]}.")


def _agreed_labels(parts: Sequence[Part], id_count: int) -> NDArray[np.int64]:
    """The label of each id in all of a split's parts, int64 `[id_count]`: `NO_LABEL` if they differ, else `ABSENT`."""
    agreed = np.full(id_count, ABSENT)
    for part in parts:
        before = agreed[part.ids]
        agreed[part.ids] = np.where((before == ABSENT) | (before == part.labels), part.labels, NO_LABEL)
    return agreed


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
        write_atomic(path, json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"report={path}: cannot be written: {error.strerror}. Set it to a file that can.") from None
