"""Compute the length of a run: batches per epoch, steps and epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from typing import Any

import lightning as L

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.interfaces import CountsBatches
from flowers.settings import Node
from flowers.training.schedules import takes_run_length, with_run_length


def count_batches(datamodule: L.LightningDataModule, processes: int) -> int | None:
    """Return the number of batches in a training epoch on each process, before any limit.

    None if the loader has no length.
    """
    if isinstance(datamodule, CountsBatches):
        return datamodule.count_batches(processes)
    loader = datamodule.train_dataloader()
    try:
        return -(-len(loader) // processes) if isinstance(loader, Sized) else None
    except TypeError:  # the loader of a data set without a length
        return None


def check_validation_interval(trainer: L.Trainer, batches: int) -> None:
    """Raise `InputError` if an epoch of `batches` batches ends before its first validation.

    Lightning raises a ValueError for this only when training has started.
    """
    interval = trainer.val_check_interval
    each_epoch = trainer.check_val_every_n_epoch is not None and not trainer.fast_dev_run  # type: ignore[attr-defined]
    batches = limit_batches(batches, trainer.limit_train_batches)
    if each_epoch and trainer.limit_val_batches > 0 and isinstance(interval, int) and interval > batches:
        raise InputError(
            f"trainer.val_check_interval={interval}: expected at most {batches}, the batches of an epoch. Lower it, "
            "or count over epochs with +trainer.check_val_every_n_epoch=null."
        )


def make_schedule(node: Node, settings: Node, batches: int | None) -> Callable[..., Any]:
    """Return a factory of the learning-rate schedule, with the length of the run filled in.

    Args:
        node: the schedule's settings.
        settings: the trainer's settings.
        batches: the number of batches in an epoch on each process, before any limit; None: unknown.

    Raises:
        InputError: the schedule needs a length, and the run has no end or its epochs no length.
    """
    schedule: Callable[..., Any] = instantiate("scheduler", node)
    if not takes_run_length(schedule):
        return schedule
    if batches is None:
        raise InputError(
            "scheduler: expected training data of known length, because this schedule depends on it, found a "
            "loader without one. Give it a length, or choose a schedule of torch.optim.lr_scheduler."
        )
    steps_per_epoch = _count_steps(settings, batches)
    return with_run_length(schedule, steps_per_epoch, run_length(*_read_maxima(settings), steps_per_epoch))


def count_run_batches(settings: Node, batches: int | None) -> int | None:
    """Return the number of batches that a training reads; None if its end or the length of an epoch is not known.

    Args:
        settings: the trainer's settings.
        batches: the number of batches in an epoch on each process, before any limit; None: unknown.
    """
    maxima = _read_maxima(settings)
    if batches is None or maxima == (-1, -1):
        return None
    return math.ceil(run_length(*maxima, _count_steps(settings, batches)) * _limit_epoch(settings, batches))


def _limit_epoch(settings: Node, batches: int) -> int:
    return limit_batches(batches, settings.get("overfit_batches") or settings.get("limit_train_batches"))


def _count_steps(settings: Node, batches: int) -> int:
    return math.ceil(_limit_epoch(settings, batches) / (settings.get("accumulate_grad_batches") or 1))


def _read_maxima(settings: Node) -> tuple[int, int]:
    """Return the trainer's maxima of epochs and steps; -1 means no limit."""
    max_epochs, max_steps = settings.get("max_epochs"), settings.get("max_steps", -1)
    if max_epochs is None:  # Lightning's default
        max_epochs = 1000 if max_steps == -1 else -1
    return max_epochs, max_steps


def limit_batches(batches: int, limit: int | float | None) -> int:
    """Return how many of an epoch's batches Lightning runs: `limit` (int), that fraction (float) or all (None)."""
    if limit is None:
        return batches
    return max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))


def run_length(max_epochs: int, max_steps: int, steps_per_epoch: int) -> float:
    """Return the length of a run in epochs. A maximum of -1 means no limit.

    Raises:
        InputError: both maxima are -1.
    """
    epochs = max_epochs if max_epochs >= 0 else math.inf
    steps = max_steps if max_steps >= 0 else math.inf
    length = min(epochs, steps / steps_per_epoch)
    if math.isinf(length):
        raise InputError(
            "trainer.max_epochs=-1: expected an end, because the learning-rate schedule needs one, found none. Set "
            "trainer.max_epochs or trainer.max_steps."
        )
    return length
