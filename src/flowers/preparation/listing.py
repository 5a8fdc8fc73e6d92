"""List all files below a directory, local or remote.

A folder that cannot be listed is an error: its photographs would be missing.
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

    sizes: the sizes in bytes, by path relative to the directory with `/`; 0 for a broken link.
    folders: the names of the directory's own folders.
    repeated_links: the number of links that are not followed, because the same class already has their target.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    repeated_links: int = 0


def list_files(directory: UPath) -> Listing:
    """List all files below a directory of class folders.

    Local links are followed, but each folder is read once, and each file once per class.

    Raises:
        InputError: a link leads to another class's folder.
        OSError: a folder cannot be listed; the error's `filename` is the folder.
    """
    return _Walk(directory).listing if isinstance(directory, Path) else _list_remote(directory)


class _Walk:
    """Walks a local directory: first its own files and folders, then the targets of links, in order of path."""

    def __init__(self, root: Path) -> None:
        self.listing = Listing()
        self._root, self._real_root = root, os.path.realpath(root)
        self._folders: dict[str, str] = {}
        """The path of each folder that was read, by its real path."""
        self._files: set[tuple[str, str]] = set()
        """The class and the real path of each file."""
        self._folder_links: list[str] = []
        self._file_links: list[str] = []
        self._read_below("")
        while self._folder_links:
            self._folder_links.sort()
            self._follow(self._folder_links.pop(0))
        for path in sorted(self._file_links):
            self._add_linked_file(path)

    def _read_below(self, start: str) -> None:
        """Read a folder and everything below it."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(self._root / folder)
            if not self._is_new(folder, real):
                continue
            try:
                entries = list(os.scandir(self._root / folder))
            except PermissionError:
                if not _is_hidden(folder):  # such as a disk's .Trash, which is skipped anyway
                    raise
                entries = []
                self.listing.sizes[folder] = 0
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if self._add(entry, path, f"{real}/{entry.name}"):
                    waiting.append(path)

    def _add(self, entry: os.DirEntry[str], path: str, real: str) -> bool:
        """Record a file, or a link to follow later. Return whether the entry is a folder to read now."""
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
        """Record that a folder is read. Return whether it is new, and raise if another class already has it."""
        if _is_hidden(folder):  # skipped later, and possibly the target of the class folders' links
            return True
        known = self._folders.setdefault(real, folder)
        if known != folder and _class_of(known) != _class_of(folder):
            raise InputError(
                f"{self._root / folder}: expected a folder of one class, found the same folder as "
                f"{self._root / known} through a link. Remove the link, or give a CSV file with the columns path,label."
            )
        self.listing.repeated_links += known != folder
        return known == folder

    def _follow(self, link: str) -> None:
        here, real = os.path.realpath((self._root / link).parent), os.path.realpath(self._root / link)
        # Following a link to one of its own parents, or to a parent of the root, would never end.
        if not any(Path(inside).is_relative_to(real) for inside in (here, self._real_root)):
            self._read_below(link)

    def _add_linked_file(self, path: str) -> None:
        place = (_class_of(path), os.path.realpath(self._root / path))
        if place in self._files:
            self.listing.repeated_links += 1
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
        if error.errno == errno.ELOOP:  # a link to itself, which counts as broken
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
    """List a remote directory with as few requests as possible: asking for each file's size takes a round trip."""
    listing = Listing()
    for path, is_folder, size in _find(directory.fs, directory.path):
        inside = posixpath.relpath(path, directory.path)
        if not is_folder:
            listing.sizes[inside] = size
        if inside != "." and (is_folder or "/" in inside):
            listing.folders.add(_class_of(inside))
    return listing


def _find(fs: AbstractFileSystem, directory: str) -> Iterator[tuple[str, bool, int]]:
    """Yield the path, whether it is a folder, and the size in bytes of everything below a remote directory."""
    own = type(fs).find is not AbstractFileSystem.find or (
        isinstance(fs, AsyncFileSystem) and type(fs)._find is not AsyncFileSystem._find
    )
    if own:  # object stores list all keys at once
        for path, entry in fs.find(directory, detail=True, withdirs=True).items():
            yield path, entry["type"] == "directory", int(entry["size"] or 0)
        return
    waiting = [directory]  # fsspec's own `find` always skips folders that cannot be listed
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
