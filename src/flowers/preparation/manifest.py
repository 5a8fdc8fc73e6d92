"""Read the tables of a prepared data set, which record the result for each photograph.

This module is separate from `plan.py` because it imports little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upath import UPath

from flowers.data.layout import Split
from flowers.data.storage.remote import read_error
from flowers.errors import InputError
from flowers.preparation.tables import read_table


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """A row of `manifest.csv`: an image, its split and its shard. A shard's rows are in the order of its records."""

    id: str
    path: str
    label: str
    split: Split
    group: int
    shard: int
    bytes: int
    sha256: str
    hash: str


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A row of `unreadable.csv`: an image that was skipped, and why (`fault`)."""

    path: str
    label: str
    bytes: int
    fault: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The declared content of a finished data set: its images, and their sizes in pixels a side."""

    path: UPath
    images: list[PlannedImage]
    sizes: list[int]


def read_manifest(root: UPath) -> Manifest | None:
    """Read the manifest of a data set, or return None if `prepare.py folder` did not write the data set.

    Raises:
        InputError: `manifest.csv` or `prepare.json` is damaged, or cannot be read.
    """
    path, settings = root / "manifest.csv", root / "prepare.json"
    if not (path.exists() and settings.exists()):
        return None
    return Manifest(path, read_table(path, PlannedImage), list(read_settings(settings).get("sizes", ())))


def read_settings(path: UPath) -> Mapping[str, Any]:
    """Read `prepare.json`.

    Raises:
        InputError: the file is not a JSON object, or cannot be read.
    """
    try:
        settings = json.loads(path.read_bytes())
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError as error:
        raise InputError(f"{path}: expected settings in JSON, found {error}. Restore the file.") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected settings as a JSON object, found {settings!r}. Restore the file.")
    return settings
