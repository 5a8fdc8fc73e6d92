"""Read the class names of a data set, in label order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from flowers.data.layout import require_root
from flowers.data.storage.remote import AnyPath, read_text
from flowers.errors import InputError

_RESOURCES = files("flowers.data") / "resources"


def kaggle_class_names() -> list[str]:
    """Return the competition's 104 class names in label order."""
    return (_RESOURCES / "flowers104_classes.txt").read_text("utf-8").split("\n")[:104]


def kaggle_train_counts() -> list[int]:
    """Return the competition's number of training images per class, in label order."""
    counts: list[int] = json.loads((_RESOURCES / "flowers104_train_counts.json").read_text())
    return counts


def read_class_names(root: AnyPath) -> list[str]:
    """Return a data set's class names: the lines of its `classes.txt`, or the competition's 104 if it has none.

    Raises:
        InputError: the directory is missing, its preparation is unfinished, or `classes.txt` has an empty line or a
            repeated name.
    """
    require_root(root)
    path = root / "classes.txt"
    text = read_text(path)
    if text is None:
        return kaggle_class_names()
    names = text.rstrip("\n").split("\n")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(names):
        raise InputError(
            f"{path}: expected one distinct class name per line, found "
            + (f"{twice[0]!r} twice." if twice else "an empty line.")
            + " Fix the file: line N is label N - 1."
        )
    return names


def names_source(root: AnyPath) -> str:
    """Describe where a data set's class names come from, for messages."""
    path = root / "classes.txt"
    return f"{path} (there is none, so the competition's)" if read_text(path) is None else str(path)


def class_difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """Describe how class names differ from the expected ones, both in label order; return "" if they are equal."""
    if list(expected) == list(found):
        return ""
    pairs = enumerate(zip(expected, found, strict=False))
    first = next((f", of which label {label} is {b!r}, not {a!r}" for label, (a, b) in pairs if a != b), "")
    return f"{len(found)} classes{first}"
