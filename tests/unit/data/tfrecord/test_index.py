"""Index files are valid or rebuilt, have the tfrecord package's format, and open quickly."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tfrecord.tools.tfrecord2idx import create_index

from flowers.data.tfrecord import index as index_module
from flowers.data.tfrecord.framing import ShardIndex, index_shard, write_shard
from flowers.data.tfrecord.index import index_paths, load_index, open_indexes

SHARD = Path(__file__).parents[3] / "golden" / "00-48x48-6.tfrec"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return Path(shutil.copy(SHARD, directory))


def same(first: ShardIndex, second: ShardIndex) -> bool:
    return np.array_equal(first.offsets, second.offsets) and np.array_equal(first.lengths, second.lengths)


def test_a_cached_index_is_read_instead_of_the_shard(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_indexes([shard], tmp_path)[0]
    monkeypatch.setattr(index_module, "index_shard", lambda path: pytest.fail("the shard was read again"))
    cached_index = open_indexes([shard], tmp_path)[0]
    assert len(made) == 6
    assert same(made, cached_index)
    assert same(made, index_shard(shard))


def test_an_index_file_matches_the_tfrecord_packages(shard: Path, tmp_path: Path) -> None:
    open_indexes([shard], tmp_path)
    create_index(str(shard), str(tmp_path / "theirs"))
    ours = np.loadtxt(shard.with_suffix(".tfindex"), dtype=np.int64)  # as tfrecord.reader reads it
    np.testing.assert_array_equal(ours, np.loadtxt(tmp_path / "theirs", dtype=np.int64))


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def grow(path: Path) -> None:
    other = path.with_suffix(".other")
    write_shard(other, [b"more"])
    status = path.stat()
    path.write_bytes(path.read_bytes() + other.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [touch, grow])
def test_an_index_is_rebuilt_if_the_shards_size_or_time_changes(
    shard: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    open_indexes([shard], tmp_path)
    change(shard)
    assert load_index(shard, tmp_path) is None
    assert same(open_indexes([shard], tmp_path)[0], index_shard(shard))
    assert load_index(shard, tmp_path) is not None


@pytest.mark.parametrize("damage", ["", "0 17\n17 x\n", "0 400\n", "16 384\n", "0 -5\n-5 405\n", f"0 {2**70}\n"])
def test_a_damaged_index_is_rebuilt(shard: Path, tmp_path: Path, damage: str) -> None:
    right = open_indexes([shard], tmp_path)[0]
    cached_index = shard.with_suffix(".tfindex")
    cached_index.write_text(damage + cached_index.read_text().splitlines()[-1] + "\n")
    assert load_index(shard, tmp_path) is None
    assert same(open_indexes([shard], tmp_path)[0], right)


def test_the_index_of_read_only_data_is_in_the_cache(shard: Path, tmp_path: Path) -> None:
    shard.parent.chmod(0o555)
    open_indexes([shard], tmp_path / "cache")
    beside, cached = index_paths(shard, tmp_path / "cache")
    assert not beside.exists()
    assert cached.exists()
    assert load_index(shard, tmp_path / "cache") is not None
    shard.parent.chmod(0o755)


def test_a_damaged_shard_leaves_no_index(shard: Path, tmp_path: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])
    for _ in range(2):
        index = open_indexes([shard], tmp_path)[0]
        assert len(index) == 5
        assert index.problem is not None
    assert not shard.with_suffix(".tfindex").exists()


def test_an_empty_shard_has_an_empty_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "00.tfrec", [])
    for _ in range(2):
        assert len(open_indexes([tmp_path / "00.tfrec"], tmp_path)[0]) == 0


def test_opening_the_indexes_of_64_shards_takes_less_than_0_3_seconds(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02d}.tfrec" for number in range(64)]
    for path in paths:
        write_shard(path, [b"a record"] * 798)
    open_indexes(paths, tmp_path)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert sum(len(index) for index in open_indexes(paths, tmp_path)) == 64 * 798
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
