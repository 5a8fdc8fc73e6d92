"""The cache of remote shards stays within its quota, for any number of processes, and gives the right records."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import open_splits
from flowers.data.storage import cache, quota, remote
from flowers.data.storage.cache import RemoteReader
from flowers.data.tfrecord.framing import write_shard
from flowers.data.tfrecord.index import open_indexes
from flowers.errors import InputError
from tests.helpers.object_stores import Server, directory

SHARDS, RECORDS, BYTES = 6, 20, 20_000
SHARD_GB = RECORDS * (BYTES + 16) / 1e9
"""The size of a shard, in gigabytes."""


def payload(number: int) -> bytes:
    return np.random.default_rng(number).bytes(BYTES)


EXPECTED = [payload(number) for number in range(SHARDS * RECORDS)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Yield a web server of shards with indexes."""
    sized = tmp_path / "web" / "tfrecords-jpeg-32x32" / "train"
    sized.mkdir(parents=True)
    for shard in range(SHARDS):
        own = EXPECTED[shard * RECORDS : (shard + 1) * RECORDS]
        write_shard(sized / f"{shard:02d}-32x32-{RECORDS}.tfrec", own)
    open_indexes(sorted(sized.glob("*.tfrec")), tmp_path)
    server = Server(directory(tmp_path / "web"))
    yield server
    server.stop()


def open_reader(url: str, cache_dir: Path, shards: float | None) -> RemoteReader:
    """Open the data set with a quota of this many shards."""
    gigabytes = None if shards is None else shards * SHARD_GB
    reader, _ = open_splits(remote.open_root(url, {}), ["train"], 32, "stop", cache_dir, "native", gigabytes)
    assert isinstance(reader, RemoteReader)
    return reader


def taken(cache_dir: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in cache_dir.glob("remote/*/*.tfrec"))


def write_back(cache_dir: Path) -> None:
    """Make the file system allocate what it allocates when it writes the pages of the cached shards."""
    for path in cache_dir.glob("remote/*/*.tfrec"):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def taken_by_shard(reader: RemoteReader) -> list[bool]:
    return [shard.path.stat().st_blocks > 0 for shard in reader.cached]


def fill(reader: RemoteReader, shard: int) -> None:
    """Cache a whole shard, a quarter at a time: no more is fetched ahead than a third of the quota."""
    for start in range(shard * RECORDS, (shard + 1) * RECORDS, RECORDS // 4):
        reader.prefetch(range(start, start + RECORDS // 4))


def read_shuffled(reader: RemoteReader, seed: int, batch: int = 8) -> Iterator[None]:
    """Read every record as a loader does, and check it; yield after each batch."""
    order = np.random.default_rng(seed).permutation(len(reader))
    for start in range(0, len(order), batch):
        numbers: Sequence[int] = order[start : start + batch].tolist()
        reader.prefetch(numbers)
        for number in numbers:
            assert reader.read(number) == EXPECTED[number]
        yield


@pytest.mark.parametrize("shards", [1.05, 2.5, 4])
def test_the_cache_never_exceeds_its_quota(server: Server, tmp_path: Path, shards: float) -> None:
    reader = open_reader(server.url, tmp_path / "cache", shards)
    for epoch in range(2):
        for _ in read_shuffled(reader, epoch):
            assert 0 < taken(tmp_path / "cache") <= shards * SHARD_GB * 1e9


@pytest.mark.parametrize("blocks", range(6))  # a record takes six at most: one of these limits is reached exactly
def test_the_quota_counts_the_blocks_that_list_the_pieces_of_a_file(
    server: Server, tmp_path: Path, blocks: int
) -> None:
    limit = 1.2 * SHARD_GB * 1e9 + blocks * 4096
    reader = open_reader(server.url, tmp_path / "cache", limit / 1e9 / SHARD_GB)
    for number in range(0, len(reader) // 2, 2):
        reader.prefetch([number])
        write_back(tmp_path / "cache")
        assert taken(tmp_path / "cache") <= limit


def test_a_quota_that_suffices_removes_nothing(server: Server, tmp_path: Path) -> None:
    reader = open_reader(server.url, tmp_path / "cache", SHARDS * 1.5)
    list(read_shuffled(reader, 0))
    before = taken(tmp_path / "cache")
    server.stop()
    list(read_shuffled(reader, 1))
    assert taken(tmp_path / "cache") == before


def test_the_least_recently_used_shard_is_removed(server: Server, tmp_path: Path) -> None:
    reader = open_reader(server.url, tmp_path / "cache", 3.3)
    for shard in (0, 1, 2):
        fill(reader, shard)
    reader._touched.clear()  # as if a second had passed
    reader.prefetch([0])
    fill(reader, 3)
    assert taken_by_shard(reader) == [True, False, True, True, False, False]


def test_a_shard_in_use_is_not_removed(server: Server, tmp_path: Path) -> None:
    reader = open_reader(server.url, tmp_path / "cache", 2.2)
    for shard in (0, 1):
        fill(reader, shard)
    with quota.in_use(reader.cached[0].path):
        assert not quota.remove_copy(reader.cached[0].path)
        fill(reader, 2)
    assert taken_by_shard(reader)[:3] == [True, False, True]
    assert quota.remove_copy(reader.cached[0].path)


def test_a_reader_fetches_again_what_another_has_removed(server: Server, tmp_path: Path) -> None:
    reader = open_reader(server.url, tmp_path / "cache", None)
    assert [reader.read(number) for number in range(RECORDS)] == EXPECTED[:RECORDS]
    list(
        read_shuffled(open_reader(server.url, tmp_path / "cache", 1.05), 0)
    )  # removes the records, the file stays open
    assert [reader.read(number, check=False) for number in range(RECORDS)] == EXPECTED[:RECORDS]


def test_a_shard_larger_than_the_quota_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data\.cache_gb=\S+: .*http://.*\.tfrec") as raised:
        open_reader(server.url, tmp_path / "cache", 0.9)
    assert "00-32x32" in str(raised.value)


def test_shards_without_an_index_are_downloaded_within_the_quota(server: Server, tmp_path: Path) -> None:
    for index in (tmp_path / "web").rglob("*.tfindex"):
        index.unlink()
    reader = open_reader(server.url, tmp_path / "cache", 2.2)
    assert 0 < taken(tmp_path / "cache") <= 2.2 * SHARD_GB * 1e9
    list(read_shuffled(reader, 0))
    requests = server.requests
    assert len(open_reader(server.url, tmp_path / "cache", 2.2)) == len(EXPECTED)
    assert server.requests - requests == 3 + SHARDS  # three lists, each shard's size: indexes of removed shards stay


def test_a_full_disk_is_reported(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(server.url, tmp_path / "cache", 2)

    def refuse(path: Path, start: int, end: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "reserve_blocks", refuse)
    with pytest.raises(InputError, match=r"No space left.*\bpaths\.cache_dir"):
        reader.prefetch([0])


def read_in_process(url: str, cache_dir: Path, seed: int, started: Event) -> None:
    reader = open_reader(url, cache_dir, 2.5)
    for _ in read_shuffled(reader, seed):
        started.set()


@pytest.mark.slow
def test_processes_share_the_quota_and_may_be_killed(server: Server, tmp_path: Path) -> None:
    server.latency = 0.01
    context = multiprocessing.get_context("forkserver")
    events = [context.Event() for _ in range(3)]
    processes = [
        context.Process(target=read_in_process, args=(server.url, tmp_path / "cache", seed, event))
        for seed, event in enumerate(events)
    ]
    for process in processes:
        process.start()
    assert events[0].wait(120)
    processes[0].kill()  # in the midst of a request
    shared = quota.Quota(tmp_path / "cache" / "remote", 0)
    highest = 0
    while any(process.is_alive() for process in processes):
        with shared.lock():  # otherwise a shard that is removed while the files are looked at counts with its successor
            highest = max(highest, taken(tmp_path / "cache"))
        time.sleep(0.005)
    assert [process.exitcode for process in processes[1:]] == [0, 0]  # each has checked its records
    assert 0 < highest <= 2.5 * SHARD_GB * 1e9
    reader = open_reader(server.url, tmp_path / "cache", 2.5)
    for _ in read_shuffled(reader, 9):
        assert taken(tmp_path / "cache") <= 2.5 * SHARD_GB * 1e9


def test_the_setting_reaches_the_cache(server: Server, tmp_path: Path) -> None:
    (tmp_path / "web" / "classes.txt").write_text("rose\n")
    data = FlowersDataModule(server.url, 32, 32, 32, 16, [], [], cache_dir=str(tmp_path / "cache"), cache_gb=1e-6)
    with pytest.raises(InputError, match=r"^data\.cache_gb=1e-06: "):
        data.setup("fit")
