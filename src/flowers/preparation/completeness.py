"""Find the missing shards and splits of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowers.data.layout import (
    SPLITS,
    ShardFile,
    Split,
    list_shards,
    shard_name,
    size_directory,
)
from flowers.errors import InputError
from flowers.preparation.findings import Finding
from flowers.preparation.manifest import Manifest

Shards = dict[tuple[int, Split], list[ShardFile]]
"""The shards by resolution and split."""

Missing = dict[tuple[int, Split], dict[int, int]]
"""The numbers of missing shards by resolution and split, each with its record count, or 0 if that is unknown."""


def list_all_shards(root: Path, sizes: Sequence[int]) -> tuple[Shards, list[Finding]]:
    """List the shards of all splits, none for a missing split, and report the splits that cannot be read."""
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
    """Find the missing shards by resolution and split. A split without any shards is not included."""
    expected = _numbered_shards(shards) if manifest is None else _planned_shards(manifest)
    present = {place: {shard.number for shard in found} for place, found in shards.items()}
    return {
        place: {number: count for number, count in expected[place[1]].items() if number not in numbers}
        for place, numbers in present.items()
        if numbers
    }


def _planned_shards(manifest: Manifest) -> dict[Split, dict[int, int]]:
    """Return the numbers of each split's shards and their record counts, from the manifest."""
    counts = Counter((image.split, image.shard) for image in manifest.images)
    return {split: {shard: count for (of, shard), count in counts.items() if of == split} for split in SPLITS}


def _numbered_shards(shards: Shards) -> dict[Split, dict[int, int]]:
    """Return the same without a manifest, from the shards of all resolutions and the gaps between their numbers."""
    counts: dict[Split, dict[int, int]] = {split: {} for split in SPLITS}
    for (_, split), found in shards.items():
        counts[split] |= {shard.number: shard.count or 0 for shard in found if shard.number is not None}
    return {split: _fill_gaps(known) for split, known in counts.items()}


def _fill_gaps(counts: dict[int, int]) -> dict[int, int]:
    """Add the numbers between the lowest and the highest, with 0 records.

    If that would more than double them, nothing is added: such numbers (dates, for example) are not consecutive.
    """
    first, last = min(counts, default=0), max(counts, default=-1)
    if last - first + 1 > 2 * len(counts):
        return counts
    return {number: counts.get(number, 0) for number in range(first, last + 1)}


def missing_shard_findings(root: Path, missing: Missing) -> Iterator[Finding]:
    """Yield a finding for each missing shard."""
    for (size, split), counts in missing.items():
        for number, count in sorted(counts.items()):
            directory = size_directory(root, size) / split
            name = shard_name(number, size, count) if count else f"{number:02d}-{size}x{size}-N.tfrec"
            yield Finding("shard", f"{directory}: expected {name}, found none. Copy or download it.", str(directory))


def find_missing_splits(root: Path, shards: Shards, manifest: Manifest | None) -> Iterator[Finding]:
    """Yield a finding for each missing split. Without a manifest, test may be missing at all resolutions."""
    expected_splits = {"train", "val", *(split for (_, split), found in shards.items() if found)}
    if manifest:
        expected_splits = {image.split for image in manifest.images}
    for (size, split), found in shards.items():
        if split in expected_splits and not found:
            path = size_directory(root, size) / split
            expected = f"expected shards named like {shard_name(0, size, 798)}, found none. Copy or download the split."
            yield Finding("split", f"{path}: {expected}", str(path))
