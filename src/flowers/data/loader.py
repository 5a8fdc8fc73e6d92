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
from flowers.data.workers import WorkerLoader, fork_server, start_worker
from flowers.interfaces import Batch

log = logging.getLogger(__name__)

PREFETCH = 2
"""Batches that each worker prepares ahead."""


def batch_loader(
    dataset: FlowersDataset,
    records: NDArray[np.int64],
    sampler: EpochSampler,
    *,
    image_size: int,
    workers: int,
    threaded: bool,
) -> DataLoader[Batch]:
    """Return a DataLoader of a sampler's batches.

    Args:
        dataset: the data set.
        records: the numbers of the records in use, int64 `[N]`.
        sampler: the order and the batch size.
        image_size: the side of the images after the transform, in pixels.
        workers: the number of processes that decode; with 0, this process decodes.
        threaded: whether this process may have threads, as for remote files; workers then come from a fork server.
    """
    pool = _open_pool(workers, sampler.batch_size * image_size * image_size * 3)
    loader = WorkerLoader(
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
    """Reserve shared memory for the batches of workers, or log a warning if there is too little."""
    if not workers:
        return None
    # The training loop holds two batches, the current one and the next, from different workers if there are several.
    slots = PREFETCH + -(-2 // workers)
    try:
        return SharedMemoryPool(workers, slots, batch_bytes)
    except OSError as error:
        log.warning(
            "Cannot reserve %d MiB of shared memory for the batches of %d workers (%s). They are sent through pipes, "
            "which is slower. Lower data.batch_size or data.num_workers.",
            workers * slots * batch_bytes >> 20,
            workers,
            error.strerror,
        )
        return None


def _identity(batch: Any) -> Any:
    return batch
