"""Read batches with the project's own loader, exactly as training does."""

from __future__ import annotations

import itertools

from benchmarks.loader.baselines.augmentations import augmentations
from benchmarks.loader.work import Batches, Work
from flowers.data.datamodule import FlowersDataModule


def batches(work: Work) -> Batches:
    """Yield endless training batches of `FlowersDataModule`: ids, and images uint8 `[B, S, S, 3]`."""
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
