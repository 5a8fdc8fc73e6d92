"""The tables that a prepared data set keeps: what became of each photograph. Apart from plan.py: it imports little."""

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
    """A row of `manifest.csv`: an image, and where it went. A shard's rows stand in the order of its records."""

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
    """A row of `unreadable.csv`: an image that was left out, and why."""

    path: str
    label: str
    bytes: int
    fault: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The declared content of a finished data set: the images, at these sizes."""

    path: UPath
    images: list[PlannedImage]
    sizes: list[int]


def read_manifest(root: UPath) -> Manifest | None:
    """Read the manifest of a data set; None where `prepare.py folder` did not write it.

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
        InputError: it is no JSON object, or cannot be read.
    """
    try:
        settings = json.loads(path.read_bytes())
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError as error:
        raise InputError(f"{path}: expected settings in JSON, found {error}. Put the file back as it was.") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected settings as a JSON object, found {settings!r}. Put it back as it was.")
    return settings
