"""Where in the data a run is: kept in its checkpoints, so that a resumed run goes on with the very next batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerStatus

from flowers.errors import InputError


@dataclass(frozen=True, slots=True)
class Position:
    """The next batch of a training: its epoch, its number therein, and what the order depended on."""

    epoch: int = 0
    batch: int = 0
    order: Mapping[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        return asdict(self)


def position_of(trainer: L.Trainer, order: Mapping[str, Any]) -> Position:
    """Where a training is, whether a checkpoint is made after a step, after a validation or after an epoch.

    Batches are counted as the training takes them, not as workers make them, so those that are ahead do not count.
    """
    loop: Any = trainer.fit_loop
    epochs = loop.epoch_progress.current
    batches = loop.epoch_loop.batch_progress.current.processed
    running = trainer.state.status == TrainerStatus.RUNNING
    if epochs.processed > epochs.completed or not running:  # the epoch is done; its batches are still counted
        return Position(epochs.processed, 0, order)
    if batches >= trainer.num_training_batches:
        return Position(epochs.processed + 1, 0, order)
    return Position(epochs.processed, batches, order)


def check_same_order(start: Position, order: Mapping[str, Any]) -> None:
    """Raise `InputError` if a run is to go on within an epoch whose order is another now."""
    differing = [name for name in start.order if start.order[name] != order[name]]
    if start.batch and differing:
        name = differing[0]
        raise InputError(
            f"{name}: expected {start.order[name]} as when the checkpoint was made, {start.batch} batches into epoch "
            f"{start.epoch}, found {order[name]}. Resume with the same data and settings, or from a checkpoint made at "
            "the end of an epoch."
        )
