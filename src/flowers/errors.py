"""Errors that the user can fix: the CLI prints their message, without a traceback."""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from difflib import get_close_matches

FULL = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC}
"""Errors of a place without room."""

UNWRITABLE = FULL | {errno.EACCES, errno.ENOTDIR, errno.EPERM, errno.EROFS}
"""Errors of a place where nothing can be written: a full or read-only disk, missing rights, a file as a directory."""

_SHOWN = 5


class InputError(Exception):
    """Bad input. The message names the file, the record or the key, what was found, what was expected, the fix."""

    def __str__(self) -> str:
        # A DataLoader worker's error arrives as the text of the worker's traceback, whose last
        # part is "package.Class: " and then the message that was raised.
        message = super().__str__()
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return message.rpartition(name)[2].strip()


class BadRecord(InputError):
    """One record, or the rest of one shard, that cannot be read; `data.on_bad_record=skip` goes on without it."""


def first_few(items: Sequence[str], separator: str = "\n  ") -> str:
    """The first of many, for a message, and how many there are beyond them."""
    rest = len(items) - _SHOWN
    return separator.join([*items[:_SHOWN], *([f"... and {rest} more"] if rest > 0 else [])])


def nearest(name: str, names: Collection[str]) -> str:
    """Return a hint at the known name most like this one, or at all of them; empty if there are none."""
    close = get_close_matches(name, names, n=1, cutoff=0.75)
    if close:
        return f" Did you mean {close[0]}?"
    return f" Known: {', '.join(names)}." if names else ""
