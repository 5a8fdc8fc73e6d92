"""The first pass: read and decode every photograph once, to find unreadable files and near-duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from upath import UPath

from flowers.preparation.images import perceptual_hash
from flowers.preparation.manifest import PlannedImage, UnreadableImage
from flowers.preparation.runner import TaskRunner
from flowers.preparation.source import Photograph, Source
from flowers.preparation.tables import entries, read_table, write_table
from flowers.progress import progress

SCAN_PART = 128
"""Photographs scanned as one task: the most that a killed run loses on each core."""


_THREADS = 8
"""Threads that read photographs again: they wait for the network, and hashing releases the GIL."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of reading a photograph: its digest and perceptual hash, or `fault`, why it cannot be read."""

    path: str
    bytes: int
    sha256: str
    hash: str
    fault: str


def scan_source(source: Source, output: UPath, run_tasks: TaskRunner) -> dict[str, Scan]:
    """Return the scan of each photograph, by path. Photographs that an earlier call could read are not read again."""
    parts = output / "scan"
    parts.mkdir(parents=True, exist_ok=True)
    known = _read_scans(parts)
    rest = [p for p in source.photographs if (p.path, p.bytes) not in known or known[p.path, p.bytes].fault]
    tasks = [rest[start : start + SCAN_PART] for start in range(0, len(rest), SCAN_PART)]
    if tasks:
        run_tasks(partial(scan_part, source.directory, parts), tasks, "Scanning", len(rest))
        known = _read_scans(parts)
    return {photograph.path: known[photograph.path, photograph.bytes] for photograph in source.photographs}


def _read_scans(parts: UPath) -> dict[tuple[str, int], Scan]:
    """Read all scans by path and size. Of two scans of a file, the later one, without a fault, is used."""
    files = [file for file in entries(parts) if file.name.endswith(".csv")]
    scans = [scan for file in files for scan in read_table(file, Scan)]
    return {(scan.path, scan.bytes): scan for scan in sorted(scans, key=lambda scan: not scan.fault)}


def scan_part(directory: UPath, parts: UPath, photographs: Sequence[Photograph]) -> int:
    """Scan photographs, write the scans to a file in `parts`, and return their number."""
    scans = [scan_photograph(directory / photograph.path, photograph) for photograph in photographs]
    name = hashlib.sha256(repr(photographs).encode()).hexdigest()[:16]
    write_table(parts / f"{name}.csv", Scan, scans)
    return len(photographs)


def scan_photograph(file: UPath, photograph: Photograph) -> Scan:
    """Read a photograph once, and decode it completely."""
    digest, image_hash, fault = "", "", ""
    try:
        data = file.read_bytes()
        digest, image_hash = hashlib.sha256(data).hexdigest(), perceptual_hash(data)
    except OSError as error:
        fault = error.strerror or str(error)  # str(error) would repeat the path
    except ValueError as error:
        fault = " ".join(str(error).split())
    return Scan(photograph.path, photograph.bytes, digest, image_hash, fault)


def changed_photographs(
    directory: UPath, images: Sequence[PlannedImage], unreadable: Sequence[UnreadableImage]
) -> list[str]:
    """Read photographs again, and describe those whose content has changed, or that have become readable."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda image: _content_difference(directory / image.path, image), images)
        changed = [difference for difference in progress(found, "Comparing", len(images)) if difference]
    for image in unreadable:
        if not scan_photograph(directory / image.path, Photograph(image.path, image.label, image.bytes)).fault:
            changed.append(f"{image.path}: could not be read then, but can be read now")
    return changed


def _content_difference(file: UPath, image: PlannedImage) -> str | None:
    try:
        with file.open("rb") as opened:
            same = hashlib.file_digest(cast(Any, opened), "sha256").hexdigest() == image.sha256
    except OSError as error:
        return f"{image.path}: {error.strerror or error}"
    return None if same else f"{image.path}: other content of the same {image.bytes} bytes"
