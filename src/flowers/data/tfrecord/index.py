"""Index the records of each shard once, so that opening a data set again reads one small file per shard.

An index is a text file beside its shard in the format of the `tfrecord` package: one `offset length` line per record,
in bytes, framing included. The last line, which numpy.loadtxt skips as a comment, holds the shard's size and
modification time. If nothing can be written beside the shards, indexes go to a cache directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from flowers.data.storage.remote import AnyPath
from flowers.data.tfrecord.framing import FRAME, HEADER, ShardIndex, index_shard
from flowers.progress import progress
from flowers.system.atomic import write_atomic

_THREADS = 16  # limited by the disk, not by the processor


def open_indexes(paths: Sequence[Path], cache_dir: Path) -> list[ShardIndex]:
    """Return the indexes of local shards, in order. Valid index files are read, the others are created."""
    indexes = {path: index for path in paths if (index := load_index(path, cache_dir)) is not None}
    missing = [path for path in paths if path not in indexes]
    if missing:
        with ThreadPoolExecutor(_THREADS) as pool:
            created = pool.map(lambda path: _create_index(path, cache_dir), missing)
            indexes |= zip(missing, progress(created, "Indexing shards", len(missing)), strict=True)
    return [indexes[path] for path in paths]


def _create_index(path: Path, cache_dir: Path) -> ShardIndex:
    state = _state(path)  # before indexing: the index of a shard that changes meanwhile is then invalid
    index = index_shard(path)
    if index.problem is None:
        save_index(index, state, index_paths(path, cache_dir))
    return index


def index_paths(path: Path, cache_dir: Path) -> list[Path]:
    """Return the candidate paths of a shard's index: beside it or, if that directory is read-only, in the cache."""
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return [path.with_suffix(".tfindex"), cache_dir / "indexes" / f"{key}.tfindex"]


def load_index(path: Path, cache_dir: Path) -> ShardIndex | None:
    """Read a shard's index file, or return None if none matches the shard's size and modification time."""
    return next((index for _, index in _valid_indexes(path, cache_dir)), None)


def find_index_file(path: Path, cache_dir: Path) -> Path | None:
    """Return the path of a shard's index file, or None if none matches the shard's size and modification time."""
    return next((place for place, _ in _valid_indexes(path, cache_dir)), None)


def _valid_indexes(path: Path, cache_dir: Path) -> Iterator[tuple[Path, ShardIndex]]:
    state = _state(path)
    for place in index_paths(path, cache_dir):
        try:
            text = place.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if text.rstrip("\n").rpartition("\n")[2] != state:
            continue
        if (index := parse_index(path, text, path.stat().st_size)) is not None:
            yield place, index


def parse_index(path: AnyPath, text: str, size: int) -> ShardIndex | None:
    """Parse an index file, or return None if its records do not exactly fill the shard's `size` bytes."""
    try:
        rows = " ".join(line for line in text.split("\n") if not line.startswith("#"))
        table = np.array(rows.split(), np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        return None
    starts, lengths = table[:, 0], table[:, 1]
    ends = np.cumsum(lengths)
    contiguous = (lengths >= FRAME).all() and (starts == ends - lengths).all()
    if not contiguous or (int(ends[-1]) if len(ends) else 0) != size:
        return None
    return ShardIndex(path, starts + HEADER.size, lengths - FRAME)


def save_index(index: ShardIndex, state: str, places: Sequence[Path]) -> None:
    """Write an index to the first writable path of `places`, if any."""
    table = np.stack([index.offsets - HEADER.size, index.lengths + FRAME], axis=1)
    rows = [f"{start} {length}" for start, length in table.tolist()]
    text = "\n".join([*rows, state]) + "\n"  # at the end, for readers that do not support comments
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not _writable(place.parent):
                continue
            write_atomic(place, text)
            return
        except OSError:
            continue


def _writable(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o222)  # root could write here anyway, but should not


def _state(path: Path) -> str:
    status = path.stat()
    return f"# flowers index 1: size {status.st_size}, mtime_ns {status.st_mtime_ns}"
