"""Build the DataLoader that makes batches in worker processes."""

from __future__ import annotations

import logging
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from flowers.data.collate import BatchDataset
from flowers.data.dataset import FlowersDataset
from flowers.data.sampler import EpochSampler
from flowers.data.shared_memory import SharedMemoryPool
from flowers.data.workers import fork_server, start_worker
from flowers.interfaces import Batch

log = logging.getLogger(__name__)

PREFETCH = 2
"""Batches that each worker is ahead."""


def batch_loader(
    dataset: FlowersDataset,
    records: NDArray[np.int64],
    sampler: EpochSampler,
    *,
    image_size: int,
    workers: int,
    threaded: bool,
) -> DataLoader[Batch]:
    """Return the loader of a sampler's batches.

    Args:
        dataset: the data set.
        records: the numbers of its records that are in use, int64 `[N]`.
        sampler: the order, and the size of a batch.
        image_size: the side of the images after the transform, in pixels.
        workers: processes that decode; 0: this one.
        threaded: whether this process may have threads, as for remote files; its workers are not its forks then.
    """
    pool = _open_pool(workers, sampler.batch_size * image_size * image_size * 3)
    loader = DataLoader(
        BatchDataset(dataset, records, sampler.batch_size, image_size, pool),
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context=fork_server() if workers and threaded else None,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_identity,
        worker_init_fn=start_worker,
    )
    return cast(DataLoader[Batch], loader)


def _open_pool(workers: int, batch_bytes: int) -> SharedMemoryPool | None:
    """Reserve shared memory for the batches of workers, or log why there is none."""
    if not workers:
        return None
    # The training loop holds two batches, the one it is at and the next; those of several workers in turn.
    slots = PREFETCH + -(-2 // workers)
    try:
        return SharedMemoryPool(workers, slots, batch_bytes)
    except OSError as error:
        log.warning(
            "No %d MiB of memory for the batches of %d workers (%s): they send them through pipes, which is slower. "
            "Set data.batch_size or data.num_workers lower.",
            workers * slots * batch_bytes >> 20,
            workers,
            error.strerror,
        )
        return None


def _identity(batch: Any) -> Any:
    return batch
