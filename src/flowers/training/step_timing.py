"""Time the steps of a module with Lightning's own loops, and the loader of its batches."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.settings import Node
from flowers.training.execution import Execution, executing

Stage = Literal["fit", "validate", "predict"]

STEPS = 6
"""The most steps of a candidate; the first one is not timed."""

_KEPT = (
    *("_target_", "accelerator", "devices", "strategy", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "benchmark", "deterministic", "detect_anomaly", "inference_mode"),
)
"""The trainer's arguments that the timed steps have as well."""


def time_steps(
    stage: Stage,
    node: Node,
    precision: str,
    execution: Execution,
    module: L.LightningModule,
    batch: Any,
    seconds: float,
    *,
    model: nn.Module | None = None,
) -> list[float]:
    """Run a module on one batch, which is repeated, and return the time of each step. It changes the module.

    A step is what Lightning does from batch to batch: in training also the optimizer's step.

    Args:
        stage: Lightning's name of the stage.
        node: the trainer's settings, of which those that concern a step are used.
        precision: the precision.
        execution: how the steps are run.
        module: the module.
        batch: the batch.
        seconds: the time after which no further step is run. There are two to six steps.
        model: the model that the module runs; None: the module itself.

    Raises:
        InputError: the trainer refuses its settings, or the model cannot be compiled.
    """
    with tempfile.TemporaryDirectory() as directory:
        trainer = _make_timing_trainer(stage, node, precision, directory)
        steps = _Repeated(batch, trainer.strategy.root_device, seconds)
        with executing(execution, module if model is None else model, trainer):
            _run(stage, trainer, module, steps)
    return steps.times


class _Repeated:
    """Yields the same batch until the time is over, and measures the time of each step."""

    def __init__(self, batch: Any, device: torch.device, seconds: float) -> None:
        self.times: list[float] = []
        self._batch = batch
        self._device = device
        self._seconds = seconds

    def __len__(self) -> int:
        return STEPS + 1  # one more than there are, so that the end of the last step is seen

    def __iter__(self) -> Iterator[Any]:
        begin = time.perf_counter()
        for _ in range(STEPS):
            start = time.perf_counter()
            yield self._batch
            _wait(self._device)
            now = time.perf_counter()
            self.times.append(now - start)
            if len(self.times) > 1 and now - begin + self.times[-1] > self._seconds:
                return


def time_loader(loader: Iterable[Any], seconds: float) -> tuple[Any, float | None]:
    """Return a copy of the first batch, and the time that one worker takes for a batch; None if there is only one.

    Args:
        loader: the loader. Batches that its workers have made while the first one was waited for are not counted.
        seconds: the time after which no further batch is read.

    Raises:
        InputError: the loader has no batch.
    """
    workers = getattr(loader, "num_workers", 0)
    ahead = workers * (getattr(loader, "prefetch_factor", None) or 0)
    iterator = iter(loader)
    try:
        batch = apply_to_collection(next(iterator), Tensor, torch.clone)
    except StopIteration:
        raise InputError("data: expected at least one batch, found none. Lower data.batch_size.") from None
    begin = start = time.perf_counter()
    read = counted = 0
    for _ in iterator:
        read += 1
        now = time.perf_counter()
        if read == ahead:
            start, counted = now, read
        if now - begin > seconds:
            break
    duration, count = time.perf_counter() - start, read - counted
    return batch, duration * max(1, workers) / count if count else None


def _make_timing_trainer(stage: Stage, node: Node, precision: str, directory: str) -> L.Trainer:
    trainer: L.Trainer = instantiate(
        "trainer",
        {name: value for name, value in node.items() if name in _KEPT},
        precision=precision,
        max_epochs=1,
        limit_val_batches=0 if stage == "fit" else 1.0,
        num_sanity_val_steps=0,
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer


def _run(stage: Stage, trainer: L.Trainer, module: L.LightningModule, loader: Any) -> None:
    if stage == "fit":
        trainer.fit(module, loader)
    elif stage == "validate":
        trainer.validate(module, loader, verbose=False)
    else:
        trainer.predict(module, loader, return_predictions=False)


def _wait(device: torch.device) -> None:
    """Wait until a device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what Lightning logs and warns of at the start of each timing."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
