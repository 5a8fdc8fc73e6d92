"""The exponential moving average of the weights, kept on the device and updated within the optimiser's step."""

from __future__ import annotations

from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import Field
from torch import Tensor

KEY = "ema"
"""Of what a checkpoint keeps beside the averaged weights, which are its `state_dict`."""


class EMA(Callback):
    """Averages weights and batch-norm statistics: validation, `best.ckpt` and everything later use the average.

    After step t the average keeps `min(decay, (1 + t) / (10 + t))` of itself, so that it soon forgets where it
    started (TensorFlow's `ExponentialMovingAverage(num_updates=t)`). No number leaves the device and no shape
    changes, so a compiling device makes it part of the step's one program.

    A checkpoint's `state_dict` is the average; the weights that training goes on from are under `ema`.

    Args:
        decay: what the average keeps of itself at each step, in the long run; 0.999 looks back 1,000 steps.
    """

    def __init__(self, decay: Annotated[float, Field(gt=0, lt=1)]) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._updates = torch.zeros(())
        self._handle: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = _weights(pl_module)
        if self._average.keys() != weights.keys():
            self._average = {name: weight.detach().clone() for name, weight in weights.items()}
        self._average = {name: average.to(pl_module.device) for name, average in self._average.items()}
        self._updates = self._updates.to(pl_module.device)
        # Lightning's batch hooks come after the step has been sent to the device.
        self._handle = trainer.optimizers[0].register_step_post_hook(lambda *_: self.update(_weights(pl_module)))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._handle.remove()

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Move the average towards the weights by one step."""
        self._updates += 1
        change = 1 - torch.clamp((1 + self._updates) / (10 + self._updates), max=self.decay)
        for name, weight in weights.items():
            self._average[name].lerp_(weight, change.to(weight.dtype))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(trainer, pl_module)

    @torch.no_grad()
    def _swap(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for name, weight in _weights(pl_module).items():
            average = self._average[name].clone()
            self._average[name].copy_(weight)
            weight.copy_(average)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        checkpoint[KEY] = {"weights": {name: weights[name] for name in self._average}, "updates": self._updates}
        checkpoint["state_dict"] = weights | self._average

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING or KEY not in checkpoint:
            return
        kept = checkpoint[KEY]
        self._average = {name: checkpoint["state_dict"][name] for name in kept["weights"]}
        self._updates = kept["updates"]
        pl_module.load_state_dict(kept["weights"], strict=False)


def _weights(module: L.LightningModule) -> dict[str, Tensor]:
    """Return the tensors that are averaged: the floating-point ones of the state, shared with the module."""
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
