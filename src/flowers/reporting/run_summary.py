"""Print a summary of a training before it starts: its data, model, device and schedule."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich import get_console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from flowers.interfaces import CountsImages, DescribesWeights
from flowers.system.paths import shorten
from flowers.system.processor import available_cores
from flowers.training.compilation import Compiling
from flowers.training.pair import class_names_of

log = logging.getLogger(__name__)


class RunSummary(Callback):
    """Prints a summary of a training as a table before its first step, in the first process."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        table = Table.grid(padding=(0, 2))
        for name, text in summarize(trainer, pl_module).items():
            table.add_row(Text(name, style="bold"), Text(text))
        get_console().print(table)


def summarize(trainer: L.Trainer, model: L.LightningModule) -> dict[str, str]:
    """Return the rows of a training's summary, by name."""
    datamodule: L.LightningDataModule = trainer.datamodule  # type: ignore[attr-defined]
    rows = {
        "Data": _data(datamodule),
        "Model": _model(model, getattr(datamodule, "train_size", None)),
        "Device": _device(trainer),
        "Schedule": _schedule(trainer),
        "Logs": _loggers(trainer),
        "Run": "" if trainer.fast_dev_run else str(shorten(Path(trainer.default_root_dir))),  # type: ignore[attr-defined]
    }
    return {name: text for name, text in rows.items() if text}


def _data(datamodule: L.LightningDataModule) -> str:
    roots = getattr(datamodule, "roots", [getattr(datamodule, "root", "")])
    parts = [" + ".join(Path(str(root)).name for root in roots) or type(datamodule).__name__]
    if isinstance(datamodule, CountsImages):
        parts += [f"{count:,} {split}" for split, count in datamodule.count_images().items()]
    if (names := class_names_of(datamodule)) is not None:
        parts.append(f"{len(names)} classes")
    if (stored := getattr(datamodule, "image_size", None)) is not None:
        parts.append(f"{stored} px")
    if (side := getattr(datamodule, "train_size", None)) not in (None, stored):
        parts.append(f"trained at {side}")
    return ", ".join(parts)


def _model(model: L.LightningModule, side: int | None) -> str:
    hyperparameters: Any = model.hparams
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parts = [str(hyperparameters.get("backbone", type(model).__name__)), f"{parameters / 1e6:.1f} M parameters"]
    if trained != parameters:
        parts[-1] += f" ({trained / 1e6:.1f} M trained)"
    if (flops := count_flops(model, side)) is not None:
        parts.append(f"{flops / 1e9:.2f} GFLOPs an image")
    if isinstance(model, DescribesWeights):
        parts.append(model.weights)
    return ", ".join(parts)


def count_flops(model: L.LightningModule, side: int | None) -> int | None:
    """Return the floating-point operations of a forward pass of one image; None if they cannot be counted.

    A multiply-add counts as two operations. Nothing is computed: the weights are on PyTorch's meta device.

    Args:
        model: a model whose `forward` takes images uint8 `[B, side, side, 3]`.
        side: the side of an image, in pixels; None if it is unknown.
    """
    if side is None or not is_overridden("forward", model, L.LightningModule):
        return None
    tensors: dict[str, Tensor] = {name: own.detach().to("meta") for name, own in _named_tensors(model)}
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8, device="meta")  # some layers reject a batch of one
    try:
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter, torch.no_grad():
            functional_call(model, tensors, (images,))
    except Exception as error:  # a user's model may raise anything; the training goes on without this number
        log.debug("FLOPs of %s: %s", type(model).__name__, error)
        return None
    return int(counter.get_total_flops()) // len(images) or None


def _named_tensors(model: L.LightningModule) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _device(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    if isinstance(trainer.strategy, Compiling):
        name = trainer.strategy.device_name()
    elif device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {available_cores()} cores" if device.type == "cpu" else device.type
    processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    return f"{name}{processes}, precision {trainer.precision}"


def _loggers(trainer: L.Trainer) -> str:
    loggers = [logger for logger in trainer.loggers if not isinstance(logger, DummyLogger)]  # fast_dev_run's
    names = [type(logger).__name__.removeprefix("Fallback").removesuffix("Logger") for logger in loggers]
    return ", ".join(names) or "none"


def _count(number: int | float, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _schedule(trainer: L.Trainer) -> str:
    parts = []
    if trainer.max_epochs not in (None, -1):
        parts.append(f"{_count(trainer.max_epochs, 'epoch')} of {_count(trainer.num_training_batches, 'step')}")
    if trainer.max_steps != -1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        parts.append(f"at most {_count(trainer.max_steps, 'step')}")
    if (batch := getattr(trainer.datamodule, "batch_size", None)) is not None:  # type: ignore[attr-defined]
        parts.append(f"{batch * trainer.world_size * trainer.accumulate_grad_batches} images a step")
    for optimizer in trainer.optimizers[:1]:
        parts.append(f"{type(optimizer).__name__}")
    for config in trainer.lr_scheduler_configs[:1]:
        groups = [group for group in config.scheduler.optimizer.param_groups if group.get("initial_lr")]
        rates = [group["initial_lr"] / group.get("lr_scale", 1.0) for group in groups]
        parts[-1] += f" at {max(rates):g}" if rates else ""
    return ", ".join(parts)
