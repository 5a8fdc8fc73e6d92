"""Read records by number across all shards of a split, each checked against its CRC."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import cast

from flowers.data.tfrecord.framing import FOOTER, ShardIndex, payload_problem
from flowers.errors import BadRecord, InputError

OPEN_FILES = 128
"""Files that one process keeps open: a data set may have more shards than a process may open files."""


class ShardReader:
    """Reads the payloads of local shards, by number across all shards in order.

    Files are opened at first use in each process, and read with `pread`. Processes and threads therefore share nothing
    but the page cache, and a file that is cut off while it is open raises an exception. A memory map would cause a bus
    error.
    """

    def __init__(self, indexes: Sequence[ShardIndex]) -> None:
        self.indexes = indexes
        self._ends = list(accumulate(len(index) for index in indexes))
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)

    def __getitem__(self, number: int) -> bytes:
        return self.read(number)

    def where(self, number: int) -> str:
        """Return a record's location for messages: its shard and its number in the shard."""
        shard, record = self._locate(number)
        return f"{self.indexes[shard].path}: record {record}"

    def state(self) -> str:
        """Return a string that changes when a shard changes."""
        found = [(index.path.resolve(), index.path.stat()) for index in self.indexes]
        return repr([(str(path), status.st_size, status.st_mtime_ns) for path, status in found])

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Hint that these records will be read next. No-op for local shards."""

    def read(self, number: int, *, check: bool = True) -> bytes:
        """Return payload `number`, 0 to `len(self) - 1`. Without `check`, its CRC is not verified.

        Raises:
            BadRecord: the payload does not match its CRC, or was cut off.
            InputError: the shard is missing, or cannot be read.
            IndexError: `number` is out of range.
        """
        shard, record = self._locate(number)
        length = int(self.indexes[shard].lengths[record])
        found = self._read_with_footer(shard, record)
        payload = found[:length]
        if len(found) < length + FOOTER.size:
            raise BadRecord(
                f"{self.where(number)}: expected a payload of {length} bytes, found {len(payload)}: the shard has been "
                "cut off since it was opened. Copy or download it again."
            )
        if check and (problem := payload_problem(payload, found[length:])):
            raise BadRecord(f"{self.where(number)}: {problem} The file is damaged: copy or download it again.")
        return payload

    def _read_with_footer(self, shard: int, record: int) -> bytes:
        """Return a payload and the CRC after it, unchecked; fewer bytes if the shard was cut off."""
        index = self.indexes[shard]
        return self._pread(shard, int(index.lengths[record]) + FOOTER.size, int(index.offsets[record]))

    def _pread(self, shard: int, count: int, position: int) -> bytes:
        file = self._file(shard)
        try:
            return os.pread(file, count, position)
        except OSError as error:
            raise self._read_error(shard, error) from error

    def _locate(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            if len(self._files) == OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
            try:
                self._files[shard] = os.open(self._local(shard), os.O_RDONLY)
            except OSError as error:
                raise self._read_error(shard, error) from error
        return self._files[shard]

    def _read_error(self, shard: int, error: OSError) -> InputError:
        # Not a BadRecord, which could be skipped: if one shard is missing, all of them may be.
        return InputError(
            f"{self._local(shard)}: expected the shard that was opened with the data set, found this: "
            f"{error.strerror}. Restore it or mount its disk again, then start again."
        )

    def _local(self, shard: int) -> Path:
        """Return the local file that a shard is read from."""
        return cast(Path, self.indexes[shard].path)
