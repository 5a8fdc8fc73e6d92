"""Compare a prepared data set with its manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowers.data.class_names import class_difference
from flowers.data.layout import SPLITS, Split
from flowers.preparation.findings import NO_LABEL, Finding, Part
from flowers.preparation.manifest import Manifest, PlannedImage

ABSENT = -2
"""The label of an id that is missing."""


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
    """Compare what all resolutions agree on with the manifest. `find_problems` compares them with each other."""
    numbers = {identity: number for number, identity in enumerate(ids)}
    labels = {split: _agreed_labels([part for part in parts if part.split == split], len(ids)) for split in SPLITS}
    classes = {name: label for label, name in enumerate(_class_names(manifest))}
    absent: dict[Split, list[Finding]] = {split: [] for split in SPLITS}
    for line, image in enumerate(manifest.images, 2):
        number = numbers.pop(image.id, None)
        found = {} if number is None else {s: int(labels[s][number]) for s in SPLITS if labels[s][number] != ABSENT}
        if problem := _image_problem(image, classes[image.label], found):
            message = f"{manifest.path}: line {line}: {problem}"
            finding = Finding("manifest", message, str(manifest.path), None, image.id)
            if found:
                yield finding
            else:
                absent[image.split].append(finding)
    for split, findings in absent.items():
        unread = [part.unread for part in parts if part.split == split]
        if unread and len(findings) > min(unread):  # unreadable records explain the others, and are already reported
            yield from findings
    yield from _unexpected(parts, list(numbers.values()), ids)


def _image_problem(image: PlannedImage, label: int, found: Mapping[Split, int]) -> str | None:
    """Describe the problem of a planned image, or return None. `found` is its label in each split that has it."""
    expected = f"expected {image.id} ({image.path}) in {image.split}"
    if image.split not in found:
        return f"{expected}, found it {'in ' + ' and '.join(found) if found else 'nowhere'}."
    if found[image.split] in (NO_LABEL, label):
        return None
    return f"{expected} with the class {label} ({image.label}), found {found[image.split]}."


def _unexpected(parts: Sequence[Part], numbers: Sequence[int], ids: Sequence[str]) -> Iterator[Finding]:
    """Report ids, given by number, that are not in the manifest, each at its first record."""
    rows = [part.first_rows(len(ids)) for part in parts]
    for number in numbers:
        part, row = next((part, int(of[number])) for part, of in zip(parts, rows, strict=True) if of[number] >= 0)
        yield part.finding("manifest", row, ids[number], f"expected an id of manifest.csv, found {ids[number]}.")


def _agreed_labels(parts: Sequence[Part], id_count: int) -> NDArray[np.int64]:
    """Return each id's label in a split, int64 `[id_count]`: `NO_LABEL` if parts differ, `ABSENT` if none has it."""
    agreed = np.full(id_count, ABSENT)
    for part in parts:
        before = agreed[part.ids]
        agreed[part.ids] = np.where((before == ABSENT) | (before == part.labels), part.labels, NO_LABEL)
    return agreed
