"""Where each shard's records are, found once and kept: opening a data set anew reads a small file a shard.

An index is a text file beside its shard, `offset length` a line, in bytes and of whole records, as the `tfrecord`
package writes and reads it. A last line, a comment to numpy.loadtxt, says of which state of the shard it is. Where
nothing may be written beside the shards, indexes are kept in a cache directory instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from flowers.data.storage.remote import AnyPath
from flowers.data.tfrecord.framing import FRAME, HEADER, ShardIndex, index_shard
from flowers.progress import progress
from flowers.system.atomic import write_atomic

_THREADS = 16  # they wait for the disk, not for the processor


def open_indexes(paths: Sequence[Path], cache_dir: Path) -> list[ShardIndex]:
    """The indexes of local shards, in order: those that are kept and still right, the others made and kept."""
    kept = {path: index for path in paths if (index := load_index(path, cache_dir))}
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
    """Where a shard's index may be: beside it or, where that directory is read-only, in the cache."""
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return [path.with_suffix(".tfindex"), cache_dir / "indexes" / f"{key}.tfindex"]


def load_index(path: Path, cache_dir: Path) -> ShardIndex | None:
    """A shard's kept index; None where there is none, or the shard's size or time is no longer that of the index."""
    state = _state(path)
    for place in index_paths(path, cache_dir):
        try:
            text = place.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if text.rstrip("\n").rpartition("\n")[2] == state and (index := parse_index(path, text, path.stat().st_size)):
            return index
    return None


def parse_index(path: AnyPath, text: str, size: int) -> ShardIndex | None:
    """The index in a file's text; None unless its records fill the shard's `size` bytes, one after the other."""
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
    """Keep an index at the first of these places where it can be written; nowhere if it cannot be at any."""
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
