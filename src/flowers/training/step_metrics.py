"""Callbacks that measure single steps: the norm of the gradient, and the time that passes between steps."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class GradientNorm(Callback):
    """Logs `train/gradient_norm`, the norm of all gradients before they are clipped, of the steps that are logged.

    Not on XLA, where the steps that compute it would be a program of their own.
    """

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        step = trainer.global_step + 1
        if step % trainer.log_every_n_steps or trainer.strategy.root_device.type == "xla":  # type: ignore[attr-defined]
            return
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log("train/gradient_norm", norm, on_step=True, on_epoch=False, batch_size=1)


class LoaderWait(Callback):
    """Logs `train/loader_wait`: the fraction of an epoch in which the training waited for its next batch.

    Validation is not counted. On a device that computes while the host goes on, it is the host that is measured.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._end_of_step = 0.0
        self._waited = 0.0
        self._not_counted = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()  # a run that is resumed within an epoch does not start one

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self._start = self._end_of_step = time.perf_counter()
        self._waited = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._end_of_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end_of_step = time.perf_counter()
        if batch_idx + 1 == trainer.num_training_batches:  # before validation, which runs within the epoch
            share = torch.tensor(self._waited / max(self._end_of_step - self._start, 1e-9))
            pl_module.log("train/loader_wait", share, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._not_counted = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        duration = time.perf_counter() - self._not_counted
        self._start += duration
        self._end_of_step += duration
