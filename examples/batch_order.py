"""Print which worker reads which records: python examples/batch_order.py [WORKERS]. docs/data.md explains it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from torch.utils.data import DataLoader, Dataset, get_worker_info

from flowers.data.sampler import EpochSampler, SampleIndex

RECORDS, BATCH_SIZE, EPOCHS, SEED = 8, 3, 2, 42


class RecordNumbers(Dataset[str]):
    """Serves a batch as a line of text: its worker and its records, instead of their images."""

    def __getitems__(self, indices: Sequence[SampleIndex]) -> list[str]:
        worker = get_worker_info()
        name = f"worker {worker.id}" if worker else "no worker"
        return [f"{name}, records {[index.number for index in indices]}"]


def main() -> None:
    """Print the batches of each epoch, then those of a run that is resumed before the last batch."""
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    for epoch in range(EPOCHS):
        print_batches(workers, epoch)
        numbers = {index.number for index in sampler_of(epoch)}
        print(f"         left out: {sorted(set(range(RECORDS)) - numbers)}")
    print("Resumed:")
    print_batches(workers, EPOCHS - 1, start_batch=1)


def print_batches(workers: int, epoch: int, start_batch: int = 0) -> None:
    """Print the batches of an epoch from `start_batch` on, as the workers return them."""
    sampler = sampler_of(epoch, start_batch)
    loader = DataLoader(RecordNumbers(), BATCH_SIZE, sampler=sampler, num_workers=workers, collate_fn="".join)
    for batch, line in enumerate(loader, start_batch):
        print(f"epoch {epoch}, batch {batch}: {line}")


def sampler_of(epoch: int, start_batch: int = 0) -> EpochSampler:
    """Return the project's sampler, as for training in one process."""
    return EpochSampler(
        np.arange(RECORDS), seed=SEED, shuffle=True, batch_size=BATCH_SIZE, epoch=epoch, start_batch=start_batch
    )


if __name__ == "__main__":
    main()
