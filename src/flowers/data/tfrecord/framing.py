"""Read and write the framing of TFRecord files: lengths, payloads and their checksums.

A TFRecord file is a sequence of `length (uint64) | masked CRC of length (uint32) | payload | masked CRC of
payload (uint32)`, little-endian. The CRC is CRC-32C (tensorflow/core/lib/io/record_writer.h).
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
"""The bytes of a record's header and footer together."""


def masked_crc(data: bytes) -> int:
    """Return TFRecord's masked CRC-32C of `data`.

    The CRC is rotated and offset, because the plain CRC of data that contains CRCs is unreliable
    (tensorflow/core/lib/hash/crc32c.h).
    """
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@contextmanager
def open_shard(path: AnyPath) -> Iterator[Callable[[bytes], None]]:
    """Open a new TFRecord file and yield a function that appends a payload.

    The file gets its name when the block ends without an error.
    """
    with open_atomic(path) as file:

        def append(payload: bytes) -> None:
            length = struct.pack("<Q", len(payload))
            file.write(length + FOOTER.pack(masked_crc(length)) + payload + FOOTER.pack(masked_crc(payload)))

        yield append


def write_shard(path: AnyPath, payloads: Iterable[bytes]) -> None:
    """Write the payloads as one TFRecord file, which gets its name when it is complete."""
    with open_shard(path) as append:
        for payload in payloads:
            append(payload)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The index of a shard: `offsets` and `lengths` of the payloads in bytes, int64 `[N]` each.

    `problem` explains why indexing stopped before the end of the file. It is None if the whole file was indexed.
    """

    path: AnyPath
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    problem: str | None = None

    def __len__(self) -> int:
        return len(self.offsets)


def index_shard(path: Path) -> ShardIndex:
    """Index every record of a shard from the lengths, each checked against its CRC. Payloads are not read."""
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
    """Describe the problem of a record's header, or return None. `rest` counts the bytes from it to the file's end."""
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
    """Describe the problem of a shard, or return None.

    Args:
        index: the shard's index.
        declared: the number of records that the shard's name declares, if any.
    """
    count_matches = declared in (None, len(index))
    if index.problem is None and count_matches:
        return None
    count = f"{index.path}: expected {declared} records as the name says, found {len(index)}."
    fix = (
        "Copy or download the shard again; data.on_bad_record=skip goes on with the records before it."
        if index.problem
        else "Copy or download the shard again, or rename it to its true count."
    )
    return " ".join(part for part in (index.problem, "" if count_matches else count, fix) if part)


def payload_problem(payload: bytes, footer: bytes) -> str | None:
    """Describe the problem of a payload, or return None. `footer` is the 4 bytes after it."""
    stored, computed = FOOTER.unpack(footer)[0], masked_crc(payload)
    if stored != computed:
        return f"the payload's CRC is wrong: expected {stored:#010x} as stored, found {computed:#010x}."
    return None


def frame_problem(frame: bytes) -> str | None:
    """Describe the problem of a record, or return None. `frame` is its header, payload and footer."""
    if problem := _header_problem(frame[: HEADER.size], len(frame)):
        return problem
    length = HEADER.unpack_from(frame)[0]
    if FRAME + length != len(frame):
        return f"expected a payload of {len(frame) - FRAME} bytes as the index says, found one of {length}."
    return payload_problem(frame[HEADER.size : -FOOTER.size], frame[-FOOTER.size :])
