"""What watches a run: its speed, its last checkpoint, the progress bar."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar


class Throughput(Callback):
    """Logs `train/images_per_second` of each epoch, over all processes, validation not counted."""

    def __init__(self) -> None:
        self._images = 0
        self._start = 0.0

    @property
    def images_per_second(self) -> float:
        """Of the epoch so far."""
        return self._images / max(time.perf_counter() - self._start, 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()  # a run that is resumed within an epoch does not start one

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["id"]) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:  # before validation, which runs within the epoch
            outputs["loss"].cpu()  # waits for the device to finish
            speed = torch.tensor(self.images_per_second)
            pl_module.log("train/images_per_second", speed, on_step=False, on_epoch=True, batch_size=1)


class LastCheckpoint(Checkpoint):
    """Saves what a run is resumed from: after every epoch, and within one after every `every_n_steps` optimiser steps.

    Not Lightning's ModelCheckpoint, which does one or the other; and from a checkpoint that it makes after an epoch's
    last step, but before the epoch's end, Lightning's counts of a resumed run are wrong.
    """

    def __init__(self, path: str, every_n_steps: int | None = None) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        stepped = trainer.global_step > self._saved  # gradients that are being accumulated are in no checkpoint
        if due and stepped and batch_idx + 1 < trainer.num_training_batches:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved = trainer.global_step
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # Under another name first: Lightning writes to the system's directory for temporary files, and what it moves
        # from there to another disk is for a while neither the old checkpoint nor the new one.
        unfinished = f"{self.path}.part"
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            Path(unfinished).replace(self.path)


class ProgressBar(RichProgressBar):
    """Rich's bar with what one looks at: epoch, images/s, losses, the monitored metric.

    Args:
        metric: the monitored metric, one of the validation split.
        refresh_rate: the batches between two updates.
    """

    def __init__(self, metric: str, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._shown = {"train/loss_step": "loss", "val/loss": "val loss"}
        self._shown.setdefault(metric, metric.partition("/")[2].replace("_", " "))

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        speeds = [callback for callback in callbacks if isinstance(callback, Throughput)]
        figures = trainer.callback_metrics  # on the host, all of them: to read them makes no device wait
        shown: dict[str, int | str | float | dict[str, float]] = {}
        if speeds and trainer.training:
            shown["images/s"] = f"{speeds[0].images_per_second:.1f}"
        for name, label in self._shown.items():
            if name in figures:
                shown[label] = f"{float(figures[name]):.3f}"
        return shown
