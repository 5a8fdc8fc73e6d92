"""Verify a whole data set: its shards, its records, its splits, its resolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from upath import UPath

from flowers.data.class_names import read_class_names
from flowers.data.layout import image_sizes
from flowers.data.storage.remote import open_path
from flowers.errors import InputError
from flowers.preparation.completeness import (
    find_missing_splits,
    list_all_shards,
    missing_shard_findings,
    missing_shards,
)
from flowers.preparation.findings import Finding, Part, find_problems
from flowers.preparation.manifest import read_manifest
from flowers.preparation.manifest_check import compare_manifest, compare_settings
from flowers.preparation.shard_scan import ScanTask, gather, scan_shard
from flowers.progress import progress
from flowers.system.processes import map_on_processes


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """The settings of `python src/prepare.py verify`."""

    root: str
    decode: bool
    report: str | None


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification: the data set's parts and its problems."""

    class_count: int
    parts: list[Part]
    findings: list[Finding]


def local_root(text: str) -> Path:
    """Return the directory that `root` names, as a path or a `file://` URL.

    Raises:
        InputError: the directory is not local.
    """
    root = open_path(text, "root")
    if not isinstance(root, Path):
        raise InputError(
            f"root={text}: expected a local directory, found a URL. Verification reads every byte. Copy the data set "
            "to a local directory, and set root to it."
        )
    return root


def verify(root: Path, *, decode: bool) -> Verification:
    """Check every record of a data set in Kaggle's layout, on all cores.

    Args:
        root: the data set's directory.
        decode: whether to decode each JPEG. If not, the CRC, the features and the label are still checked.

    Raises:
        InputError: there is no data set, it cannot be read, or its `classes.txt` is invalid.
    """
    sizes = image_sizes(root)
    if not sizes:
        raise InputError(
            f"{root}: expected a data set in Kaggle's layout (tfrecords-jpeg-SxS/{{train,val,test}}), found none. "
            "Set root to one."
        )
    class_names = read_class_names(root)
    manifest = read_manifest(UPath(root))
    shards, unreadable = list_all_shards(root, sizes)
    missing = missing_shards(shards, manifest)
    tasks = [ScanTask(size, split, shard) for (size, split), found in shards.items() for shard in found]
    scan = partial(scan_shard, class_count=len(class_names), decode=decode)
    parts, ids = gather(progress(map_on_processes(scan, tasks), "Verifying", len(tasks)))
    parts = [
        replace(part, unread=part.unread + sum(missing.get((part.size, part.split), {}).values())) for part in parts
    ]
    findings = [*unreadable, *find_missing_splits(root, shards, manifest), *missing_shard_findings(root, missing)]
    findings += [finding for part in parts for finding in part.findings]
    findings += find_problems(parts, ids)
    if manifest:
        findings += compare_settings(root, manifest, sizes, class_names)
        findings += compare_manifest(manifest, parts, ids)
    return Verification(len(class_names), parts, findings)
