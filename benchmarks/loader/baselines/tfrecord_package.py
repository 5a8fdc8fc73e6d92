"""Read batches with the `tfrecord` package: index files and a shuffle queue in a DataLoader, decoded with OpenCV."""

from __future__ import annotations

import functools
from typing import Any

import albumentations as A
import cv2
import numpy as np
from tfrecord.tools.tfrecord2idx import create_index
from tfrecord.torch.dataset import MultiTFRecordDataset
from torch.utils.data import DataLoader

from benchmarks.loader.baselines.augmentations import augmentations
from benchmarks.loader.work import SHUFFLED, Batches, Work
from flowers.data.workers import start_worker


def batches(work: Work) -> Batches:
    """Yield endless batches of ids and images, uint8 `[B, S, S, 3]`."""
    shards = work.shards()
    for path in shards:
        create_index(str(path), str(path.with_suffix(".tfindex")))
    directory = shards[0].parent
    dataset = MultiTFRecordDataset(
        f"{directory}/{{}}.tfrec",
        f"{directory}/{{}}.tfindex",
        splits={path.stem: 1 / len(shards) for path in shards},
        description={"image": "byte", "id": "byte", "class": "int"},
        shuffle_queue_size=SHUFFLED,  # of undecoded records
        transform=functools.partial(_load, transform=A.Compose(augmentations(work.task, work.image_size))),
    )
    loader: DataLoader[Any] = DataLoader(
        dataset, work.batch_size, num_workers=work.workers, drop_last=True, worker_init_fn=start_worker
    )
    for batch in loader:
        yield batch["id"], batch["image"].numpy()


def _load(features: dict[str, Any], transform: A.Compose) -> dict[str, Any]:
    bgr: Any = cv2.imdecode(np.frombuffer(features["image"], np.uint8), cv2.IMREAD_COLOR)
    image = transform(image=cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))["image"]
    return {**features, "image": image}
