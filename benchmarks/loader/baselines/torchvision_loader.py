"""Read batches with torchvision: `decode_jpeg` and its v2 transforms, in a plain DataLoader with a shuffled sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks.loader.work import BRIGHTNESS, CONTRAST, CROP_RATIO, CROP_SCALE, FLIP, JITTER, Batches, Work
from flowers.data.tfrecord.example import decode_example
from flowers.data.tfrecord.framing import index_shard
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.workers import start_worker


class Images(Dataset[tuple[str, Tensor, int]]):
    """Serves ids, images, uint8 `[S, S, 3]`, and labels. The records are read with this project's reader."""

    def __init__(self, reader: ShardReader, transform: Callable[[Tensor], Tensor]) -> None:
        self.reader = reader
        self.transform = transform

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, number: int) -> tuple[str, Tensor, int]:
        record = decode_example(self.reader.read(number), labelled=True, where="")
        assert record.label is not None
        jpeg = torch.from_numpy(np.frombuffer(bytearray(record.image), np.uint8))
        image = self.transform(decode_jpeg(jpeg, ImageReadMode.RGB))
        return record.id, image.permute(1, 2, 0), record.label  # no copy: torchvision's pixels lie channels last


def batches(work: Work) -> Batches:
    """Yield endless batches of ids and images, uint8 `[B, S, S, 3]`."""
    torch.manual_seed(work.seed)
    dataset = Images(ShardReader([index_shard(path) for path in work.shards()]), _transform(work))
    loader: DataLoader[Any] = DataLoader(
        dataset,
        work.batch_size,
        shuffle=True,
        num_workers=work.workers,
        drop_last=True,
        persistent_workers=True,
        worker_init_fn=start_worker,  # so that the workers end with the benchmark
    )
    while True:
        for ids, image, _ in loader:
            yield ids, image.numpy()


def _transform(work: Work) -> Callable[[Tensor], Tensor]:
    flip = v2.RandomHorizontalFlip(FLIP)
    if work.task == "full":
        crop = v2.RandomResizedCrop(work.image_size, scale=CROP_SCALE, ratio=CROP_RATIO)
        jitter = v2.RandomApply([v2.ColorJitter(brightness=BRIGHTNESS, contrast=CONTRAST)], p=JITTER)
        return v2.Compose([crop, flip, jitter])
    return flip if work.task == "flip" else v2.Identity()
