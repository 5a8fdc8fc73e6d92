"""Check that a resumed training has the split and settings of the interrupted one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer

from flowers.data.position import IMAGES
from flowers.errors import InputError
from flowers.interfaces import ChecksSplit
from flowers.training.checkpoints import Checkpoint, check_classes, check_weights, read_checkpoint
from flowers.training.ema import EMA
from flowers.training.pair import class_names_of
from flowers.training.runs import advise_resuming

log = logging.getLogger(__name__)

_EXECUTION = {"params", "param_names", "lr", "foreach", "fused", "capturable", "differentiable"}
"""Keys of a parameter group that are not hyperparameters.

`lr` is the current rate, `initial_lr` the configured one.
"""

_CYCLED = {"betas", "momentum"}
"""Hyperparameters that a schedule such as OneCycleLR changes at every step."""

_RATES = {"lr", "initial_lr"}
"""Learning rates, which depend on the batch size through `lr_scaling`."""


class TimeEachProcess(Callback):
    """Applies `trainer.max_time` to each process separately: a resumed run has the full time again.

    Lightning's timer saves the elapsed time in the checkpoint. A run that it has stopped once would stop again before
    its first step. This callback also logs a warning if the time limit has ended a run.

    Attributes:
        cut_short: whether the time limit ended the training before its last step. Without another limit, that is the
            length of the training.
    """

    def __init__(self) -> None:
        self.cut_short = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
        if trainer.should_stop and any(seconds is not None and seconds <= 0 for seconds in left):
            self.cut_short = trainer.max_steps >= 0 or (trainer.max_epochs or -1) >= 0
            advice = f" {advise_resuming(Path(trainer.default_root_dir))}" if self.cut_short else ""
            rank_zero_only(log.warning)(
                "trainer.max_time: the time limit ended the run after step %d.%s", trainer.global_step, advice
            )

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.get("callbacks", {}).pop(Timer.__qualname__, None)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.get("callbacks", {}).pop(Timer.__qualname__, None)


class ResumeNextEpoch(Callback):
    """Lets a run with `trainer.max_steps` that is resumed after an epoch go on with the next one.

    Lightning's fit loop takes every such run for one that was interrupted within an epoch. It then counts an epoch
    without batches, whose data are never seen.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


class ReportResume(Callback):
    """Logs which checkpoint a training resumes from: `ckpt_path`, or the one of a requeued SLURM job."""

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            rank_zero_only(log.info)(
                "Resuming from %s after step %d, with its optimizer state and the schedule's step.",
                trainer.ckpt_path,
                checkpoint["global_step"],
            )


def check_resumable(
    path: Path,
    trainer: L.Trainer,
    model: L.LightningModule,
    datamodule: L.LightningDataModule,
    *,
    complete: bool = False,
) -> Checkpoint:
    """Return a checkpoint that training can continue from.

    With `complete`, it may be the last one of the training, whose best weights remain to be evaluated.

    Raises:
        InputError: its split, classes, model or optimizer differ, or its training has ended.
    """
    checkpoint = read_checkpoint(path, datamodule)
    check_classes(path, checkpoint, class_names_of(model))
    check_weights(path, checkpoint, model)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if checkpoint.averaged and not any(isinstance(callback, EMA) for callback in callbacks):
        raise InputError(
            f"{path}: expected a checkpoint without averaged weights, as this run has no callback for them, found one "
            "with averaged weights. Add callbacks=ema; to start a new run from the average, set model.pretrained to "
            "this path instead."
        )
    if not complete and (reached := _find_reached_limit(checkpoint, trainer.max_epochs, trainer.max_steps)):
        name, limit, done = reached
        raise InputError(
            f"trainer.max_{name}={limit}: expected more than the {done} {name} that {path} has been trained for. "
            f"Set trainer.max_{name} to {done + 1} or more."
        )
    if isinstance(datamodule, ChecksSplit) and checkpoint.position is not None:
        datamodule.check_same_split(checkpoint.position)
    same_batch = _has_same_batch(checkpoint, trainer, datamodule)
    _check_same_settings(path, checkpoint, model, same_batch=same_batch)
    return checkpoint


def _find_reached_limit(
    checkpoint: Checkpoint, max_epochs: int | None, max_steps: int | None
) -> tuple[str, int, int] | None:
    """Return the limit that a checkpoint has reached, or None if its training can continue.

    Returns:
        `epochs` or `steps`, the limit of the trainer, and how many are done.
    """
    limits = (("epochs", max_epochs, checkpoint.epochs), ("steps", max_steps, checkpoint.steps))
    reached = ((name, limit, done) for name, limit, done in limits if limit is not None and 0 <= limit <= done)
    return next(reached, None)


def _has_same_batch(checkpoint: Checkpoint, trainer: L.Trainer, datamodule: L.LightningDataModule) -> bool:
    """Return whether a global batch has as many images as the checkpoint's; True if either is unknown."""
    size = getattr(datamodule, "batch_size", None)
    before = ((checkpoint.position or {}).get("order") or {}).get(IMAGES)
    return before is None or not isinstance(size, int) or before == size * trainer.world_size


def _check_same_settings(path: Path, checkpoint: Checkpoint, model: L.LightningModule, *, same_batch: bool) -> None:
    """Compare the optimizer and the schedule, if the model returns both, as `flowers.models.optimizers` does.

    Learning rates scale with the batch size (`lr_scaling`). With another batch size the checkpoint's rates are kept.
    """
    try:
        made: Any = model.configure_optimizers()
    except RuntimeError:  # the model uses its trainer, which is not attached yet
        return
    if isinstance(made, dict) and isinstance(made.get("lr_scheduler"), dict):
        check_same_schedule(path, checkpoint.schedule, made["lr_scheduler"]["scheduler"])
        check_same_optimizer(path, checkpoint.groups, made["optimizer"], rates=same_batch)
        if not same_batch:
            rank_zero_only(log.info)("optimizer.lr: kept from the checkpoint, which was made with another batch size.")


def check_same_optimizer(path: Path, saved: list[dict[str, Any]], optimizer: Optimizer, *, rates: bool = True) -> None:
    """Raise `InputError` if the configured optimizer differs from the saved one.

    The checkpoint would restore the saved hyperparameters, while config.yaml records the configured ones.

    Args:
        path: the checkpoint.
        saved: the parameter groups in the checkpoint.
        optimizer: the configured optimizer.
        rates: whether to compare the learning rates as well.

    Raises:
        InputError: the parameter groups or a hyperparameter differ.
    """
    groups = optimizer.param_groups
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in groups]:
        raise InputError(
            f"{path}: expected the parameter groups of this version's optimizer, found others. {_advise_new_run(path)}"
        )
    for before, now in zip(saved, groups, strict=True):
        if differing := (now.keys() ^ before.keys()) - _EXECUTION:
            raise InputError(
                f"optimizer: expected the one that {path} was trained with, found {type(optimizer).__name__}, which "
                f"differs in {', '.join(sorted(differing))}. {_advise_new_run(path)}"
            )
        ignored = (_CYCLED if "max_momentum" in now else set()) | (set() if rates else _RATES)
        for name in sorted(now.keys() & before.keys() - _EXECUTION - ignored):
            if _to_comparable(before[name]) != _to_comparable(now[name]):
                key = "lr (with lr_scaling and model.layer_decay)" if name in _RATES else name
                raise InputError(
                    f"optimizer.{key}={now[name]}: expected {before[name]}, the value in {path}, found another. "
                    f"{_advise_new_run(path)}"
                )


def check_same_schedule(path: Path, saved: Mapping[str, Any], schedule: Any) -> None:
    """Raise `InputError` if a schedule has another type than the saved one, or would end before the run.

    Log each argument whose configured value the checkpoint overrides.

    Args:
        path: the checkpoint.
        saved: the state of the schedule in the checkpoint.
        schedule: the configured schedule.
    """
    configured = schedule.state_dict()
    if differing := {name for name in configured.keys() ^ saved.keys() if not name.startswith("_")}:
        raise InputError(
            f"scheduler: expected the one that {path} was trained with, found {type(schedule).__name__}, which differs "
            f"in {', '.join(sorted(differing))}. {_advise_new_run(path)}"
        )
    for name in find_replaced_arguments(saved, schedule):
        if name == "total_steps":
            raise InputError(
                f"scheduler.total_steps={configured[name]}: expected {saved[name]}, the value in {path}, found "
                f"another. {type(schedule).__name__} cannot change its length. {_advise_new_run(path)}"
            )
        rank_zero_only(log.info)(
            f"scheduler.{name}: {saved[name]} is kept from the checkpoint, {configured[name]} is configured."
        )


def find_replaced_arguments(saved: Mapping[str, Any], schedule: Any) -> list[str]:
    """Return the names of a schedule's arguments whose configured values a checkpoint overrides, sorted."""
    configured = schedule.state_dict()
    arguments = inspect.signature(type(schedule)).parameters.keys() - {"optimizer", "last_epoch"}
    return [
        name
        for name in sorted(arguments & configured.keys() & saved.keys())
        if _to_comparable(saved[name]) != _to_comparable(configured[name])
    ]


def _advise_new_run(path: Path) -> str:
    return (
        "Resume with the run's own settings (its config.yaml); to change them, start a new run from the weights, with "
        f"model.pretrained={path} instead of ckpt_path."
    )


def _to_comparable(value: Any) -> Any:
    """Convert a hyperparameter for comparison: a tuple to a list, a tensor to numbers."""
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, list | tuple) else value
