"""Callbacks that watch a run: its speed, its loss, its last checkpoint, the progress bar."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from flowers.errors import InputError
from flowers.models.losses import has_loss, loss_on_host
from flowers.settings import Count, Positive
from flowers.system.termination import Terminated, handle_signals


class Throughput(Callback):
    """Logs `train/images_per_second` of each epoch, over all processes, validation not counted."""

    def __init__(self) -> None:
        self._images = 0
        self._start = 0.0

    @property
    def images_per_second(self) -> float:
        """Return the speed of the epoch so far."""
        return self._images / max(time.perf_counter() - self._start, 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()  # a run that is resumed within an epoch does not start one

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += count_images(batch) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:  # before validation, which runs within the epoch
            wait_for(outputs)
            speed = torch.tensor(self.images_per_second)
            pl_module.log("train/images_per_second", speed, on_step=False, on_epoch=True, batch_size=1)


def count_images(batch: Any) -> int:
    """Return the rows of a batch of tensors in any nesting of dicts, lists and tuples; 0 if there is no tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((rows for part in parts if (rows := count_images(part))), 0)


def wait_for(outputs: Any) -> None:
    """Wait until the device has finished a training step, if it returned a loss."""
    if has_loss(outputs):
        loss_on_host(outputs)


class NonFiniteGuard(Callback):
    """Ends a run at the first loss that is not finite, with the step, the learning rate and the ids of its images.

    On the CPU every step is checked. Elsewhere reading the loss makes the device wait: it is read every
    `log_every_n_steps` steps and at the end of an epoch, and only then the steps since are searched for the first.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._unchecked: list[_Step] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # before the schedule moves it on

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ids = batch["id"] if isinstance(batch, Mapping) and "id" in batch else []
        self._unchecked.append(_Step(trainer.global_step, self._rate, ids, outputs))
        logged = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if logged or trainer.is_last_batch or trainer.strategy.root_device.type == "cpu":
            steps, self._unchecked = self._unchecked, []
            if not _is_finite(outputs):
                bad = next(step for step in steps if not _is_finite(step.outputs))
                raise InputError(_explain_loss(bad, trainer.current_epoch))


@dataclass(frozen=True, slots=True)
class _Step:
    """An optimizer step: its number, learning rate, the ids of its images, what the training step returned."""

    number: int
    rate: float
    ids: list[str]
    outputs: Any


def _is_finite(outputs: Any) -> bool:
    """Tell whether the loss of a step is finite; a step without one is passed over."""
    return not has_loss(outputs) or bool(loss_on_host(outputs).isfinite())


def _explain_loss(step: _Step, epoch: int) -> str:
    return (
        f"step {step.number} (epoch {epoch}): expected a finite loss, found {float(loss_on_host(step.outputs))} at "
        f"learning rate {step.rate:.3g}. Lower optimizer.lr, set trainer.gradient_clip_val=1.0, or look at the "
        f"images of the batch: {', '.join(step.ids) or 'it has no ids'}. Checkpoints are those of before."
    )


class LastCheckpoint(Checkpoint):
    """Saves what a run is resumed from, and ends the run at SIGTERM or Ctrl-C.

    It saves after every epoch, after every `every_n_steps` optimizer steps within one, and where a training ends within
    an epoch: at `trainer.max_time`, at `trainer.max_steps`, at a signal, or when a callback asks for it. A run resumed
    from there goes on with the next batch. A signal raises `Terminated` once the step that runs is done and saved; a
    second Ctrl-C raises it at once.

    Not Lightning's ModelCheckpoint, which saves after epochs or after steps; and from a checkpoint that it makes after
    an epoch's last step, but before the epoch's end, Lightning's counts of a resumed run are wrong.

    Args:
        path: the checkpoint's file.
        every_n_steps: optimizer steps between two checkpoints within an epoch; None: only at its end.
    """

    def __init__(self, path: str, every_n_steps: Positive | None = None) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._saved = 0
        self._stop_later = False
        self._signal: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step
        self._signal = None

        def terminate(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT == self._signal:
                raise Terminated(number, " twice")
            if number == signal.SIGINT and trainer.is_global_zero:  # print() must not be called in a signal's handler
                os.write(2, b"\nCtrl-C: stopping after this step. Press it again to stop at once.\n")
            self._signal = number
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)  # the run's other processes

        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's own handler, which ends the program with status 0. It restores what was before.
            handle_signals(terminate)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._any_terminated(trainer):
            self._end(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._put_off_stop(trainer)
        if trainer.is_last_batch or _is_accumulating(trainer) or trainer.global_step == self._saved:
            return  # the end of the epoch saves, or the next step
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        asks = trainer.world_size == 1 or trainer.global_step % interval == 0  # asking other processes takes time
        terminated = asks and self._any_terminated(trainer)
        if due or terminated or trainer.fit_loop.epoch_loop.done:
            self._save(trainer)
        if terminated:
            self._end(trainer)

    def _put_off_stop(self, trainer: L.Trainer) -> None:
        """Put off a stop among batches whose gradients only accumulate: no checkpoint holds those."""
        stop = trainer.should_stop or self._stop_later
        self._stop_later = stop and _is_accumulating(trainer)
        trainer.should_stop = stop and not self._stop_later

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._put_off_stop(trainer)
        if _ends_within_epoch(trainer):
            # Lightning counts the step after its validation; a resumed run does so only if one is due there.
            loop = trainer.fit_loop.epoch_loop
            counted = 0 if _validation_is_due(trainer) else 1
            loop._batches_that_stepped += counted
            self._save(trainer)
            loop._batches_that_stepped -= counted

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not _ends_within_epoch(trainer):  # else the rest of the epoch is still to come
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._any_terminated(trainer):
            self._end(trainer)

    def _any_terminated(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _end(self, trainer: L.Trainer) -> None:
        saved = Path(self.path).exists()
        goes_on = f"Resume with ckpt_path={self.path}" if saved else "Nothing was saved yet"
        # Lightning kills the first process if one that it started ends with another status than 0.
        status = None if trainer.is_global_zero else 0
        raise Terminated(self._signal or signal.SIGTERM, f" after step {trainer.global_step}. {goes_on}", status)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved = trainer.global_step
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)


def _is_accumulating(trainer: L.Trainer) -> bool:
    """Tell whether the gradients of the newest batch wait for those of the next."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return batches % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch


def _ends_within_epoch(trainer: L.Trainer) -> bool:
    """Tell whether the training ends here with batches of its epoch left."""
    loop = trainer.fit_loop.epoch_loop
    return loop.done and loop.batch_progress.current.ready < trainer.num_training_batches


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Tell whether a validation follows the newest batch by `val_check_interval`, not only because training stops."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    stop, trainer.should_stop = trainer.should_stop, False
    due: bool = trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    trainer.should_stop = stop
    return due


class ProgressBar(RichProgressBar):
    """Rich's bar with what one looks at: epoch, images/s, losses, the monitored metric.

    Args:
        metric: the monitored metric, one of the validation split.
        refresh_rate: the batches between two updates.
    """

    def __init__(self, metric: str, refresh_rate: Count = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._shown = {"train/loss_step": "loss", "val/loss": "val loss"}
        self._shown.setdefault(metric, metric.rpartition("/")[2].replace("_", " "))

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
