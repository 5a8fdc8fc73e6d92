"""Cached images equal the decoded ones, are decoded once, and are dropped when their shard changes."""

from __future__ import annotations

import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pytest

from flowers.data import dataset as dataset_module
from flowers.data import image_cache as decoded
from flowers.data.datamodule import FlowersDataModule
from flowers.data.image_cache import ImagesInMemory, ImagesOnDisk
from flowers.errors import InputError
from flowers.interfaces import Batch


@pytest.fixture
def copied(garden: Path, tmp_path: Path) -> Path:
    shutil.copytree(garden / "tfrecords-jpeg-192x192" / "train", tmp_path / "data" / "tfrecords-jpeg-192x192" / "train")
    return tmp_path / "data"


def module(root: Path, kind: str | None, cache: Path, workers: int = 0) -> FlowersDataModule:
    transform = [A.RandomCrop(64, 64), A.HorizontalFlip()]
    return FlowersDataModule(
        str(root), 192, 64, 64, 16, transform, [], decoded_cache=kind, num_workers=workers, cache_dir=str(cache)
    )


def read_epochs(data: FlowersDataModule, count: int) -> list[list[Batch]]:
    loader = data.loader("train", training=True)
    found = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found.append(list(loader))
    return found


def same(first: list[list[Batch]], second: list[list[Batch]]) -> bool:
    return all(
        one["id"] == other["id"] and one["image"].equal(other["image"])
        for batches, others in zip(first, second, strict=True)
        for one, other in zip(batches, others, strict=True)
    )


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_images_equal_the_decoded_ones(copied: Path, tmp_path: Path, kind: str, workers: int) -> None:
    plain = read_epochs(module(copied, None, tmp_path), 3)
    assert same(read_epochs(module(copied, kind, tmp_path, workers), 3), plain)
    assert same(read_epochs(module(copied, kind, tmp_path, workers), 3), plain)  # on disk: from the first one's cache


def record_decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the place of each record that is decoded from now on."""
    places: list[str] = []
    decode = dataset_module.decode_image

    def counting(record, where, out):  # type: ignore[no-untyped-def]
        places.append(where)
        decode(record, where, out)

    monkeypatch.setattr(dataset_module, "decode_image", counting)
    return places


def test_an_image_is_decoded_once(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = record_decoding(monkeypatch)
    read_epochs(module(copied, "memory", tmp_path), 3)
    assert len(places) == len(set(places)) == 208


def test_the_disk_cache_serves_the_next_run_until_a_shard_changes(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = record_decoding(monkeypatch)
    read_epochs(module(copied, "disk", tmp_path), 1)
    read_epochs(module(copied, "disk", tmp_path), 1)
    assert len(places) == 208
    os.utime(next(copied.rglob("*.tfrec")), ns=(1, 1))
    read_epochs(module(copied, "disk", tmp_path), 1)
    assert len(places) == 416


def test_a_cache_larger_than_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.decoded_cache=memory: .*10000000 .*512x512"):
        ImagesInMemory(10_000_000, 512, 1)


def test_the_memory_limit_of_a_container_bounds_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "memory_limit", lambda: 2 * 100 * (64 * 64 * 3 + 1))
    ImagesInMemory(100, 64, 1)
    for count, processes in ((101, 1), (100, 2)):
        with pytest.raises(InputError, match="decoded_cache=memory"):
            ImagesInMemory(count, 64, processes)
    monkeypatch.setattr("flowers.system.memfd.available_memory", lambda: 0)
    with pytest.raises(InputError, match="decoded_cache=memory"):
        ImagesInMemory(100, 64, 1)


def test_free_memory_must_suffice_for_all_processes_before_any_reserves_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 2 * 100 * (64 * 64 * 3 + 1)
    monkeypatch.setattr("flowers.system.memfd.available_memory", lambda: free)
    monkeypatch.setattr(decoded, "available_memory", lambda: free)
    waited: list[int] = []
    with pytest.raises(InputError, match=r"decoded_cache=memory: .*\b3 processes"):
        ImagesInMemory(100, 64, 3, lambda: waited.append(3))
    assert not waited

    def reserve(size: int) -> None:
        assert waited == [2]

    monkeypatch.setattr(decoded, "SharedMemory", reserve)
    ImagesInMemory(100, 64, 2, lambda: waited.append(2))
    assert waited == [2]


def test_processes_of_one_machine_wait_for_each_other_before_reserving_memory(copied: Path, tmp_path: Path) -> None:
    waited: list[int] = []
    for processes in (1, 2):
        data = module(copied, "memory", tmp_path)
        strategy = SimpleNamespace(barrier=lambda n=processes: waited.append(n))
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=processes, num_nodes=1, strategy=strategy
        )
        data._open_image_cache(data.dataset("train", training=True))
    assert waited == [2]


IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def open_disk_cache(directory: Path, count: int = 3) -> ImagesOnDisk:
    return ImagesOnDisk(directory, "state", count, 64)


@pytest.mark.parametrize("lost", [slice(4096, 8192), slice(0, None), slice(3, 4)])
def test_a_damaged_cached_image_counts_as_missing(lost: slice, tmp_path: Path) -> None:
    out = np.empty_like(IMAGE)
    for number in range(3):
        open_disk_cache(tmp_path).put(number, IMAGE)
    [pixels] = tmp_path.glob("*.pixels")
    data = np.fromfile(pixels, np.uint8)
    data[IMAGE.size : 2 * IMAGE.size][lost] = 0  # as a power cut leaves pages that were never written
    data.tofile(pixels)
    assert [open_disk_cache(tmp_path).get(number, out) for number in range(3)] == [True, False, True]
    open_disk_cache(tmp_path).put(1, IMAGE)
    assert open_disk_cache(tmp_path).get(1, out)
    assert (out == IMAGE).all()


def test_a_black_image_is_cached_like_any_other(tmp_path: Path) -> None:
    open_disk_cache(tmp_path).put(0, np.zeros_like(IMAGE))
    out = IMAGE.copy()
    assert open_disk_cache(tmp_path).get(0, out)
    assert not out.any()


def test_a_truncated_cache_file_counts_as_empty(tmp_path: Path) -> None:
    cache = open_disk_cache(tmp_path)
    cache.put(2, IMAGE)
    for path in tmp_path.iterdir():
        os.truncate(path, 0)
    assert not cache.get(2, IMAGE.copy())


def test_a_disk_without_enough_space_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_disk_cache(tmp_path).put(0, IMAGE)
    room = namedtuple("room", "free")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: room(2 * (IMAGE.size + 4096)))
    open_disk_cache(tmp_path)  # one of three is cached already
    with pytest.raises(InputError, match=f"{tmp_path}: .*4 images"):
        open_disk_cache(tmp_path, count=4)


def test_an_unwritable_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{tmp_path}/file/decoded: .*paths\.cache_dir"):
        open_disk_cache(tmp_path / "file" / "decoded")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fills_up_ends_the_caching_but_not_the_epoch(
    workers: int, copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = read_epochs(module(copied, None, tmp_path), 2)
    data = module(copied, "disk", tmp_path, workers)
    loader = data.loader("train", training=True)  # creates its files before the limit
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 192 * 192 * 3 + 7, before[1]))  # pwrite fails beyond
    try:
        data.loader = lambda *_, **__: loader  # type: ignore[method-assign,assignment]
        assert same(read_epochs(data, 2), plain)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if not workers:
        assert len([record for record in caplog.records if "paths.cache_dir" in record.message]) == 1
