"""Save the checkpoint that a run resumes from, and end the run at SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from flowers.settings import Positive
from flowers.system.termination import Terminated, handle_signals


class LastCheckpoint(Checkpoint):
    """Saves the checkpoint that a run resumes from, and ends the run at SIGTERM or Ctrl-C.

    It saves after every epoch, and within an epoch after every `every_n_steps` optimizer steps. It also saves if
    training ends within an epoch: at `trainer.max_time`, at `trainer.max_steps`, at a signal, or when a callback stops
    it. A run resumed from there continues with the next batch. After a signal, the current step is finished and saved,
    then `Terminated` is raised. A second Ctrl-C raises it at once.

    Lightning's ModelCheckpoint does not suffice: it saves either after epochs or after steps. In addition, Lightning's
    counts are wrong in a run resumed from a checkpoint that was saved after an epoch's last step but before its end.

    Args:
        path: the checkpoint's file.
        every_n_steps: optimizer steps between two checkpoints within an epoch; None: save only at its end.
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
            if number == signal.SIGINT and trainer.is_global_zero:  # print() is not safe in a signal handler
                os.write(2, b"\nCtrl-C: stopping after this step. Press it again to stop at once.\n")
            self._signal = number
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)  # the run's other processes

        if threading.current_thread() is threading.main_thread():
            # Replaces Lightning's handler, which ends the program with status 0. Lightning restores the original one.
            handle_signals(terminate)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._any_terminated(trainer):
            self._end(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._defer_stop(trainer)
        if trainer.is_last_batch or _is_accumulating(trainer) or trainer.global_step == self._saved:
            return  # the end of the epoch or a later step saves
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        checks = trainer.world_size == 1 or trainer.global_step % interval == 0  # asking other processes takes time
        terminated = checks and self._any_terminated(trainer)
        if due or terminated or trainer.fit_loop.epoch_loop.done:
            self._save(trainer)
        if terminated:
            self._end(trainer)

    def _defer_stop(self, trainer: L.Trainer) -> None:
        """Defer a stop while gradients accumulate, because no checkpoint holds accumulated gradients."""
        stop = trainer.should_stop or self._stop_later
        self._stop_later = stop and _is_accumulating(trainer)
        trainer.should_stop = stop and not self._stop_later

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._defer_stop(trainer)
        if _ends_within_epoch(trainer):
            # Lightning counts the step after its validation. A resumed run counts it only if a validation is due there.
            loop = trainer.fit_loop.epoch_loop
            counted = 0 if _validation_is_due(trainer) else 1
            loop._batches_that_stepped += counted
            self._save(trainer)
            loop._batches_that_stepped -= counted

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not _ends_within_epoch(trainer):  # otherwise batches of the epoch are left
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._any_terminated(trainer):
            self._end(trainer)

    def _any_terminated(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _end(self, trainer: L.Trainer) -> None:
        saved = Path(self.path).exists()
        goes_on = f"Resume with ckpt_path={self.path}" if saved else "Nothing was saved yet"
        # Lightning kills the first process if another one that it started exits with a nonzero status.
        status = None if trainer.is_global_zero else 0
        raise Terminated(self._signal or signal.SIGTERM, f" after step {trainer.global_step}. {goes_on}", status)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved = trainer.global_step
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)


def _is_accumulating(trainer: L.Trainer) -> bool:
    """Return whether the gradients of the last batch are accumulated with those of the next."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return batches % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch


def _ends_within_epoch(trainer: L.Trainer) -> bool:
    """Return whether the training ends here, with batches of the epoch left."""
    return trainer.fit_loop.epoch_loop.done and not trainer.is_last_batch


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Return whether a validation is due after the last batch by `val_check_interval`, regardless of a stop."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    stop, trainer.should_stop = trainer.should_stop, False
    due: bool = trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    trainer.should_stop = stop
    return due
