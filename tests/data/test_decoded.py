"""Kept pictures: those that decoding gives, decoded once, of the shards as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import albumentations as A
import pytest

from flowers.data import dataset as dataset_module
from flowers.data.batch import Batch
from flowers.data.datamodule import FlowersDataModule
from flowers.data.decoded import DecodedPictures
from flowers.errors import InputError


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
def test_kept_pictures_are_the_decoded_ones(copied: Path, tmp_path: Path, kept: str, workers: int) -> None:
    plain = epochs(module(copied, None, tmp_path), 3)
    assert same(epochs(module(copied, kept, tmp_path, workers), 3), plain)
    assert same(epochs(module(copied, kept, tmp_path, workers), 3), plain)  # on disk, what the first one kept


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of the records that are decoded from now on."""
    decoded: list[str] = []
    decode = dataset_module.decode_image

    def counting(record, where, out):  # type: ignore[no-untyped-def]
        decoded.append(where)
        decode(record, where, out)

    monkeypatch.setattr(dataset_module, "decode_image", counting)
    return decoded


def test_a_picture_is_decoded_once(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = counted(monkeypatch)
    epochs(module(copied, "memory", tmp_path), 3)
    assert len(decoded) == len(set(decoded)) == 208


def test_on_disk_they_are_kept_for_the_next_run_and_no_longer_than_the_shards(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = counted(monkeypatch)
    epochs(module(copied, "disk", tmp_path), 1)
    epochs(module(copied, "disk", tmp_path), 1)
    assert len(decoded) == 208
    os.utime(next(copied.rglob("*.tfrec")), ns=(1, 1))
    epochs(module(copied, "disk", tmp_path), 1)
    assert len(decoded) == 416


def test_what_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.decoded_cache=memory: expected 10000000 pictures of 512x512 pixels"):
        DecodedPictures.in_memory(10_000_000, 512, 1)
