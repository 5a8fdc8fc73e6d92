"""All files below a directory, local or remote. A folder that cannot be listed is an error: its photographs would be
missing.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from upath import UPath

from flowers.errors import InputError


@dataclass(slots=True)
class Listing:
    """The files below a directory.

    sizes: in bytes, by path relative to the directory, with `/`; 0 of a broken link.
    folders: the names of the directory's own folders.
    again: links that lead to what the same class has already, and are not followed.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    again: int = 0


def list_files(directory: UPath) -> Listing:
    """List all files below a directory of class folders.

    Local links are followed, but each folder is read once, and each file once in a class.

    Raises:
        InputError: a link leads to another class's folder.
        OSError: a folder cannot be listed; it is the error's `filename`.
    """
    return _Walk(directory).listing if isinstance(directory, Path) else _list_remote(directory)


class _Walk:
    """A walk below a local directory: first what lies there, then what links lead to, in order of path."""

    def __init__(self, root: Path) -> None:
        self.listing = Listing()
        self._root, self._real_root = root, os.path.realpath(root)
        self._folders: dict[str, str] = {}
        """The path of each folder that was read, by its real path."""
        self._files: set[tuple[str, str]] = set()
        """(class, real path) of each file."""
        self._folder_links: list[str] = []
        self._file_links: list[str] = []
        self._read_below("")
        while self._folder_links:
            self._folder_links.sort()
            self._follow(self._folder_links.pop(0))
        for path in sorted(self._file_links):
            self._add_linked_file(path)

    def _read_below(self, start: str) -> None:
        """Read a folder and all that lies in it."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(self._root / folder)
            if not self._is_new(folder, real):
                continue
            try:
                entries = list(os.scandir(self._root / folder))
            except PermissionError:
                if not _is_hidden(folder):  # such as a disk's .Trash, which is passed over anyway
                    raise
                entries = []
                self.listing.sizes[folder] = 0
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if self._add(entry, path, f"{real}/{entry.name}"):
                    waiting.append(path)

    def _add(self, entry: os.DirEntry[str], path: str, real: str) -> bool:
        """Note a file, or a link to follow later; whether this is a folder to read now."""
        is_folder = _is_folder(entry)
        if is_folder and path == entry.name:
            self.listing.folders.add(path)
        if entry.is_symlink() and not _is_hidden(path):
            (self._folder_links if is_folder else self._file_links).append(path)
        elif not is_folder:
            self.listing.sizes[path] = _size(self._root / path)
            self._files.add((_class_of(path), real))
        return is_folder and not entry.is_symlink()

    def _is_new(self, folder: str, real: str) -> bool:
        """Note that a folder is read; whether it was not before. Of another class, it is refused."""
        if _is_hidden(folder):  # passed over in the end, and perhaps where the class folders' links lead
            return True
        known = self._folders.setdefault(real, folder)
        if known != folder and _class_of(known) != _class_of(folder):
            raise InputError(
                f"{self._root / folder}: expected a folder of one class, found one that is {self._root / known}, too, "
                f"by a link. Remove the link, or give a CSV file with the columns path,label."
            )
        self.listing.again += known != folder
        return known == folder

    def _follow(self, link: str) -> None:
        here, real = os.path.realpath((self._root / link).parent), os.path.realpath(self._root / link)
        # A link to a folder that it lies in, or that all of this lies in, would never end.
        if not any(Path(inside).is_relative_to(real) for inside in (here, self._real_root)):
            self._read_below(link)

    def _add_linked_file(self, path: str) -> None:
        place = (_class_of(path), os.path.realpath(self._root / path))
        if place in self._files:
            self.listing.again += 1
            return
        self._files.add(place)
        self.listing.sizes[path] = _size(self._root / path)


def _class_of(path: str) -> str:
    return path.partition("/")[0]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself: a broken one
            return False
        raise


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return 0
        raise


def _list_remote(directory: UPath) -> Listing:
    """List the same remotely, from as few listings as possible: asking for each file's size takes a round trip."""
    listing = Listing()
    for path, is_folder, size in _find(directory.fs, directory.path):
        inside = posixpath.relpath(path, directory.path)
        if not is_folder:
            listing.sizes[inside] = size
        if inside != "." and (is_folder or "/" in inside):
            listing.folders.add(_class_of(inside))
    return listing


def _find(fs: AbstractFileSystem, directory: str) -> Iterator[tuple[str, bool, int]]:
    """Yield (path, whether it is a folder, size) for everything below a remote directory."""
    own = type(fs).find is not AbstractFileSystem.find or (
        isinstance(fs, AsyncFileSystem) and type(fs)._find is not AsyncFileSystem._find
    )
    if own:  # object stores list all keys at once
        for path, entry in fs.find(directory, detail=True, withdirs=True).items():
            yield path, entry["type"] == "directory", int(entry["size"] or 0)
        return
    waiting = [directory]  # fsspec's own `find` leaves out folders that cannot be listed, whatever it is asked for
    while waiting:
        folder = waiting.pop()
        try:
            entries = fs.ls(folder, detail=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), folder) from error
        for entry in entries:
            path, is_folder = entry["name"].rstrip("/"), entry["type"] == "directory"
            if path == folder.rstrip("/"):
                continue
            yield path, is_folder, int(entry.get("size") or 0)
            if is_folder:
                waiting.append(path)
