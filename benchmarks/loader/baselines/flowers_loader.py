"""This project's loader, exactly as training uses it."""

from __future__ import annotations

import itertools

from benchmarks.loader.baselines.augmentations import augmentations
from benchmarks.loader.work import Batches, Work
from flowers.data.datamodule import FlowersDataModule


def batches(work: Work) -> Batches:
    """Epoch after epoch of `FlowersDataModule`'s training batches."""
    data = FlowersDataModule(
        str(work.root),
        image_size=work.image_size,
        train_size=work.image_size,
        eval_size=work.image_size,
        batch_size=work.batch_size,
        train_transform=augmentations(work.task, work.image_size),
        eval_transform=[],
        seed=work.seed,
        num_workers=work.workers,
    )
    loader = data.loader("train", training=True)
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            yield batch["id"], batch["image"].numpy()
