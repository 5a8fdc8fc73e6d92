"""Read every record of every shard, and collect the labels and the ids, with a number in place of each id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowers.data.layout import (
    ShardFile,
    Split,
)
from flowers.data.tfrecord.example import check_label, decode_example, decode_image
from flowers.data.tfrecord.framing import index_shard, shard_problem
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord
from flowers.preparation.findings import NO_LABEL, Finding, Part


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A shard to scan."""

    size: int
    split: Split
    shard: ShardFile


class Row(NamedTuple):
    """A record whose id could be read: its number in the shard, the id, and the label, or `NO_LABEL` without one."""

    record: int
    id: str
    label: int


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """The content of a shard: the number `found` of records, and the `rows` of those whose id could be read."""

    task: ScanTask
    found: int
    rows: list[Row]
    findings: list[Finding]


def scan_shard(task: ScanTask, class_count: int, decode: bool) -> ShardFacts:
    """Read every record of a shard.

    Args:
        task: the shard.
        class_count: the number of classes; labels must be below it.
        decode: whether to decode the images.
    """
    path = task.shard.local
    try:
        index = index_shard(path)
    except OSError as error:
        message = f"{path}: expected a shard, found an unreadable file ({error.strerror}). Copy or download it again."
        return ShardFacts(task, 0, [], [Finding("shard", message, str(path))])
    problem = shard_problem(index, task.shard.count)
    findings = [Finding("shard", problem, str(path))] if problem else []
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
    """Return the parts, from the facts of their shards in order, and the data set's ids by number."""
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
