"""Callbacks that log the norm of the gradient, the time spent waiting for the loader, and the device's memory."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class GradientNorm(Callback):
    """Logs `train/gradient_norm`, the norm of all gradients before clipping, in the steps that are logged.

    It logs nothing on XLA, where the steps that compute the norm would need a separate program.
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
    """Logs `train/loader_wait`: the fraction of an epoch that the training spent waiting for the next batch.

    Validation is not counted. If the device runs asynchronously, the waiting time of the host is measured.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._end_of_step = 0.0
        self._waited = 0.0
        self._not_counted = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()  # a run resumed within an epoch has no on_train_epoch_start

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
    """Logs `train/device_memory` for each epoch: the peak memory of tensors on the device so far, in GiB.

    On a CPU it is the peak memory of the process. It logs nothing on XLA, which queries the device of each process.
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
    """Return the peak memory in bytes of tensors on a device, or of the process on a CPU; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
