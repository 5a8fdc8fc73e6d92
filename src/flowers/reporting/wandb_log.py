"""Read and write W&B's `.wandb` files: records in LevelDB's log format, behind a header of seven bytes.

A file is a sequence of blocks of 32 KiB. A record is one chunk, or several if it does not fit into the rest of a block.
Each chunk has a checksum, so a file whose end was lost can be read up to there. The format is described in
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
CHUNK = struct.Struct("<IHB")
"""A chunk's checksum, length and kind."""

WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Log:
    """The records of a `.wandb` file.

    records: those that can be read, from the start.
    damage: why the file cannot be read further; None if it can, or if only its end is missing.
    """

    records: list[Record]
    damage: str | None = None

    @property
    def has_run(self) -> bool:
        """Tell whether the log names its run, without which it cannot be uploaded."""
        return any(record.HasField("run") for record in self.records)

    @property
    def ended(self) -> bool:
        """Tell whether the run came to its end, be it a failure."""
        return any(record.HasField("exit") for record in self.records)


def read_log(path: Path) -> Log:
    """Read a `.wandb` file as far as that is possible.

    Raises:
        OSError: the file cannot be read at all.
    """
    data = path.read_bytes()
    if not data.startswith(HEADER):
        return Log([], "it is empty" if not data.strip(b"\0") else "it is no .wandb file")
    records: list[Record] = []
    # A record has begun although it has no bytes yet, if only a chunk's header fitted into the block.
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
            break  # the process was killed while it wrote
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
    """Describe the damage, which is none if nothing but zeros follows: a machine that stops may leave them."""
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
    """Merge the logs of a run that was resumed, each of which counts its steps and seconds from 0.

    Args:
        logs: the records of each part, in order of time.
        append: whether W&B is to append them to what its server has of the run already, or to write them from the first
            line on. Without, it does not matter how often they are uploaded.
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
    """Add to a value, and return what it is then."""
    value: float = json.loads(item.value_json)
    shifted = value + int(offset) if isinstance(value, int) else value + offset
    keys, nested = item.key, list(item.nested_key)
    item.Clear()  # of the other forms that it may have
    item.key, item.value_json = keys, json.dumps(shifted)
    item.nested_key.extend(nested)
    return shifted
