"""The run directory: what a training leaves, and how everything later finds it.

config.yaml  checkpoints/{best,last}.ckpt  metrics.csv  metrics.json  predictions/  wandb/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from flowers.data.datamodule import FlowersDataModule
from flowers.errors import InputError
from flowers.models.backbone import state_faults
from flowers.models.classifier import FlowerClassifier
from flowers.training import ema

_WATCHING = tuple(f"callbacks.{name}" for name in ("progress_bar", "throughput", "compile_guard", "last_checkpoint"))
"""The callbacks that leave the model as it is."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run's directory."""

    directory: Path

    @property
    def config_path(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def best(self) -> Path:
        return self.directory / "checkpoints" / "best.ckpt"

    @property
    def metrics_path(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def metrics_csv(self) -> Path:
        return self.directory / "metrics.csv"

    def predictions(self, split: str) -> Path:
        return self.directory / "predictions" / f"{split}.parquet"

    @property
    def submission(self) -> Path:
        return self.directory / "submission.csv"

    @rank_zero_only
    def write_config(self, config: DictConfig) -> None:
        """Keep the configuration, its references unresolved, so that what is overridden later still carries over."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = config.copy()
        kept.paths.output_dir = str(self.directory)
        OmegaConf.save(kept, self.config_path)

    @rank_zero_only
    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        self.metrics_path.write_text(json.dumps(dict(sorted(metrics.items())), indent=2) + "\n")

    def config(self) -> DictConfig:
        """The configuration that the run was trained with.

        Raises:
            InputError: the directory is no run's.
        """
        if not self.config_path.is_file():
            raise InputError(
                f"{self.config_path}: no such file. Expected run=DIR to be what `python src/train.py` printed as its "
                "directory, one of logs/train/runs/*."
            )
        config = OmegaConf.load(self.config_path)
        if not isinstance(config, DictConfig) or not {"data", "model"} <= set(config):
            raise InputError(f"{self.config_path}: expected a training's configuration, found none in it.")
        return config

    def recipe(self) -> str:
        """A digest of the configuration: the same for the runs that differ in nothing but `data.fold`, and in where."""
        config = self.config()
        for key in ("data.fold", "paths", "logger", "tags", "task_name", "ckpt_path", "trainer.devices", *_WATCHING):
            OmegaConf.update(config, key, None, force_add=True)
        return hashlib.sha256(OmegaConf.to_yaml(config, sort_keys=True).encode()).hexdigest()

    def load(self, overrides: Mapping[str, object]) -> tuple[FlowersDataModule, FlowerClassifier]:
        """The run's data, as trained but for `overrides` that are not None, and its model from the best checkpoint.

        Raises:
            InputError: the directory is no run's, has no best checkpoint, or its data have other classes.
        """
        config = self.config()
        train_size = config.data.get("train_size")  # before an override of what it may refer to
        for key, value in overrides.items():
            if key == "root" and value is not None:
                config.data.garden = None  # another place is not for planting
            if value is not None:
                OmegaConf.update(config, f"data.{key}", value)
        datamodule: FlowersDataModule = instantiate(config.data)
        datamodule.prepare_data()
        checkpoint = read_checkpoint(self.best)
        check_classes(self.best, checkpoint, datamodule.class_names)
        # The checkpoint has all weights: those that the training started from are not needed.
        model: FlowerClassifier = instantiate(
            config.model, class_names=datamodule.class_names, pretrained=False, image_size=train_size
        )
        check_weights(self.best, checkpoint, model)
        model.load_state_dict(checkpoint.state)
        return datamodule, model


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is needed of a checkpoint that Lightning wrote.

    state: the weights, on the CPU.
    class_names: in label order.
    epochs: done.
    averaged: whether the weights are an average, which training cannot go on from by itself.
    """

    state: dict[str, Tensor]
    class_names: list[str]
    epochs: int
    averaged: bool


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: there is no such file, or it is no checkpoint of this program.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Expected a run's checkpoint; a run with debug=fdr has none. Train again, or give "
            "another."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        class_names = content["hyper_parameters"]["class_names"]
        epochs = content[FlowersDataModule.__qualname__]["epoch"]
        return Checkpoint(content["state_dict"], class_names, epochs, ema.KEY in content)
    except Exception as error:  # torch.load raises many kinds for a file that is none of its own
        raise InputError(
            f"{path}: expected a checkpoint of this program, found {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'nothing'}. Train again, or copy the file again."
        ) from error


def check_classes(path: Path, checkpoint: Checkpoint, class_names: Sequence[str]) -> None:
    """Raise `InputError` unless a checkpoint was trained on these classes, in this order."""
    trained = checkpoint.class_names
    if trained == list(class_names):
        return
    differing = [(a, b) for a, b in zip(trained, class_names, strict=False) if a != b]
    detail = f"; the first that differ are {differing[0][0]!r} and {differing[0][1]!r}" if differing else ""
    raise InputError(
        f"{path}: expected a checkpoint of the data set's {len(class_names)} classes, found one of "
        f"{len(trained)}{detail}. Give the data set that it was trained on (data.root), or another checkpoint; "
        "to start from its backbone alone, train with model.pretrained=PATH."
    )


def check_weights(path: Path, checkpoint: Checkpoint, model: FlowerClassifier) -> None:
    """Raise `InputError` unless a checkpoint's weights are this model's, all of them."""
    if faults := state_faults(checkpoint.state, model.state_dict()):
        raise InputError(
            f"{path}: expected the weights of the configured model, found others: {faults}. Give the settings that the "
            "checkpoint was trained with (the config.yaml of its run has them)."
        )


def check_resumable(path: Path, model: FlowerClassifier, max_epochs: int, *, averaged: bool) -> None:
    """Raise `InputError` unless training can go on from a checkpoint: same classes, same model, epochs left.

    `averaged`: whether this training keeps an average of the weights.
    """
    checkpoint = read_checkpoint(path)
    check_classes(path, checkpoint, model.class_names)
    check_weights(path, checkpoint, model)
    if checkpoint.averaged and not averaged:
        raise InputError(
            f"{path}: expected a run without an average of the weights to be resumed from one without, found one with. "
            "Add callbacks=ema; to start a new run from the average, set model.pretrained to this path instead."
        )
    if 0 <= max_epochs <= checkpoint.epochs:
        raise InputError(
            f"trainer.max_epochs={max_epochs}: expected more than the {checkpoint.epochs} epochs that {path} has been "
            f"trained for. Set trainer.max_epochs to {checkpoint.epochs + 1} or more."
        )
