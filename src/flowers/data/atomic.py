"""Files that are whole or not there: what a killed process leaves never passes for a finished file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from upath import UPath


@contextmanager
def open_atomic(path: Path | UPath) -> Iterator[IO[bytes]]:
    """A new file to write bytes to, under another name (`NAME.part`) until the block ends without an error."""
    part = path.name + ".part"
    with path.with_name(part).open("wb") as file:
        yield file
    if isinstance(path, Path):
        path.with_name(part).replace(path)
    else:
        path.with_name(part).rename(path)  # a copy on object stores, which have no replace; there, too, never a half
