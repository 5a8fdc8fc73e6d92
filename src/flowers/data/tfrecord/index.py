"""Index the records of each shard once: opening a data set again reads a small file per shard.

An index is a text file beside its shard, `offset length` a line, in bytes and of whole records, as the `tfrecord`
package writes and reads it. A last line, a comment to numpy.loadtxt, names the state of the shard. Where nothing may be
written beside the shards, indexes go to a cache directory instead.
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

_THREADS = 16  # they wait for the disk, not for the processor


def open_indexes(paths: Sequence[Path], cache_dir: Path) -> list[ShardIndex]:
    """Return the indexes of local shards, in order: valid files are read, the others are made."""
    kept = {path: index for path in paths if (index := load_index(path, cache_dir)) is not None}
    missing = [path for path in paths if path not in kept]
    if missing:
        with ThreadPoolExecutor(_THREADS) as pool:
            made = pool.map(lambda path: _make(path, cache_dir), missing)
            kept |= zip(missing, progress(made, "Indexing shards", len(missing)), strict=True)
    return [kept[path] for path in paths]


def _make(path: Path, cache_dir: Path) -> ShardIndex:
    state = _state(path)  # before reading: a shard that changes meanwhile does not fit its index
    index = index_shard(path)
    if index.problem is None:
        save_index(index, state, index_paths(path, cache_dir))
    return index


def index_paths(path: Path, cache_dir: Path) -> list[Path]:
    """Return where a shard's index may be: beside it or, if that directory is read-only, in the cache."""
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return [path.with_suffix(".tfindex"), cache_dir / "indexes" / f"{key}.tfindex"]


def load_index(path: Path, cache_dir: Path) -> ShardIndex | None:
    """Read a shard's index file, or return None if there is none for the shard's size and time."""
    return next((index for _, index in _valid_indexes(path, cache_dir)), None)


def find_index_file(path: Path, cache_dir: Path) -> Path | None:
    """Return a shard's index file, or None if there is none for the shard's size and time."""
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
    """Parse an index file, or return None unless its records fill the shard's `size` bytes, one after the other."""
    try:
        rows = " ".join(line for line in text.split("\n") if not line.startswith("#"))
        table = np.array(rows.split(), np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        return None
    starts, lengths = table[:, 0], table[:, 1]
    ends = np.cumsum(lengths)
    whole = (lengths >= FRAME).all() and (starts == ends - lengths).all()
    if not whole or (int(ends[-1]) if len(ends) else 0) != size:
        return None
    return ShardIndex(path, starts + HEADER.size, lengths - FRAME)


def save_index(index: ShardIndex, state: str, places: Sequence[Path]) -> None:
    """Write an index to the first of these places that can be written, if any."""
    table = np.stack([index.offsets - HEADER.size, index.lengths + FRAME], axis=1)
    rows = [f"{start} {length}" for start, length in table.tolist()]
    text = "\n".join([*rows, state]) + "\n"  # at the end, where readers that know no comments have stopped
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
    return bool(directory.stat().st_mode & 0o222)  # the superuser may write anywhere, but should not here


def _state(path: Path) -> str:
    status = path.stat()
    return f"# flowers index 1: size {status.st_size}, mtime_ns {status.st_mtime_ns}"
