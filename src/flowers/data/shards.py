"""TFRecord shards: the framing of records in a file, its checksums, and records by number.

A TFRecord file is a run of `length (uint64) | masked CRC of length (uint32) | payload | masked CRC of
payload (uint32)`, little-endian, the CRC being CRC-32C (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from upath import UPath

from flowers.data.atomic import open_atomic
from flowers.errors import BadRecord

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_FRAME = _HEADER.size + _FOOTER.size


def masked_crc(data: bytes) -> int:
    """TFRecord's masked CRC-32C: rotated and offset, so that a CRC stored among the data does not spoil its own."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def open_shard(path: Path | UPath) -> Iterator[Callable[[bytes], None]]:
    """A new TFRecord file, as a function that appends a payload to it; it gets its name when the block ends."""
    with open_atomic(path) as file:

        def append(payload: bytes) -> None:
            length = struct.pack("<Q", len(payload))
            file.write(length + _FOOTER.pack(masked_crc(length)) + payload + _FOOTER.pack(masked_crc(payload)))

        yield append


def write_shard(path: Path | UPath, payloads: Iterable[bytes]) -> None:
    """Write the payloads as one TFRecord file, under another name until it is whole."""
    with open_shard(path) as append:
        for payload in payloads:
            append(payload)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where a shard's records are: `offsets` and `lengths` of the payloads in bytes, int64 `[N]` each.

    `fault` says why indexing ended before the end of the file, None where it did not.
    """

    path: Path
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    fault: str | None = None

    def __len__(self) -> int:
        return len(self.offsets)


def index_shard(path: Path) -> ShardIndex:
    """Find every record of a shard from the lengths alone, each checked against its CRC; payloads are not read."""
    offsets: list[int] = []
    lengths: list[int] = []
    size = path.stat().st_size
    position = 0
    fault = None
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_HEADER.size)
            fault = _header_fault(header, size - position)
            if fault:
                fault = f"{path}: record {len(offsets)} at byte {position}: {fault}"
                break
            length = _HEADER.unpack(header)[0]
            offsets.append(position + _HEADER.size)
            lengths.append(length)
            position += _FRAME + length
    return ShardIndex(path, np.array(offsets, np.int64), np.array(lengths, np.int64), fault)


def _header_fault(header: bytes, rest: int) -> str | None:
    """What is wrong with a record's header, given the bytes from its start to the end of the file."""
    if len(header) < _HEADER.size:
        return f"the shard is cut off: expected a header of {_HEADER.size} bytes, found {len(header)}."
    length, stored = _HEADER.unpack(header)
    computed = masked_crc(header[:8])
    if stored != computed:
        return f"the length's CRC is wrong: expected {stored:#010x} as stored, found {computed:#010x}."
    if _FRAME + length > rest:
        return f"the shard is cut off: expected a payload of {length} bytes, found {max(0, rest - _FRAME)}."
    return None


class ShardReader:
    """The payloads of local shards, by number over all shards in order, each checked against its CRC.

    Shards are memory-mapped at first use in each process: workers share the page cache, and nothing
    open crosses a fork.
    """

    def __init__(self, indexes: list[ShardIndex]) -> None:
        self.indexes = indexes
        self._ends = np.cumsum([len(index) for index in indexes], dtype=np.int64)
        self._maps: dict[tuple[int, int], mmap.mmap] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": {}}

    def where(self, number: int) -> str:
        """The record's place for messages: its shard and its number in it."""
        shard, record = self._locate(number)
        return f"{self.indexes[shard].path}: record {record}"

    def __getitem__(self, number: int) -> bytes:
        """Payload `number`, 0 to `len(self) - 1`.

        Raises:
            BadRecord: the payload does not match its CRC.
            IndexError: there is no such number.
        """
        shard, record = self._locate(number)
        index = self.indexes[shard]
        start, length = int(index.offsets[record]), int(index.lengths[record])
        mapped = self._map(shard)
        payload = mapped[start : start + length]
        stored = _FOOTER.unpack_from(mapped, start + length)[0]
        computed = masked_crc(payload)
        if stored != computed:
            raise BadRecord(
                f"{self.where(number)}: the payload's CRC is wrong: expected {stored:#010x} as stored, "
                f"found {computed:#010x}. The file is damaged: copy or download it again."
            )
        return payload

    def _locate(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return shard, number - (int(self._ends[shard - 1]) if shard else 0)

    def _map(self, shard: int) -> mmap.mmap:
        key = (os.getpid(), shard)
        if key not in self._maps:
            with self.indexes[shard].path.open("rb") as file:
                self._maps[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[key]
