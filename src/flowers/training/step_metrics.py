"""Callbacks that measure a training: the norm of the gradient, the wait for the loader, the memory of the device."""

from __future__ import annotations

import sys
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
            fraction = torch.tensor(self._waited / max(self._end_of_step - self._start, 1e-9))
            pl_module.log("train/loader_wait", fraction, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._not_counted = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        duration = time.perf_counter() - self._not_counted
        self._start += duration
        self._end_of_step += duration


class DeviceMemory(Callback):
    """Logs `train/device_memory` of each epoch in GiB: the most that tensors have taken on the device so far.

    On a CPU it is the most that the process has taken. Not on XLA, which asks the device of each process for it.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            used = memory_bytes(trainer.strategy.root_device)
            if used is not None:
                memory = torch.tensor(used / 2**30)
                pl_module.log("train/device_memory", memory, on_step=False, on_epoch=True, batch_size=1)


def memory_bytes(device: torch.device) -> int | None:
    """Return the most bytes that tensors have taken on a device, or the process on a CPU; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
