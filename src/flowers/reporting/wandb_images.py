"""Log images to Weights & Biases during training: training images, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
import wandb
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from flowers.interfaces import ShowsTrainingImages
from flowers.reporting.photographs import photographs_of
from flowers.settings import Count
from flowers.training.collect_outcomes import CollectOutcomes
from flowers.training.loggers import FallbackWandbLogger


class WandbImages(Callback):
    """Logs `train/images` at the start, and `val/mistakes` after each validation. Does nothing without W&B's logger.

    Args:
        inputs: the number of images of the first batch, as the model trains on them.
        mistakes: the number of wrongly predicted images, those with the least probability of the true class first.
    """

    def __init__(self, inputs: Count = 8, mistakes: Count = 8) -> None:
        self._inputs = inputs
        self._mistakes = mistakes
        self._shown = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        logger = find_wandb_logger(trainer)
        if self._shown or not self._inputs or logger is None:
            return
        self._shown = True
        images = _training_images(pl_module, batch, batch_idx)
        if images is not None:
            strip = np.concatenate(list(images[: self._inputs].numpy()), axis=1)
            log_media(logger, {"train/images": wandb.Image(strip)}, trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logger = find_wandb_logger(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        collected = [callback for callback in callbacks if isinstance(callback, CollectOutcomes)]
        outcomes = collected[0].outcomes if collected else None
        if logger is None or outcomes is None or trainer.sanity_checking or not self._mistakes:
            return
        photographs = photographs_of(trainer.datamodule, "val", outcomes)  # type: ignore[attr-defined]
        rows = outcomes.worst_mistakes(self._mistakes).tolist() if photographs else []
        names = outcomes.class_names
        # Images instead of a table: for a table W&B sends a request to its server, which may be gone.
        images = [
            wandb.Image(
                image,
                caption=f"{names[int(outcomes.labels[row])]} ({outcomes.true_probability[row]:.1%}), predicted as "
                f"{names[int(outcomes.predicted[row])]} ({outcomes.confidence[row]:.1%}), id {outcomes.ids[row]}",
            )
            for row, image in zip(rows, photographs.images(rows), strict=True)
        ]
        if images:
            log_media(logger, {"val/mistakes": images}, trainer.global_step)


def find_wandb_logger(trainer: L.Trainer) -> FallbackWandbLogger | None:
    """Return the trainer's W&B logger if it has one, in the first process only."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, FallbackWandbLogger)]
    return loggers[0] if loggers and trainer.is_global_zero else None


def log_media(logger: FallbackWandbLogger, media: Mapping[str, Any], step: int) -> None:
    """Log images and tables at a training step. Do nothing if W&B's process is dead."""
    with logger.ignore_dead_process():
        logger.experiment.log({**media, "trainer/global_step": step})


def _training_images(model: L.LightningModule, batch: Any, batch_idx: int) -> Tensor | None:
    if not isinstance(batch, Mapping) or "image" not in batch:
        return None
    if isinstance(model, ShowsTrainingImages):
        return model.training_images(batch, batch_idx)  # type: ignore[arg-type]
    images = batch["image"]
    return images.cpu() if isinstance(images, Tensor) and images.dtype == torch.uint8 else None
