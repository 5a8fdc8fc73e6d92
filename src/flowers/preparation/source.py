"""List photographs and their classes, from class folders or a CSV of paths and labels."""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from upath import UPath

from flowers.data.storage.remote import open_path
from flowers.errors import InputError, first_few
from flowers.preparation.listing import list_files

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})
_COLUMNS = ("path", "label")


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file: its path relative to the source's directory with `/`, its class, and its size in bytes."""

    path: str
    label: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """All photographs in order of path, the directory that their paths are relative to, and counts of ignored files."""

    directory: UPath
    photographs: list[Photograph]
    ignored: Counter[str]


def list_source(text: str) -> Source:
    """List the photographs of a directory of class folders, or of a CSV file.

    Raises:
        InputError: there is no such source, it has no classes, a class is empty or its name does not fit on one line
            of `classes.txt`, the CSV lacks a column or lists missing files, or something cannot be read.
    """
    path = UPath(open_path(text, "source"))
    try:
        source = _list(path, text)
    except OSError as error:
        raise InputError(
            f"{error.filename or text}: expected to read it, found this: {error.strerror or error}. Grant "
            "yourself access (chmod -R u+rX), or remove it."
        ) from None
    _check_names(source, text)
    return source


def _list(path: UPath, text: str) -> Source:
    if path.is_dir():
        return _list_folders(path)
    if path.is_file():
        return _list_csv(path)
    raise InputError(
        f"{text}: no such file or directory. Set source to a directory whose folders are the classes "
        "(photos/rose/1.jpg), or to a CSV file with the columns path,label."
    )


def _list_folders(directory: UPath) -> Source:
    listing = list_files(directory)
    photographs: list[Photograph] = []
    ignored: Counter[str] = Counter()
    if listing.repeated_links:
        ignored["linked a second time"] = listing.repeated_links
    for path, size in sorted(listing.sizes.items()):
        label, inside, _ = path.partition("/")
        if any(part.startswith(".") for part in path.split("/")):
            ignored["hidden"] += 1
        elif not inside:
            ignored["outside the class folders"] += 1
        elif (suffix := posixpath.splitext(path)[1].lower()) not in IMAGE_SUFFIXES:
            ignored[f"{suffix or 'without a suffix'}"] += 1
        else:
            photographs.append(Photograph(path, label, size))
    found = {photograph.label for photograph in photographs}
    classes = sorted(name for name in listing.folders if not name.startswith("."))
    _check_folders(directory, classes, [name for name in classes if name not in found], ignored)
    return Source(directory, photographs, ignored)


def _check_folders(directory: UPath, classes: list[str], empty: list[str], ignored: Counter[str]) -> None:
    found = f" Ignored: {describe_ignored(ignored)}." if ignored else ""
    if not classes:
        raise InputError(
            f"{directory}: expected a folder for each class (rose/1.jpg), found no folder.{found} "
            "Sort the photographs into folders, or give a CSV file with the columns path,label."
        )
    if set(classes) <= _SPLIT_NAMES:
        raise InputError(
            f"{directory}: expected a folder for each class, found the splits {', '.join(classes)}. This command makes "
            "the split itself. Merge the class folders, or give a CSV file with the columns path,label."
        )
    if empty:
        raise InputError(
            f"{directory}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) in every class folder, found none in "
            f"{first_few(empty, ', ')}.{found} Fill the folder or remove it."
        )


def describe_ignored(ignored: Counter[str]) -> str:
    """Describe the ignored files, for example as `3 hidden, 2 .txt`."""
    return ", ".join(f"{count} {kind}" for kind, count in ignored.most_common())


def _list_csv(file: UPath) -> Source:
    directory = file.parent
    lines = _read_csv(file)
    with ThreadPoolExecutor(32) as pool:  # each remote file takes a round trip
        sizes = list(pool.map(lambda line: _size(directory / line[1]), lines))
    missing = [f"line {number}: {path}" for (number, path, _), size in zip(lines, sizes, strict=True) if size is None]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(lines)} listed files do not exist (looked for below {directory}):\n  "
            f"{first_few(missing)}\nPaths are relative to the CSV file: fix them, or move it."
        )
    photographs = [Photograph(path, label, size or 0) for (_, path, label), size in zip(lines, sizes, strict=True)]
    return Source(directory, sorted(photographs, key=lambda photograph: photograph.path), Counter())


def _size(path: UPath) -> int | None:
    return int(path.stat().st_size) if path.is_file() else None


def _read_csv(file: UPath) -> list[tuple[int, str, str]]:
    """Return the line number, path and label of every row, without surrounding spaces."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected a CSV file in UTF-8, found {error}. Save it as UTF-8.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if not set(_COLUMNS) <= set(reader.fieldnames or ()):
        raise InputError(
            f"{file}: expected the columns path,label in line 1, found {','.join(reader.fieldnames or ()) or 'none'}. "
            "Give them these names, separated by a comma."
        )
    lines: dict[str, tuple[int, str, str]] = {}
    for row in reader:
        number = reader.line_num
        written, label = ((row[column] or "").strip() for column in _COLUMNS)
        if not written or not label:
            raise InputError(
                f"{file}: line {number}: expected a path and a label, found {row}. Fill or remove the line."
            )
        path = posixpath.normpath(written)
        if path in lines:
            raise InputError(
                f"{file}: line {number}: {path} is already listed in line {lines[path][0]}. An image has one label: "
                "remove one of the lines."
            )
        lines[path] = (number, path, label)
    if not lines:
        raise InputError(f"{file}: expected a line for each image after the header, found none.")
    return list(lines.values())


def _check_names(source: Source, text: str) -> None:
    broken = sorted({name for p in source.photographs for name in (p.label, p.path) if "\n" in name or "\r" in name})
    if broken:
        raise InputError(f"{text}: expected names without line breaks, found {broken[0]!r}. Rename it.")
    unwritable = [p.path for p in source.photographs if not _is_text(p.path) or not _is_text(p.label)]
    if unwritable:
        raise InputError(
            f"{text}: expected file names in UTF-8, found {os.fsencode(unwritable[0])!r}. Rename it (convmv does)."
        )


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)  # surrogates stand for undecodable bytes


def class_names(labels: Iterable[str]) -> list[str]:
    """Return the classes in label order: sorted by name."""
    return sorted(set(labels))
