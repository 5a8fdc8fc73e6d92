"""A callback that gives tests within the process access to the trainer."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback


class Probe(Callback):
    """Stores the last trainer that started to fit."""

    trainer: L.Trainer

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Probe.trainer = trainer
