"""Ignore those of Lightning's warnings that are false here. A user's own model and data module keep theirs."""

from __future__ import annotations

import warnings

import lightning as L

from flowers.models.classifier import FlowerClassifier

_UNSYNCHRONISED = r"It is recommended to use `self\.log\('{names}', \.\.\., sync_dist=True\)`"


def ignore_false_warnings(model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
    """Ignore warnings that do not hold for this package's callbacks, nor for the model and data if they are its own."""
    false = [
        # A resumed run's directory is not empty, but has no metrics.csv to delete, and its checkpoints are kept.
        "Experiment logs directory",
        "Checkpoint directory .* exists and is not empty",
        # model.freeze_batch_norm keeps modules in evaluation mode.
        r"Found \d+ module\(s\) in eval mode at the start of training",
        # Steps are counted over all epochs, so short epochs are logged as well.
        "The number of training batches .* is smaller than the logging interval",
        # The first is of all processes, and the others are of the one that logs.
        _UNSYNCHRONISED.format(names="train/(images_per_second|loader_wait|device_memory)"),
    ]
    if isinstance(model, FlowerClassifier):
        # Its metrics have gathered the counts of all processes.
        false.append(_UNSYNCHRONISED.format(names="(train|val)/(loss|accuracy|macro_f1)"))
    if type(datamodule).state_dict is not L.LightningDataModule.state_dict:
        # The loader does not keep the position within an epoch, but its data module does.
        false.append("You're resuming from a checkpoint that ended before the epoch ended")
    for message in false:
        warnings.filterwarnings("ignore", message=message)
