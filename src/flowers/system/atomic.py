"""Files that are whole or not there: what a killed process or a power cut leaves never passes for a finished file.

A file is written under a name of its own, `NAME.TOKEN.part`, and gets its name when all of it is on the disk. A killed
process leaves the `.part` file. Readers pass over such files; `remove_parts` removes them.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from upath import UPath

Place = TypeVar("Place", Path, UPath, Path | UPath)

_PART = re.compile(r"(?P<name>.+?)(\.[0-9a-f]{16}|\.\d+)?\.part")  # earlier versions wrote NAME.part and NAME.PID.part


@contextmanager
def open_atomic(path: Path | UPath) -> Iterator[IO[bytes]]:
    """Open a new file to write bytes to; it gets its name when the block ends without an error.

    Raises:
        OSError: it cannot be written, or is not as large as what was written.
    """
    with atomic_path(path) as part:
        with part.open("wb") as file:
            yield file
            written = file.tell()
        _check_size(part, written)


@contextmanager
def atomic_path(path: Place) -> Iterator[Place]:
    """Yield a path beside `path` to write a file or a local directory at; it gets its name when the block ends.

    With an error, it is removed instead. Two writers of one path do not disturb each other: the last to end wins.

    Raises:
        OSError: nothing was written there, or it cannot be kept.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        _give_name(part, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:  # of a write, which knows no name
            error.filename = str(path)
        _remove(part)
        raise


def _give_name(part: Path | UPath, path: Path | UPath) -> None:
    if isinstance(part, Path):
        _sync(part)
        part.replace(part.with_name(path.name))
        with suppress(OSError):  # some file systems cannot: there, a power cut may bring back the earlier file
            _sync(part.parent)
    else:
        size = part.stat().st_size
        part.rename(
            part.with_name(path.name)
        )  # a copy on object stores, which have no replace; there, too, never a half
        _check_size(path, size)


def write_atomic(path: Path | UPath, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with open_atomic(path) as file:
        file.write(text.encode())


def whole_name(name: str) -> str:
    """Return the name that a `.part` file would have got; any other name as it is."""
    match = _PART.fullmatch(name)
    return match["name"] if match else name


def remove_parts(path: Path) -> None:
    """Remove what killed writers of `path` have left. Call it only where no other process writes there."""
    for part in path.parent.glob("*.part") if path.parent.is_dir() else ():
        if whole_name(part.name) == path.name:
            _remove(part)


def _sync(path: Path) -> None:
    """Wait until a file, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_size(path: Path | UPath, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        raise OSError(errno.EIO, f"expected {expected} bytes as written, found {found}", str(path))


def _remove(path: Path | UPath) -> None:
    with suppress(OSError):
        if isinstance(path, Path) and path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
