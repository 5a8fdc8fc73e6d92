"""Frame records in TFRecord shards, with their checksums.

A TFRecord file is a run of `length (uint64) | masked CRC of length (uint32) | payload | masked CRC of
payload (uint32)`, little-endian, the CRC being CRC-32C (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from flowers.data.storage.remote import AnyPath
from flowers.system.atomic import open_atomic

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
FRAME = HEADER.size + FOOTER.size
"""The bytes that a record takes in its shard beside its payload."""


def masked_crc(data: bytes) -> int:
    """Return TFRecord's masked CRC-32C: rotated and offset, so that the CRC of data with a CRC in it stays useful."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def open_shard(path: AnyPath) -> Iterator[Callable[[bytes], None]]:
    """Open a new TFRecord file; yield a function that appends a payload. It gets its name when the block ends."""
    with open_atomic(path) as file:

        def append(payload: bytes) -> None:
            length = struct.pack("<Q", len(payload))
            file.write(length + FOOTER.pack(masked_crc(length)) + payload + FOOTER.pack(masked_crc(payload)))

        yield append


def write_shard(path: AnyPath, payloads: Iterable[bytes]) -> None:
    """Write the payloads as one TFRecord file, under another name until it is whole."""
    with open_shard(path) as append:
        for payload in payloads:
            append(payload)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The index of a shard: `offsets` and `lengths` of the payloads in bytes, int64 `[N]` each.

    `problem` says why indexing ended before the end of the file, None if it did not.
    """

    path: AnyPath
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    problem: str | None = None

    def __len__(self) -> int:
        return len(self.offsets)


def index_shard(path: Path) -> ShardIndex:
    """Find every record of a shard from the lengths alone, each checked against its CRC; payloads are not read."""
    offsets: list[int] = []
    lengths: list[int] = []
    position = 0
    problem = None
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), HEADER.size, position)
            problem = _header_problem(header, size - position)
            if problem:
                problem = f"{path}: record {len(offsets)} at byte {position}: {problem}"
                break
            length = HEADER.unpack(header)[0]
            offsets.append(position + HEADER.size)
            lengths.append(length)
            position += FRAME + length
    return ShardIndex(path, np.array(offsets, np.int64), np.array(lengths, np.int64), problem)


def _header_problem(header: bytes, rest: int) -> str | None:
    """Describe the problem of a record's header, given the number of bytes from its start to the end of the file."""
    if len(header) < HEADER.size:
        return f"the shard is cut off: expected a header of {HEADER.size} bytes, found {len(header)}."
    length, stored = HEADER.unpack(header)
    computed = masked_crc(header[:8])
    if stored != computed:
        return f"the length's CRC is wrong: expected {stored:#010x} as stored, found {computed:#010x}."
    if FRAME + length > rest:
        return f"the shard is cut off: expected a payload of {length} bytes, found {max(0, rest - FRAME)}."
    return None


def shard_problem(index: ShardIndex, declared: int | None) -> str | None:
    """Describe the problem of a shard whose name declares so many records, or return None."""
    whole = declared in (None, len(index))
    if index.problem is None and whole:
        return None
    count = f"{index.path}: expected {declared} records as the name says, found {len(index)}."
    fix = (
        "Copy or download the shard again; data.on_bad_record=skip goes on with the records before it."
        if index.problem
        else "Copy or download the shard again, or rename it to its true count."
    )
    return " ".join(part for part in (index.problem, "" if whole else count, fix) if part)


def payload_problem(payload: bytes, footer: bytes) -> str | None:
    """Describe the problem of a payload, given the 4 bytes behind it, or return None."""
    stored, computed = FOOTER.unpack(footer)[0], masked_crc(payload)
    if stored != computed:
        return f"the payload's CRC is wrong: expected {stored:#010x} as stored, found {computed:#010x}."
    return None


def frame_problem(frame: bytes) -> str | None:
    """Describe the problem of a record, given what should be all of its bytes, or return None."""
    if problem := _header_problem(frame[: HEADER.size], len(frame)):
        return problem
    length = HEADER.unpack_from(frame)[0]
    if FRAME + length != len(frame):
        return f"expected a payload of {len(frame) - FRAME} bytes as the index says, found one of {length}."
    return payload_problem(frame[HEADER.size : -FOOTER.size], frame[-FOOTER.size :])
