"""Two independent readers, the native one and the `tfrecord` package's, read the same records."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowers.data.datamodule import FlowersDataModule
from flowers.data.storage.cache import ReaderName, open_reader
from flowers.data.tfrecord.framing import write_shard
from flowers.data.tfrecord.package_reader import TFRecordPackageReader
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord, InputError

GOLDEN = Path(__file__).parents[3] / "golden" / "00-48x48-6.tfrec"


def open_both(paths: list[Path], cache: Path) -> tuple[ShardReader, ShardReader]:
    return open_reader(paths, cache), open_reader(paths, cache, "tfrecord")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return Path(shutil.copy(GOLDEN, tmp_path))


def test_both_readers_read_equal_records_in_any_order(garden: Path, shard: Path, tmp_path: Path) -> None:
    for paths in ([shard], *(sorted(split.glob("*.tfrec")) for split in garden.glob("*/*") if split.is_dir())):
        ours, theirs = open_both(paths, tmp_path)
        assert isinstance(theirs, TFRecordPackageReader)
        numbers = np.random.default_rng(0).permutation(len(ours)).tolist()
        assert [theirs[number] for number in numbers] == [ours[number] for number in numbers]


def test_shards_may_hold_any_number_and_size_of_records(tmp_path: Path) -> None:
    payloads = [[b"alone"], [], [b"", b"x" * (3 << 20), b""]]
    for number, records in enumerate(payloads):
        write_shard(tmp_path / f"{number}.tfrec", records)
    _, theirs = open_both(sorted(tmp_path.glob("*.tfrec")), tmp_path)
    assert list(pickle.loads(pickle.dumps(theirs))) == [payload for records in payloads for payload in records]


@pytest.mark.parametrize("workers", [0, 2])
def test_both_readers_give_equal_epochs(garden: Path, workers: int) -> None:
    def epoch(reader: ReaderName, workers: int) -> list[tuple[list[str], bytes, list[int]]]:
        settings: dict[str, Any] = {"balance": "sqrt", "num_workers": workers, "reader": reader}
        data = FlowersDataModule(str(garden), 192, 192, 192, 16, [], [], **settings)
        loader = data.loader("train", training=True)
        return [(batch["id"], batch["image"].numpy().tobytes(), batch["label"].tolist()) for batch in loader]

    assert epoch("tfrecord", workers) == epoch("native", 0)


def test_checksums_are_compared_unless_disabled(shard: Path, tmp_path: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    _, theirs = open_both([shard], tmp_path)
    with pytest.raises(BadRecord, match=f"{shard}: record 0"):
        theirs[0]
    assert theirs.read(0, check=False) != theirs[1]


def test_a_shard_truncated_or_deleted_after_opening_is_reported(shard: Path, tmp_path: Path) -> None:
    _, theirs = open_both([shard], tmp_path)
    data = shard.read_bytes()
    for length in (0, len(data) // 2, len(data) - 1):
        shard.write_bytes(data[:length])
        with pytest.raises(BadRecord, match=f"{shard}: record 5"):
            theirs[5]
    shard.unlink()
    with pytest.raises(InputError, match=str(shard)) as error:
        theirs[5]
    assert not isinstance(error.value, BadRecord)


def test_remote_and_damaged_shards_are_refused_with_the_key(shard: Path, tmp_path: Path) -> None:
    from upath import UPath

    with pytest.raises(InputError, match=r"data\.reader"):
        open_reader([UPath("memory://bucket/00-48x48-6.tfrec")], tmp_path, "tfrecord")
    shard.write_bytes(shard.read_bytes()[:-1])  # a damaged shard has no index file
    with pytest.raises(InputError, match=rf"{shard}: .*data\.reader"):
        open_reader([shard], tmp_path, "tfrecord")
