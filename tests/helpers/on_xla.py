"""The environment of runs on XLA's CPU runtime, and callbacks that their configuration names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import albumentations as A
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from tests.helpers.commands import ROOT


def xla_environment(devices: int) -> dict[str, str]:
    """Return the environment for this many devices. LLVM's optimiser is off, as compiling takes most of the time."""
    return {
        "PJRT_DEVICE": "CPU",
        "CPU_NUM_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
    }


class Recorder(Callback):
    """Records the first step's loss and gradients, how tensors are sharded, and the dtypes of the computation."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        convolution = next(module for module in pl_module.modules() if isinstance(module, nn.Conv2d))

        def keep(module: nn.Conv2d, _: Any, output: Tensor) -> None:
            stage = "train" if module.training else "eval"
            self.record.setdefault("types", {})[stage] = (module.weight.dtype, output.dtype)

        convolution.register_forward_hook(keep)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
            self.record["ids"] = list(batch["id"])
            self.record["sharding"] = {name: sharding(tensor) for name, tensor in tensors.items()}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == 0:
            if pl_module.device.type == "xla":
                import torch_xla

                torch_xla.sync()  # otherwise each gradient is computed, and compiled, on its own
            self.record["gradients"] = {name: value.grad.cpu() for name, value in pl_module.named_parameters()}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 1:
            self.record["loss"] = float(outputs["loss"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.record["replicas"] = {name: replicas(value) for name, value in pl_module.state_dict().items()}
        torch.save(self.record, self.path)


def sharding(tensor: Tensor) -> str:
    """Return XLA's sharding spec of a tensor, or an empty string if it is not on an XLA device."""
    if tensor.device.type != "xla":
        return ""
    import torch_xla

    return str(torch_xla._XLAC._get_xla_sharding_spec(tensor))


def replicas(tensor: Tensor) -> list[Tensor]:
    """Return each device's copy of a tensor, read from that device."""
    if tensor.device.type != "xla":
        return [tensor.clone()]
    from torch_xla.distributed.spmd import XLAShardedTensor

    return [shard.data.clone() for shard in XLAShardedTensor(tensor).local_shards]


class Accumulation(Callback):
    """Writes, for each batch that starts with gradients, how many of their operations are pending."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._pending: dict[int, int] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.backbone.register_forward_pre_hook(lambda *_: self._look(trainer, pl_module))  # type: ignore[operator, union-attr]

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gradients = [value.grad for value in pl_module.parameters() if value.grad is not None]
        if trainer.training and gradients:
            import torch_xla

            graph = torch_xla._XLAC._get_xla_tensors_text(gradients)
            operations = [line for line in graph.splitlines() if "xla::" in line or "aten::" in line]
            batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
            self._pending[batch] = sum("xla::device_data" not in line for line in operations)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._path.write_text(json.dumps(self._pending))


class Reader(Callback):
    """Reads the loss after every step."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        outputs["loss"].cpu()


class NoRuntime(A.ImageOnlyTransform):
    """A transform that fails in a process that has imported torch_xla."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        if "torch_xla" in sys.modules:
            raise RuntimeError("this worker has torch_xla")
        return img
