"""Write files atomically: a killed process or a power cut never leaves a partial file under a final name.

A file is written as `NAME.TOKEN.part`, and gets its final name when all of it is on the disk. A killed process leaves
the `.part` file. Readers ignore such files, and `remove_parts` removes them.
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
    """Open a new file to write bytes to. It gets its final name when the block ends without an error.

    Raises:
        OSError: the file cannot be written, or its size differs from the number of bytes written.
    """
    with atomic_path(path) as part:
        with part.open("wb") as file:
            yield file
            written = file.tell()
        _check_size(part, written)


@contextmanager
def atomic_path(path: Place) -> Iterator[Place]:
    """Yield a temporary path beside `path` for a file or a local directory, renamed to `path` when the block ends.

    If the block raises, it is removed instead. Two writers of one path do not disturb each other: the last to end wins.

    Raises:
        OSError: nothing was written at the temporary path, or it cannot be renamed.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        _rename(part, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:  # raised by write()
            error.filename = str(path)
        _remove(part)
        raise


def _rename(part: Path | UPath, path: Path | UPath) -> None:
    if isinstance(part, Path):
        _sync(part)
        part.replace(part.with_name(path.name))
        with suppress(OSError):  # not all file systems can; there, a power cut may bring back the earlier file
            _sync(part.parent)
    else:
        size = part.stat().st_size
        # Object stores have no replace and copy the file, but never leave a partial one either.
        part.rename(part.with_name(path.name))
        _check_size(path, size)


def write_atomic(path: Path | UPath, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with open_atomic(path) as file:
        file.write(text.encode())


def final_name(name: str) -> str:
    """Return the final name of a `.part` file. Any other name is returned unchanged."""
    match = _PART.fullmatch(name)
    return match["name"] if match else name


def remove_parts(path: Path) -> None:
    """Remove the `.part` files that killed writers of `path` left. No other process may be writing `path`."""
    for part in path.parent.glob("*.part") if path.parent.is_dir() else ():
        if final_name(part.name) == path.name:
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
