"""The position of a run in its data, saved in checkpoints so that a resumed run continues with the next batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerStatus

from flowers.errors import InputError

SPLIT = ("data.train_on", "data.folds", "data.fold", "data.seed")
"""Settings that decide which images a run is trained on. The seed decides its folds and the order."""

IMAGES = "data.batch_size times processes"
"""The key of the global batch size in an order."""


@dataclass(frozen=True, slots=True)
class Position:
    """The next batch of a training: its epoch, its number in the epoch, and the settings that the order depends on."""

    epoch: int = 0
    batch: int = 0
    order: Mapping[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Return the position as a checkpoint stores it."""
        return asdict(self)


def position_of(trainer: L.Trainer, order: Mapping[str, Any]) -> Position:
    """Return the position of a training, for checkpoints after a step, a validation or an epoch.

    A batch counts when the training takes it. Batches that workers have prepared ahead do not count.
    """
    loop: Any = trainer.fit_loop
    epochs = loop.epoch_progress.current
    batches = loop.epoch_loop.batch_progress.current.processed
    running = trainer.state.status == TrainerStatus.RUNNING
    if epochs.processed > epochs.completed or not running:  # the epoch is done, but the batch counter is not yet reset
        return Position(epochs.processed, 0, order)
    if batches >= trainer.num_training_batches:
        return Position(epochs.processed + 1, 0, order)
    return Position(epochs.processed, batches, order)


def read_position(state: Mapping[str, Any]) -> Position:
    """Return the position that a checkpoint stores.

    Raises:
        InputError: another version wrote the checkpoint.
    """
    known = {field.name for field in fields(Position)}
    if unknown := sorted(state.keys() - known):
        raise _version_error(unknown[0])
    return Position(**state)


def check_same_split(start: Position, order: Mapping[str, Any]) -> None:
    """Raise `InputError` if a run would be resumed with other training images.

    It would then be validated on images that it was trained on. Without folds, records may be added between two epochs.
    """
    if unknown := [name for name in start.order if name not in order]:
        raise _version_error(unknown[0])
    names = (*SPLIT, "records") if order.get("data.folds") else SPLIT
    for name in names:
        if name in start.order and start.order[name] != order[name]:
            raise InputError(
                f"{name}: expected {start.order[name]} as when the checkpoint was made, found {order[name]}. "
                "The resumed run would be validated on images that it was trained on, or trained on other images. "
                "Resume with the run's own settings (its config.yaml), or start a new run without ckpt_path."
            )


def _version_error(name: str) -> InputError:
    return InputError(
        f"ckpt_path: expected a checkpoint of this version, found one whose order of records depends on {name}, which "
        "this version does not support. Resume with the version that wrote it, or start a new run from its weights: "
        "set model.pretrained=PATH instead of ckpt_path."
    )


def check_same_order(start: Position, order: Mapping[str, Any]) -> None:
    """Raise `InputError` if a run would be resumed with another split, or within an epoch whose order has changed."""
    check_same_split(start, order)
    differing = [name for name in start.order if start.order[name] != order[name]]
    if start.batch and differing:
        name = differing[0]
        raise InputError(
            f"{name}: expected {start.order[name]} as when the checkpoint was made, {start.batch} batches into epoch "
            f"{start.epoch}, found {order[name]}. Resume with the same data and settings, or from a checkpoint made at "
            "the end of an epoch."
        )
