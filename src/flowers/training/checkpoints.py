"""Read a checkpoint, and check that it fits a model and a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from flowers.data.class_names import class_difference
from flowers.errors import InputError
from flowers.models.backbone import describe_mismatch
from flowers.training import ema
from flowers.training.autotune import KEY as CHOICE


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of Lightning's checkpoint that the commands use.

    state: the weights, on the CPU.
    class_names: the class names in label order; None if the model has none.
    licence: the licence of the weights that the training started from; None if it is not recorded.
    epochs, steps: the numbers of completed epochs and steps.
    averaged: whether the weights are an average. Training cannot continue from an average alone.
    position: the position in the training data, as the data module saved it; None if it saved nothing.
    groups: the optimizer's parameter groups, with its hyperparameters.
    schedule: the state of the learning-rate schedule.
    choice: the choice of `trainer.autotune`; None if the run was not tuned.
    """

    state: dict[str, Tensor]
    class_names: list[str] | None
    licence: str | None
    epochs: int
    steps: int
    averaged: bool
    position: Mapping[str, Any] | None
    groups: list[dict[str, Any]]
    schedule: Mapping[str, Any]
    choice: Mapping[str, Any] | None = None


def read_checkpoint(path: Path, datamodule: L.LightningDataModule) -> Checkpoint:
    """Read the checkpoint of a training on a data module of this class.

    Raises:
        InputError: there is no such file, or it is not a checkpoint of this program.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Expected a run's checkpoint; a run with debug=fdr has none. Train again, or give "
            "another checkpoint."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        hyperparameters = content.get("hyper_parameters", {})
        names = hyperparameters.get("class_names"), hyperparameters.get("licence")
        position = content.get(type(datamodule).__qualname__)
        groups = [group for optimizer in content.get("optimizer_states", []) for group in optimizer["param_groups"]]
        schedule: Mapping[str, Any] = next(iter(content.get("lr_schedulers", [])), {})
        progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]
        done = (position or {}).get("epoch", progress["completed"]), content["global_step"]
        averaged = ema.KEY in content
        found = (content["state_dict"], *names, *done, averaged, position, groups, schedule)
        return Checkpoint(*found, choice=content.get(CHOICE))
    except Exception as error:  # torch.load raises many types of errors for other files
        raise InputError(
            f"{path}: expected a checkpoint of this program, found {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'nothing'}. Train again, or copy the file again."
        ) from error


def is_stopped(callbacks: Mapping[str, Any]) -> bool:
    """Return whether the states of a checkpoint's callbacks hold an early stop.

    Lightning's `stopped_epoch` is 0 both for none and for one in the first epoch, where only the patience tells.
    """
    stops = [state for name, state in callbacks.items() if name.startswith("EarlyStopping")]
    return any(state.get("stopped_epoch") or state.get("wait_count", 0) >= state.get("patience", 1) for state in stops)


def digest_weights(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 digest of a state dict's names and values, in hex. It does not depend on the file."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_classes(path: Path, checkpoint: Checkpoint, class_names: Sequence[str] | None) -> None:
    """Raise `InputError` unless a checkpoint was trained on these classes, in this order."""
    trained = checkpoint.class_names
    if trained is None or class_names is None:
        return
    if differing := class_difference(class_names, trained):
        raise InputError(
            f"{path}: expected a checkpoint of the data set's {len(class_names)} classes, found one of {differing}. "
            "Give the data set that it was trained on (data.root), or another checkpoint; to start from its backbone "
            "alone, train with model.pretrained=PATH."
        )


def check_weights(path: Path, checkpoint: Checkpoint, model: L.LightningModule) -> None:
    """Raise `InputError` unless a checkpoint has exactly this model's weights, by name and shape."""
    if mismatch := describe_mismatch(checkpoint.state, model.state_dict()):
        raise InputError(
            f"{path}: expected the weights of the configured model, found others: {mismatch}. Give the settings that "
            "the checkpoint was trained with (the config.yaml of its run has them)."
        )
