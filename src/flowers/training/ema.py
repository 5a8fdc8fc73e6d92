"""An exponential moving average (EMA) of the weights, updated on the device within the optimizer's step."""

from __future__ import annotations

from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import Field
from torch import Tensor

KEY = "ema"
"""The key in a checkpoint for the training weights and the number of updates. Its `state_dict` is the average."""


class EMA(Callback):
    """Averages weights and batch-norm statistics. Validation, `best.ckpt` and all later commands use the average.

    The decay of step t is `min(decay, (1 + t) / (10 + t))`, so that the initial weights lose their influence soon
    (TensorFlow's `ExponentialMovingAverage(num_updates=t)`). No value leaves the device and no shape changes, so the
    update becomes part of the step's program on a compiling device.

    A checkpoint's `state_dict` is the average. The weights that training continues from are under `ema`.

    Args:
        decay: the fraction of the average that is kept at each step, in the long run; 0.999 averages about 1,000 steps.
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
        # Lightning's batch hooks run only after the step has been sent to the device.
        self._handle = trainer.optimizers[0].register_step_post_hook(lambda *_: self.update(_weights(pl_module)))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._handle.remove()

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Update the average with the weights after one step, by name."""
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
        saved = checkpoint[KEY]
        self._average = {name: checkpoint["state_dict"][name] for name in saved["weights"]}
        self._updates = saved["updates"]
        pl_module.load_state_dict(saved["weights"], strict=False)


def _weights(module: L.LightningModule) -> dict[str, Tensor]:
    """Return the tensors to average: the floating-point ones of the state dict, which share the module's memory."""
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
