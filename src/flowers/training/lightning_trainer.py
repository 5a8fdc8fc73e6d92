"""Create Lightning's trainer, with the checks, callbacks and checkpoints of every training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from pydantic import Field

from flowers.instantiate import instantiate
from flowers.settings import Count, Node, Nodes, NonNegative, Positive, Rule, split_own
from flowers.training.checkpoint_io import save_atomically
from flowers.training.execution import Execution
from flowers.training.progress_bar import ProgressBar

_PositiveFraction = Annotated[float, Field(gt=0, le=1)]

TRAINER = Rule(
    # Arguments that the program itself sets, and those that would switch them off.
    reserved=(
        *("barebones", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar"),
        *("enable_autolog_hparams", "logger"),
    ),
    # Ranges that Lightning's Trainer does not check.
    ranges={
        # Not the ones with 16-bit weights: rounding would lose averages, metrics and small updates.
        "precision": Literal["32-true", "bf16-mixed", "16-mixed", "64-true", "32", "bf16", "16", "64", 32, 16, 64],
        "accumulate_grad_batches": Positive,
        "check_val_every_n_epoch": Positive | None,
        "gradient_clip_val": NonNegative | None,
        "limit_train_batches": Positive | _PositiveFraction | None,
        "log_every_n_steps": Positive,
        "min_epochs": Count | None,
        "num_sanity_val_steps": Annotated[int, Field(ge=-1)],
        "val_check_interval": Positive | _PositiveFraction | None,
    },
    own=Execution,
)


def make_trainer(node: Node, callbacks: list[Any], loggers: list[Any], directory: Path) -> L.Trainer:
    """Create the trainer of a training.

    Args:
        node: the trainer's settings.
        callbacks: all callbacks. Lightning adds no checkpoint or progress bar of its own.
        loggers: all loggers.
        directory: the run's directory. With Lightning's default, a requeued SLURM job would resume from any checkpoint
            in the working directory.

    Raises:
        InputError: the trainer rejects its settings.
    """
    trainer: L.Trainer = instantiate(
        "trainer",
        split_own(node, Execution)[0],
        callbacks=callbacks,
        logger=loggers,
        # Otherwise Lightning would add its own.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, AnyProgressBar) for callback in callbacks),
        default_root_dir=str(directory),
    )
    save_atomically(trainer)
    return trainer


def make_plain_trainer(node: Node, directory: Path, callbacks: list[Any] | None = None) -> L.Trainer:
    """Create a trainer for evaluation or prediction, which logs and saves nothing.

    Args:
        node: the trainer's settings.
        directory: a directory without SLURM's checkpoints, which Lightning would load.
        callbacks: all callbacks except the progress bar.

    Raises:
        InputError: the trainer rejects its settings.
    """
    trainer: L.Trainer = instantiate(
        "trainer",
        split_own(node, Execution)[0],
        callbacks=[*(callbacks or []), ProgressBar()],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=str(directory),
    )
    return trainer


def make_all(key: str, nodes: Nodes) -> list[Any]:
    """Instantiate all nodes of a configuration group that are not None."""
    return [instantiate(f"{key}.{name}", node) for name, node in (nodes or {}).items() if node is not None]
