"""What watches a run: its speed, and the progress bar."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar


class Throughput(Callback):
    """Logs `train/images_per_second` of each epoch, over all processes, validation not counted."""

    def __init__(self) -> None:
        self._images = 0
        self._start = 0.0

    @property
    def images_per_second(self) -> float:
        """Of the epoch so far."""
        return self._images / max(time.perf_counter() - self._start, 1e-9)

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


class ProgressBar(RichProgressBar):
    """Rich's bar with what one looks at: epoch, images/s, loss, macro F1."""

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        speeds = [callback for callback in callbacks if isinstance(callback, Throughput)]
        figures = trainer.callback_metrics  # on the host, all of them: to read them makes no device wait
        shown: dict[str, int | str | float | dict[str, float]] = {}
        if speeds and trainer.training:
            shown["images/s"] = f"{speeds[0].images_per_second:.1f}"
        for label, name in (("loss", "train/loss_step"), ("val loss", "val/loss"), ("macro F1", "val/macro_f1")):
            if name in figures:
                shown[label] = f"{float(figures[name]):.3f}"
        return shown
