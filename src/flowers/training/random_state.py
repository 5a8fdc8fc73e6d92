"""Seed the random numbers of training steps, so that a resumed run draws the same ones as an uninterrupted run."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """Return the seed for random numbers on the device in a training step (dropout, stochastic depth)."""
    return int(np.random.SeedSequence([seed, epoch, batch]).generate_state(1)[0])


class SeedSteps(Callback):
    """Seeds torch before each training step, so that its random numbers depend only on seed, epoch and batch.

    Saving the generator's state would not suffice: creating a loader's iterator also draws from the generator, and a
    resumed run creates different iterators. On XLA, `SPMDStrategy` does the same between the steps' programs.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed = step_seed(self.seed, trainer.current_epoch, batch_idx)
        # Not torch.manual_seed, which also seeds devices that are not in use.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif pl_module.device.type == "mps":
            torch.mps.manual_seed(seed)
