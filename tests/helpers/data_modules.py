"""Data modules for tests, and what was read from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import simplejpeg

from flowers.data.datamodule import FlowersDataModule
from flowers.data.dataset import OnBadRecord
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import write_shard
from flowers.interfaces import Batch


def module(
    root: Path, workers: int, *, size: int = 192, batch_size: int = 16, on_bad_record: OnBadRecord = "stop"
) -> FlowersDataModule:
    """Return a data module that augments. Its training images are a third as wide as the stored ones."""
    crop = size // 3
    return FlowersDataModule(
        str(root),
        image_size=size,
        train_size=crop,
        eval_size=size,
        batch_size=batch_size,
        train_transform=[A.RandomResizedCrop((crop, crop)), A.HorizontalFlip(), A.RandomBrightnessContrast()],
        eval_transform=[],
        on_bad_record=on_bad_record,
        seed=7,
        num_workers=workers,
    )


class UnsizedData(FlowersDataModule):
    """A data module whose training batches are an iterable without a length."""

    def train_dataloader(self) -> Any:
        return _Unsized(super().train_dataloader())


class _Unsized:
    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def ids_of(batches: Iterable[Batch]) -> list[str]:
    """Return the ids in order, without padding."""
    return [identity for batch in batches for identity in batch["id"] if identity]


def plain_module(root: Path | None, size: int = 192, **settings: Any) -> FlowersDataModule:
    """Return a data module without augmentation."""
    own = {"num_workers": 0, **settings}
    return FlowersDataModule(None if root is None else str(root), size, size, size, 16, [], [], **own)


def hash_pixels(batches: list[Batch]) -> dict[str, str]:
    """Return a hash of the pixels for each id."""
    return {
        identity: hashlib.sha256(image.numpy().tobytes()).hexdigest()
        for batch in batches
        for identity, image in zip(batch["id"], batch["image"], strict=True)
    }


def write_noise(directory: Path, labels: Sequence[int], prefix: str = "") -> None:
    """Write a shard of 32 px noise images, one for each label, with the prefix in their ids."""
    directory.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    records = [
        Record(f"{prefix}{number:09x}", simplejpeg.encode_jpeg(image), label)
        for number, (image, label) in enumerate(zip(noise, labels, strict=True))
    ]
    write_shard(directory / f"00-32x32-{len(labels)}.tfrec", map(encode_example, records))
