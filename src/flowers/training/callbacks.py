"""Callbacks that monitor a run: its throughput, and losses that are not finite."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from flowers.errors import InputError
from flowers.models.losses import has_loss, loss_on_host


class Throughput(Callback):
    """Logs `train/images_per_second` for each epoch, over all processes and without validation."""

    def __init__(self) -> None:
        self._images = 0
        self._start = 0.0

    @property
    def images_per_second(self) -> float:
        """Return the number of images per second in the current epoch so far, over all processes."""
        return self._images / max(time.perf_counter() - self._start, 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()  # a run resumed within an epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += count_images(batch) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:  # before validation, which runs within the epoch
            wait_for(outputs)
            speed = torch.tensor(self.images_per_second)
            pl_module.log("train/images_per_second", speed, on_step=False, on_epoch=True, batch_size=1)


class Stopwatch:
    """Measures images per second from the end of the first batch, which waits for workers and compilers."""

    def __init__(self) -> None:
        self._images = 0
        self._start: float | None = None
        self._end = 0.0

    def add(self, images: int) -> None:
        """Count the images of a batch that is done."""
        self._end = time.perf_counter()
        if self._start is None:
            self._start = self._end
        else:
            self._images += images

    @property
    def images_per_second(self) -> float | None:
        """Return the speed; None if there was only one batch."""
        return self._images / max(self._end - self._start, 1e-9) if self._start is not None and self._images else None


class ValidationSpeed(Callback):
    """Measures the speed of a validation in images per second, over all processes."""

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.stopwatch.add(count_images(batch) * trainer.world_size)


def count_images(batch: Any) -> int:
    """Return the number of rows of a batch: tensors nested in dicts, lists or tuples. 0 if it has no tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((rows for part in parts if (rows := count_images(part))), 0)


def wait_for(outputs: Any) -> None:
    """Wait until the device has finished a training step, if it returned a loss."""
    if has_loss(outputs):
        loss_on_host(outputs)


class NonFiniteGuard(Callback):
    """Ends a run at the first loss that is not finite, and reports the step, the learning rate and its image ids.

    On the CPU every step is checked. On other devices reading the loss makes the device wait. There the loss is checked
    every `log_every_n_steps` steps and at the end of an epoch. If it is not finite, the steps since the last check are
    searched for the first bad one.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._unchecked: list[_Step] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # before the schedule changes it

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ids = batch["id"] if isinstance(batch, Mapping) and "id" in batch else []
        self._unchecked.append(_Step(trainer.global_step, self._rate, ids, outputs))
        logged = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if logged or trainer.is_last_batch or trainer.strategy.root_device.type == "cpu":
            steps, self._unchecked = self._unchecked, []
            if not _is_finite(outputs):
                bad = next(step for step in steps if not _is_finite(step.outputs))
                raise InputError(_explain_loss(bad, trainer.current_epoch))


@dataclass(frozen=True, slots=True)
class _Step:
    """An optimizer step: its number, its learning rate, the ids of its images and the training step's outputs."""

    number: int
    rate: float
    ids: list[str]
    outputs: Any


def _is_finite(outputs: Any) -> bool:
    """Return whether the loss of a step is finite; True for a step without a loss."""
    return not has_loss(outputs) or bool(loss_on_host(outputs).isfinite())


def _explain_loss(step: _Step, epoch: int) -> str:
    return (
        f"step {step.number} (epoch {epoch}): expected a finite loss, found {float(loss_on_host(step.outputs))} at "
        f"learning rate {step.rate:.3g}. Lower optimizer.lr, set trainer.gradient_clip_val=1.0, or look at the "
        f"images of the batch: {', '.join(step.ids) or 'it has no ids'}. Earlier checkpoints are unaffected."
    )
