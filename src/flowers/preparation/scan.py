"""The first pass: every photograph is read and decoded once, to find what cannot be read and what is alike."""

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
from flowers.preparation.runner import Spread
from flowers.preparation.source import Photograph, Source
from flowers.preparation.tables import entries, read_table, write_table
from flowers.progress import progress

SCAN_PART = 128
"""Photographs scanned as one task: what a kill loses at most, on each core."""


_THREADS = 8
"""That read photographs again: for the network's sake, and hashing lets the others run."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of reading a photograph once: its digest and perceptual hash, or why it cannot be read."""

    path: str
    bytes: int
    sha256: str
    hash: str
    fault: str


def scan_source(source: Source, output: UPath, spread: Spread) -> dict[str, Scan]:
    """Return what each photograph is, by path; those that an earlier call has read well are not read again."""
    parts = output / "scan"
    parts.mkdir(parents=True, exist_ok=True)
    known = _scanned(parts)
    rest = [p for p in source.photographs if (p.path, p.bytes) not in known or known[p.path, p.bytes].fault]
    tasks = [rest[start : start + SCAN_PART] for start in range(0, len(rest), SCAN_PART)]
    if tasks:
        spread(partial(scan_part, source.directory, parts), tasks, "Scanning", len(rest))
        known = _scanned(parts)
    return {photograph.path: known[photograph.path, photograph.bytes] for photograph in source.photographs}


def _scanned(parts: UPath) -> dict[tuple[str, int], Scan]:
    """Read all scans by path and size; of two of a file, the one without a fault, which is the later one."""
    files = [file for file in entries(parts) if file.name.endswith(".csv")]
    scans = [scan for file in files for scan in read_table(file, Scan)]
    return {(scan.path, scan.bytes): scan for scan in sorted(scans, key=lambda scan: not scan.fault)}


def scan_part(directory: UPath, parts: UPath, photographs: Sequence[Photograph]) -> int:
    """Read photographs and write what they are to a file in `parts`."""
    scans = [scan_photograph(directory / photograph.path, photograph) for photograph in photographs]
    name = hashlib.sha256(repr(photographs).encode()).hexdigest()[:16]
    write_table(parts / f"{name}.csv", Scan, scans)
    return len(photographs)


def scan_photograph(file: UPath, photograph: Photograph) -> Scan:
    """Read a photograph once, and decode all of it."""
    digest, image_hash, fault = "", "", ""
    try:
        data = file.read_bytes()
        digest, image_hash = hashlib.sha256(data).hexdigest(), perceptual_hash(data)
    except OSError as error:
        fault = error.strerror or str(error)  # which would name the path again
    except ValueError as error:
        fault = " ".join(str(error).split())
    return Scan(photograph.path, photograph.bytes, digest, image_hash, fault)


def changed_photographs(
    directory: UPath, images: Sequence[PlannedImage], unreadable: Sequence[UnreadableImage]
) -> list[str]:
    """Read photographs again, and name those with another content, or that can be read by now."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda image: _content_difference(directory / image.path, image), images)
        changed = [difference for difference in progress(found, "Comparing", len(images)) if difference]
    for image in unreadable:
        if not scan_photograph(directory / image.path, Photograph(image.path, image.label, image.bytes)).fault:
            changed.append(f"{image.path}: could not be read then, but now")
    return changed


def _content_difference(file: UPath, image: PlannedImage) -> str | None:
    try:
        with file.open("rb") as opened:
            same = hashlib.file_digest(cast(Any, opened), "sha256").hexdigest() == image.sha256
    except OSError as error:
        return f"{image.path}: {error.strerror or error}"
    return None if same else f"{image.path}: another content of the same {image.bytes} bytes"
