"""Kept images: those that decoding gives, decoded once, of the shards as they are."""

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


def module(root: Path, kept: str | None, cache: Path, workers: int = 0) -> FlowersDataModule:
    transform = [A.RandomCrop(64, 64), A.HorizontalFlip()]
    return FlowersDataModule(
        str(root), 192, 64, 64, 16, transform, [], decoded_cache=kept, num_workers=workers, cache_dir=str(cache)
    )


def epochs(data: FlowersDataModule, count: int) -> list[list[Batch]]:
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


@pytest.mark.parametrize("kept", ["memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_are_the_decoded_ones(copied: Path, tmp_path: Path, kept: str, workers: int) -> None:
    plain = epochs(module(copied, None, tmp_path), 3)
    assert same(epochs(module(copied, kept, tmp_path, workers), 3), plain)
    assert same(epochs(module(copied, kept, tmp_path, workers), 3), plain)  # on disk, what the first one kept


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of the records that are decoded from now on."""
    places: list[str] = []
    decode = dataset_module.decode_image

    def counting(record, where, out):  # type: ignore[no-untyped-def]
        places.append(where)
        decode(record, where, out)

    monkeypatch.setattr(dataset_module, "decode_image", counting)
    return places


def test_an_image_is_decoded_once(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = counted(monkeypatch)
    epochs(module(copied, "memory", tmp_path), 3)
    assert len(places) == len(set(places)) == 208


def test_on_disk_they_are_kept_for_the_next_run_and_no_longer_than_the_shards(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = counted(monkeypatch)
    epochs(module(copied, "disk", tmp_path), 1)
    epochs(module(copied, "disk", tmp_path), 1)
    assert len(places) == 208
    os.utime(next(copied.rglob("*.tfrec")), ns=(1, 1))
    epochs(module(copied, "disk", tmp_path), 1)
    assert len(places) == 416


def test_what_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.decoded_cache=memory: expected 10000000 images of 512x512 pixels"):
        ImagesInMemory(10_000_000, 512, 1)


def test_a_containers_memory_bounds_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(InputError, match=r"decoded_cache=memory: .* for each of 3 processes"):
        ImagesInMemory(100, 64, 3, lambda: waited.append(3))
    assert not waited

    def reserve(size: int) -> None:
        assert waited == [2]

    monkeypatch.setattr(decoded, "SharedMemory", reserve)
    ImagesInMemory(100, 64, 2, lambda: waited.append(2))
    assert waited == [2]


def test_the_processes_of_a_machine_wait_for_each_other_to_compare(copied: Path, tmp_path: Path) -> None:
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


def on_disk(directory: Path, count: int = 3) -> ImagesOnDisk:
    return ImagesOnDisk(directory, "state", count, 64)


@pytest.mark.parametrize("lost", [slice(4096, 8192), slice(0, None), slice(3, 4)])
def test_a_damaged_image_counts_as_not_there(lost: slice, tmp_path: Path) -> None:
    out = np.empty_like(IMAGE)
    for number in range(3):
        on_disk(tmp_path).put(number, IMAGE)
    [pixels] = tmp_path.glob("*.pixels")
    data = np.fromfile(pixels, np.uint8)
    data[IMAGE.size : 2 * IMAGE.size][lost] = 0  # as a power cut leaves pages that were never written
    data.tofile(pixels)
    assert [on_disk(tmp_path).get(number, out) for number in range(3)] == [True, False, True]
    on_disk(tmp_path).put(1, IMAGE)
    assert on_disk(tmp_path).get(1, out)
    assert (out == IMAGE).all()


def test_a_black_image_is_kept_as_any_other(tmp_path: Path) -> None:
    on_disk(tmp_path).put(0, np.zeros_like(IMAGE))
    out = IMAGE.copy()
    assert on_disk(tmp_path).get(0, out)
    assert not out.any()


def test_a_cut_off_file_counts_as_nothing_kept(tmp_path: Path) -> None:
    kept = on_disk(tmp_path)
    kept.put(2, IMAGE)
    for path in tmp_path.iterdir():
        os.truncate(path, 0)
    assert not kept.get(2, IMAGE.copy())


def test_a_directory_without_room_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk(tmp_path).put(0, IMAGE)
    room = namedtuple("room", "free")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: room(2 * (IMAGE.size + 4096)))
    on_disk(tmp_path)  # one of three is there already
    with pytest.raises(InputError, match=f"{tmp_path}: expected room for 4 images"):
        on_disk(tmp_path, count=4)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{tmp_path}/file/decoded: .*paths\.cache_dir"):
        on_disk(tmp_path / "file" / "decoded")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_gets_full_ends_the_keeping_and_not_the_epoch(
    workers: int, copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = epochs(module(copied, None, tmp_path), 2)
    data = module(copied, "disk", tmp_path, workers)
    loader = data.loader("train", training=True)  # its files are made before the limit
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 192 * 192 * 3 + 7, before[1]))  # pwrite fails beyond
    try:
        data.loader = lambda *_, **__: loader  # type: ignore[method-assign,assignment]
        assert same(epochs(data, 2), plain)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if not workers:
        assert len([record for record in caplog.records if "paths.cache_dir" in record.message]) == 1
