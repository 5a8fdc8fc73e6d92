"""Callbacks that watch a run: its speed and its loss."""

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
    """Logs `train/images_per_second` of each epoch, over all processes, validation not counted."""

    def __init__(self) -> None:
        self._images = 0
        self._start = 0.0

    @property
    def images_per_second(self) -> float:
        """Return the speed of the epoch so far."""
        return self._images / max(time.perf_counter() - self._start, 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()  # a run that is resumed within an epoch does not start one

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


def count_images(batch: Any) -> int:
    """Return the rows of a batch of tensors in any nesting of dicts, lists and tuples; 0 if there is no tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((rows for part in parts if (rows := count_images(part))), 0)


def wait_for(outputs: Any) -> None:
    """Wait until the device has finished a training step, if it returned a loss."""
    if has_loss(outputs):
        loss_on_host(outputs)


class NonFiniteGuard(Callback):
    """Ends a run at the first loss that is not finite, with the step, the learning rate and the ids of its images.

    On the CPU every step is checked. Elsewhere reading the loss makes the device wait: it is read every
    `log_every_n_steps` steps and at the end of an epoch, and only then the steps since are searched for the first.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._unchecked: list[_Step] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # before the schedule moves it on

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
    """An optimizer step: its number, learning rate, the ids of its images, what the training step returned."""

    number: int
    rate: float
    ids: list[str]
    outputs: Any


def _is_finite(outputs: Any) -> bool:
    """Tell whether the loss of a step is finite; a step without one is passed over."""
    return not has_loss(outputs) or bool(loss_on_host(outputs).isfinite())


def _explain_loss(step: _Step, epoch: int) -> str:
    return (
        f"step {step.number} (epoch {epoch}): expected a finite loss, found {float(loss_on_host(step.outputs))} at "
        f"learning rate {step.rate:.3g}. Lower optimizer.lr, set trainer.gradient_clip_val=1.0, or look at the "
        f"images of the batch: {', '.join(step.ids) or 'it has no ids'}. Checkpoints are those of before."
    )
