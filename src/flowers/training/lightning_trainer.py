"""Make the trainer of a run: Lightning's, with the checks, callbacks and checkpoints that every training has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from pydantic import Field

from flowers.instantiate import instantiate
from flowers.settings import Count, Node, Nodes, NonNegative, Positive, Rule
from flowers.training.checkpoint_io import save_atomically
from flowers.training.progress_bar import ProgressBar

_PositiveFraction = Annotated[float, Field(gt=0, le=1)]

TRAINER = Rule(
    # What the program gives to Lightning's Trainer, and what would leave that out.
    reserved=(
        *("barebones", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar"),
        *("enable_autolog_hparams", "logger"),
    ),
    # What Lightning's Trainer does not check itself.
    ranges={
        # Without those of 16-bit weights: averages, metrics and small updates would be lost in rounding.
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
)


def make_trainer(node: Node, callbacks: list[Any], loggers: list[Any], directory: Path) -> L.Trainer:
    """Make the trainer of a training.

    Args:
        node: its settings.
        callbacks: all of them; without a checkpoint or a progress bar among them, there is none.
        loggers: all of them.
        directory: the run's. With Lightning's default, SLURM would resume what any run left in the working directory.

    Raises:
        InputError: the trainer refuses its settings.
    """
    trainer: L.Trainer = instantiate(
        "trainer",
        node,
        callbacks=callbacks,
        logger=loggers,
        # Lightning would add its own where there is none.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, AnyProgressBar) for callback in callbacks),
        default_root_dir=str(directory),
    )
    save_atomically(trainer)
    return trainer


def make_plain_trainer(node: Node, directory: Path, callbacks: list[Any] | None = None) -> L.Trainer:
    """Make a trainer for evaluation or prediction: it logs nothing and saves nothing.

    Args:
        node: its settings.
        directory: one without SLURM's checkpoints, which Lightning would load.
        callbacks: all of them.

    Raises:
        InputError: the trainer refuses its settings.
    """
    trainer: L.Trainer = instantiate(
        "trainer",
        node,
        callbacks=[*(callbacks or []), ProgressBar()],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=str(directory),
    )
    return trainer


def make_all(key: str, nodes: Nodes) -> list[Any]:
    """Make the objects of a group of nodes, those that are None left out."""
    return [instantiate(f"{key}.{name}", node) for name, node in (nodes or {}).items() if node is not None]
