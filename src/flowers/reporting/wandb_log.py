"""Read and write W&B's `.wandb` files: records in LevelDB's log format, behind a header of seven bytes.

A file is a sequence of blocks of 32 KiB. A record is one chunk, or several if it does not fit into the rest of a block.
Each chunk has a checksum, so a truncated file can be read up to the last whole record. The format is described in
https://github.com/google/leveldb/blob/main/doc/log_format.md; W&B's checksum is the CRC-32 of zlib.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

from flowers.system.atomic import open_atomic

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32768
"""Bytes of a block."""

CHUNK = struct.Struct("<IHB")
"""A chunk's header: its checksum, length and kind."""

WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""The kinds of a chunk: a whole record, or the first, a middle or the last part of one."""


@dataclass(frozen=True, slots=True)
class Log:
    """The records of a `.wandb` file.

    records: the readable records, from the start.
    damage: a description of the damage that ends them; None if the file is whole or merely truncated.
    """

    records: list[Record]
    damage: str | None = None

    @property
    def has_run(self) -> bool:
        """Return whether the log has a record of its run, without which it cannot be uploaded."""
        return any(record.HasField("run") for record in self.records)

    @property
    def ended(self) -> bool:
        """Return whether the run ended, successfully or not."""
        return any(record.HasField("exit") for record in self.records)


def read_log(path: Path) -> Log:
    """Read a `.wandb` file as far as possible.

    Raises:
        OSError: the file cannot be read at all.
    """
    data = path.read_bytes()
    if not data.startswith(HEADER):
        return Log([], "it is empty" if not data.strip(b"\0") else "it is no .wandb file")
    records: list[Record] = []
    # `inside` is needed because a record may have begun without any bytes: the block had room for a header only.
    parts, inside, position = b"", False, len(HEADER)
    while position + CHUNK.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK.size:
            position += left
            continue
        checksum, length, kind = CHUNK.unpack_from(data, position)
        start, end = position + CHUNK.size, position + CHUNK.size + length
        sound = end - position <= left and (kind in (WHOLE, FIRST)) != inside and kind <= LAST
        if sound and end > len(data):
            break  # the process was killed while writing
        if not sound or zlib.crc32(data[start - 1 : end]) != checksum:
            return Log(records, _damage(data, position))
        parts += data[start:end]
        position, inside = end, kind in (FIRST, MIDDLE)
        if not inside:
            try:
                records.append(Record.FromString(parts))
            except DecodeError:
                return Log(records, _damage(data, position))
            parts = b""
    return Log(records)


def _damage(data: bytes, position: int) -> str | None:
    """Describe the damage; return None if only zeros follow, which a crash of the machine may leave."""
    return f"it is damaged at byte {position} of {len(data)}" if data[position:].strip(b"\0") else None


def write_log(path: Path, records: Iterable[Record]) -> None:
    """Write a `.wandb` file."""
    data = bytearray(HEADER)
    for record in records:
        payload, first = record.SerializeToString(), True
        while first or payload:
            left = BLOCK - len(data) % BLOCK
            if left < CHUNK.size:
                data += bytes(left)
                continue
            piece, payload = payload[: left - CHUNK.size], payload[left - CHUNK.size :]
            kind = (WHOLE if first else LAST) if not payload else (FIRST if first else MIDDLE)
            data += CHUNK.pack(zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
    with open_atomic(path) as file:
        file.write(data)


def merge_logs(logs: Sequence[Sequence[Record]], *, append: bool) -> list[Record]:
    """Merge the logs of a resumed run, each of which counts its steps and seconds from 0.

    Args:
        logs: the records of each part, in order of time.
        append: whether W&B appends them to the rows of the run on its server. Otherwise it writes them from the first
            line on, which makes repeated uploads harmless.
    """
    merged: list[Record] = []
    step = runtime = 0.0
    for number, records in enumerate(logs):
        last_step, last_runtime = step - 1, runtime
        for record in records:
            if record.HasField("header") and number > 0:
                continue
            if record.HasField("exit") and number < len(logs) - 1:
                continue
            shifted = Record()
            shifted.CopyFrom(record)
            if shifted.HasField("run"):
                shifted.run.resume = append and number == 0
            for item in _items(shifted):
                if item_name(item) == "_step":
                    last_step = max(last_step, _shift(item, step))
                elif item_name(item) == "_runtime":
                    last_runtime = max(last_runtime, _shift(item, runtime))
            if shifted.HasField("history") and shifted.history.HasField("step"):
                shifted.history.step.num += int(step)
            merged.append(shifted)
        step, runtime = last_step + 1, last_runtime
    return merged


def item_name(item: Any) -> str:
    """Return the name of a value in the history or the summary."""
    return item.key or "/".join(item.nested_key)


def _items(record: Record) -> Iterable[Any]:
    """Return the values that a record adds to the history or the summary."""
    return [*record.history.item, *record.summary.update]


def _shift(item: Any, offset: float) -> float:
    """Add an offset to a value, and return the sum."""
    value: float = json.loads(item.value_json)
    shifted = value + int(offset) if isinstance(value, int) else value + offset
    keys, nested = item.key, list(item.nested_key)
    item.Clear()  # the other fields that may hold the value
    item.key, item.value_json = keys, json.dumps(shifted)
    item.nested_key.extend(nested)
    return shifted
