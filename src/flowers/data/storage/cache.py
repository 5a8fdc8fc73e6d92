"""Read remote shards through a cache on the local disk: each record is fetched once.

A cached shard is a sparse file of the shard's size, with each record at its original offset, so that it is read like a
local shard. A second file marks the cached records, one byte each. A mark is written after its record, and only if the
record matches its CRCs. Any number of processes may share a cached shard and be killed at any moment, because they
write the same bytes to the same offsets. `quota.py` limits the space that cached shards take.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal, cast

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from upath import UPath

from flowers.data.storage.quota import Quota, in_use, locked, reserve_blocks, round_to_blocks, touch
from flowers.data.storage.remote import AnyPath, content_state, read_ranges, read_text, size_and_state
from flowers.data.tfrecord.framing import FOOTER, HEADER, ShardIndex, frame_problem, index_shard
from flowers.data.tfrecord.index import open_indexes, parse_index, save_index
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord, InputError
from flowers.progress import progress

_THREADS = 8  # limited by the network; each holds a chunk in memory
_CHUNK = 8 << 20
"""Bytes per request to download a shard without an index."""
_RECORDS_PER_REQUEST = 32
"""Neighbouring records fetched by one request, at most. Larger groups are split to arrive in parallel."""


ReaderName = Literal["native", "tfrecord"]
"""This project's reader, or the one of the `tfrecord` package."""


def open_reader(
    paths: Sequence[AnyPath], cache_dir: Path, name: ReaderName = "native", cache_gb: float | None = None
) -> ShardReader:
    """Return a reader of shards that are all local, or all remote.

    Args:
        paths: the shards.
        cache_dir: the directory of caches.
        name: the reader of local shards.
        cache_gb: the most that the cached shards of all data sets may take, in gigabytes; None: no limit.

    Raises:
        InputError: the shards cannot be read, the named reader does not support them, a shard is larger than the cache
            may be, or the cache cannot be written.
    """
    local = [path for path in paths if isinstance(path, Path)]
    if len(local) == len(paths):
        try:
            indexes = open_indexes(local, cache_dir)
            return _package_reader(indexes, cache_dir) if name == "tfrecord" else ShardReader(indexes)
        except OSError as error:
            raise InputError(
                f"{error.filename}: expected to read the shard, found this: {error.strerror}. Copy or download it "
                "again, or fix its permissions."
            ) from error
    if name == "tfrecord":
        raise InputError(
            f"data.reader=tfrecord: expected local shards, found {paths[0]}: the package reads local files only. Set "
            "data.reader=native, or copy the data set to a local directory."
        )
    quota = None if cache_gb is None else Quota(cache_dir / "remote", round(cache_gb * 1e9))
    with ThreadPoolExecutor(_THREADS) as pool:
        cached = list(pool.map(lambda path: CachedShard.of(path, cache_dir), cast(Sequence[UPath], paths)))
        if quota is not None:
            for shard in cached:
                quota.check(shard.source, shard.size)
        known = {shard.path: index for shard in cached if (index := shard.cached_index()) is not None}
        missing = [shard for shard in cached if shard.path not in known]
        if missing:
            made = pool.map(lambda shard: shard.find_index(quota), missing)
            found = progress(made, "Indexing shards", len(missing))
            known |= zip([shard.path for shard in missing], found, strict=True)
    return RemoteReader([known[shard.path] for shard in cached], cached, quota)


def _package_reader(indexes: Sequence[ShardIndex], cache_dir: Path) -> ShardReader:
    try:
        from flowers.data.tfrecord.package_reader import TFRecordPackageReader
    except TypeError as error:  # from protobuf: its global pool has TensorFlow's messages
        raise InputError(
            "data.reader=tfrecord: expected a process without TensorFlow, found that it is imported: both packages "
            "define the same messages. Set data.reader=native."
        ) from error
    return TFRecordPackageReader(indexes, cache_dir)


@dataclass(frozen=True, slots=True)
class CachedShard:
    """The local cache `path`, complete or partial, of one state of a remote shard `source` of `size` bytes."""

    source: UPath
    size: int
    path: Path

    @staticmethod
    def of(source: UPath, cache_dir: Path) -> CachedShard:
        """Return the cached shard of a remote shard in its current state. A changed shard gets another one.

        Raises:
            InputError: the shard cannot be reached.
        """
        size, state = size_and_state(source)
        state = state or content_state(source, size)
        key = hashlib.sha256(f"{source} {size} {state}".encode()).hexdigest()[:32]
        return CachedShard(source, size, cache_dir / "remote" / key / source.name)

    def cached_index(self) -> ShardIndex | None:
        """Return the index that an earlier `find_index` has cached, or None."""
        place = self.path.with_suffix(".tfindex")
        try:
            if not (place.exists() and self.path.exists()):
                return None
            return parse_index(self.source, place.read_text(), self.size)
        except UnicodeDecodeError:
            return None
        except OSError as error:
            raise self.cache_error(error) from error

    def find_index(self, quota: Quota | None = None) -> ShardIndex:
        """Read the index beside the shard or, if there is none, download the shard within the quota and index it.

        Raises:
            InputError: the shard cannot be reached, or the cache cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):  # otherwise each rank would download it
                if (index := self.cached_index()) is not None:
                    return index
                self._marks.unlink(missing_ok=True)  # left by a cached shard that was partly deleted
                with self.path.open("ab") as file:
                    file.truncate(self.size)  # a sparse file takes no space
                beside = read_text(self.source.with_suffix(".tfindex"))
                index = parse_index(self.source, beside, self.size) if beside else None
                if index is None:
                    with self._whole_reserved(quota):
                        index = self._download()
                if index.problem is None:
                    save_index(index, f"# {self.source}", [self.path.with_suffix(".tfindex")])
                return index
        except OSError as error:
            raise self.cache_error(error) from error

    @contextmanager
    def _whole_reserved(self, quota: Quota | None) -> Iterator[None]:
        """Reserve space for the whole shard, and mark the shard as in use."""
        with ExitStack() as stack:
            with quota.lock() if quota else nullcontext():
                if quota is not None:
                    quota.make_room(lambda: round_to_blocks(0, self.size), [self.path])
                stack.enter_context(in_use(self.path))
                if quota is not None:
                    reserve_blocks(self.path, 0, self.size)
            yield

    def _download(self) -> ShardIndex:
        for _ in range(2):  # the transfer may have damaged a length
            for start in range(0, self.size, _CHUNK):
                [data] = read_ranges([(self.source, start, min(start + _CHUNK, self.size))])
                _write(self.path, data, start)
            index = index_shard(self.path)
            if index.problem is None:
                break
        frames = ((record, *frame_range(index, record, 1)) for record in range(len(index)))
        with self.path.open("rb") as file:
            valid = [frame_problem(os.pread(file.fileno(), end - start, start)) is None for _, start, end in frames]
        _write(self._marks, bytes(valid), 0)
        problem = index.problem and index.problem.replace(str(self.path), str(self.source))
        return replace(index, path=self.source, problem=problem)

    @property
    def _marks(self) -> Path:
        return self.path.with_suffix(".present")

    def present(self, count: int) -> NDArray[np.bool_]:
        """Return which of the shard's `count` records are cached, bool `[count]`."""
        try:
            marks = self._marks.read_bytes() if self._marks.exists() else b""
        except OSError as error:
            raise self.cache_error(error) from error
        return np.frombuffer(marks.ljust(count, b"\0")[:count], np.bool_).copy()

    def write(self, record: int, frame: bytes, position: int) -> None:
        """Write a record whose frame matches its CRCs at byte `position`, then mark it as cached."""
        try:
            _write(self.path, frame, position)
            _write(self._marks, b"\1", record)
        except OSError as error:
            raise self.cache_error(error) from error

    def cache_error(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: expected to cache records of {self.source} here, found this: {error}. Free disk space, or "
            "set paths.cache_dir to another directory."
        )


def _write(path: Path, data: bytes, position: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        while data:
            written = os.pwrite(file, data, position)
            data, position = data[written:], position + written
    finally:
        os.close(file)


def frame_range(index: ShardIndex, record: int, count: int) -> tuple[int, int]:
    """Return the start and end in bytes of `count` records from `record` on, headers and footers included."""
    last = record + count - 1
    return int(index.offsets[record]) - HEADER.size, int(index.offsets[last] + index.lengths[last]) + FOOTER.size


class RemoteReader(ShardReader):
    """Reads the payloads of remote shards, by number across all shards in order, and fetches those not yet cached.

    With a quota, any process may remove cached records, except while this one reads them or fetches others of their
    shard. A record that is gone when it is read does not match its CRC, and is fetched again.
    """

    def __init__(
        self, indexes: Sequence[ShardIndex], cached: Sequence[CachedShard], quota: Quota | None = None
    ) -> None:
        super().__init__(indexes)
        self.cached = cached
        self.quota = quota
        self._present: dict[int, NDArray[np.bool_]] = {}
        self._touched: dict[int, float] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_present": {}, "_touched": {}}

    def state(self) -> str:
        """Return a string that changes when a shard changes."""
        return repr([str(shard.path) for shard in self.cached])

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Fetch the records that are not cached, all at once. `read` retries those that arrive damaged."""
        numbers = set(numbers)
        self._touch(numbers)
        if self.quota is not None:
            self._present.clear()  # another process may have removed records
            numbers = self._first_that_fit(numbers, self.quota.limit // 3)  # each may need a block of extents too
        if missing := self._missing(numbers):
            with self._reserved(missing if self.quota is None else numbers) as missing:
                self._fetch(missing)

    def read(self, number: int, *, check: bool = True) -> bytes:
        """Return payload `number`. Its CRC is verified whatever `check` is, because a power cut may damage the cache.

        Raises:
            BadRecord: the payload does not match its CRC, even after a second fetch.
            InputError: the shard cannot be reached, or the cache cannot be written.
        """
        if self._is_present(number):
            try:
                with locked(self._file(self._locate(number)[0])):
                    return super().read(number)
            except BadRecord:
                pass  # removed, or damaged by a power cut or a disk error: fetch the record again
        for _ in range(2):
            with self._reserved({number}):
                if not (problems := self._fetch({number})):
                    return super().read(number)
        raise BadRecord(
            f"{self.where(number)}: {problems[number]} The shard is damaged, or has changed since it was opened. "
            "Upload it again, with the .tfindex beside it if there is one, or start again."
        )

    def _is_present(self, number: int) -> bool:
        shard, record = self._locate(number)
        if shard not in self._present or not self._present[shard][record]:  # another process may have fetched it
            self._present[shard] = self.cached[shard].present(len(self.indexes[shard]))
        return bool(self._present[shard][record])

    def _missing(self, numbers: set[int]) -> set[int]:
        return {number for number in numbers if not self._is_present(number)}

    def _touch(self, numbers: set[int]) -> None:
        """Record that the shards of these records are used now, at most once a second for each."""
        now = time.monotonic()
        for shard in {self._locate(number)[0] for number in numbers}:
            if now - self._touched.get(shard, -math.inf) > 1:
                self._touched[shard] = now
                touch(self._local(shard))

    def _first_that_fit(self, numbers: set[int], size: int) -> set[int]:
        """Return the first of these records that fit into `size` bytes; `read` fetches the others one by one."""
        ordered = sorted(numbers)
        ends = accumulate(self._taken({number}) for number in ordered)
        return {number for number, end in zip(ordered, ends, strict=True) if end <= size}

    def _taken(self, numbers: set[int]) -> int:
        """Return the bytes that records take in the cache."""
        return sum(round_to_blocks(start, end) for _, start, end in self._ranges(numbers))

    def _ranges(self, numbers: set[int]) -> list[tuple[int, int, int]]:
        """Return the shards of records, with the first and last byte of each run of neighbours."""
        return [(shard, *frame_range(self.indexes[shard], run[0][1], len(run))) for shard, run in self._runs(numbers)]

    @contextmanager
    def _reserved(self, numbers: set[int]) -> Iterator[set[int]]:
        """Keep the shards of these records. With a quota, reserve space for the missing ones, and yield only those."""
        own = [self._local(shard) for shard in {self._locate(number)[0] for number in numbers}]
        with ExitStack() as stack:
            try:
                with self.quota.lock() if self.quota else nullcontext():
                    if self.quota is not None:
                        numbers = self._make_room(self.quota, numbers, own)
                    for path in own:
                        stack.enter_context(in_use(path))
            except OSError as error:
                raise self.cached[self._locate(min(numbers))[0]].cache_error(error) from error
            yield numbers

    def _make_room(self, quota: Quota, numbers: set[int], own: Sequence[Path]) -> set[int]:
        """Reserve space for those of the records that are missing, and return them. Call it under the quota's lock."""

        def needed() -> int:
            self._present.clear()  # another process, or the quota itself, may have removed records
            return self._taken(self._missing(numbers))

        quota.make_room(needed, own)
        missing = self._missing(numbers)
        for shard, start, end in self._ranges(missing):
            reserve_blocks(self._local(shard), start, end)
        return missing

    def _fetch(self, numbers: set[int]) -> dict[int, str]:
        """Fetch records into the cache. Return the problems of those that arrived damaged, by number."""
        runs = list(self._runs(numbers))
        ranges = [(shard, *frame_range(self.indexes[shard], run[0][1], len(run))) for shard, run in runs]
        answers = read_ranges([(self.cached[shard].source, start, end) for shard, start, end in ranges])
        problems: dict[int, str] = {}
        for (shard, run), (_, start, _), answer in zip(runs, ranges, answers, strict=True):
            for number, record in run:
                first, end = frame_range(self.indexes[shard], record, 1)
                frame = answer[first - start : end - start]
                if problem := frame_problem(frame):
                    problems[number] = problem
                else:
                    self.cached[shard].write(record, frame, first)
        return problems

    def _runs(self, numbers: set[int]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Group records into runs of neighbours. Yield each run's shard and its pairs (number, number in the shard)."""
        placed = []
        for position, number in enumerate(sorted(numbers)):
            shard, record = self._locate(number)
            # The difference is the same for neighbours.
            run = (shard, number - position, record // _RECORDS_PER_REQUEST)
            placed.append((run, number, record))
        for (shard, _, _), records in groupby(placed, key=itemgetter(0)):
            yield shard, [(number, record) for _, number, record in records]

    def _local(self, shard: int) -> Path:
        return self.cached[shard].path
