"""Errors that the user can fix. The CLI prints their message without a traceback."""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from difflib import get_close_matches

FULL = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC}
"""Error numbers for a full disk or an exceeded quota."""

UNWRITABLE = FULL | {errno.EACCES, errno.ENOTDIR, errno.EPERM, errno.EROFS}
"""Error numbers for a path that cannot be written: also a read-only disk, missing rights, a file used as directory."""

_SHOWN = 5


class InputError(Exception):
    """An error that the user can fix. The message names the place, what was expected, what was found, and the fix."""

    def __str__(self) -> str:
        # An error from a DataLoader worker arrives as the text of the worker's traceback. It ends with
        # "package.Class: " and the original message.
        message = super().__str__()
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return message.rpartition(name)[2].strip()


class BadRecord(InputError):
    """A record, or the rest of a shard, that cannot be read. `data.on_bad_record=skip` goes on without it."""


def first_few(items: Sequence[str], separator: str = "\n  ") -> str:
    """Join the first items for a message, and add how many more there are."""
    rest = len(items) - _SHOWN
    return separator.join([*items[:_SHOWN], *([f"... and {rest} more"] if rest > 0 else [])])


def nearest(name: str, names: Collection[str]) -> str:
    """Return a hint with the known name closest to `name`, or else with all known names; empty if there are none."""
    close = get_close_matches(name, names, n=1, cutoff=0.75)
    if close:
        return f" Did you mean {close[0]}?"
    return f" Known: {', '.join(names)}." if names else ""
