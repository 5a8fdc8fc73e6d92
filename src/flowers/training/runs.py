"""The run directory: what a training leaves, and how everything later finds it.

config.yaml  checkpoints/{best,last}.ckpt  metrics.csv  metrics.json  predictions/  report/  wandb/
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from flowers.data.layout import Split
from flowers.errors import InputError, first_few
from flowers.interfaces import HasLicence
from flowers.settings import find_node_problems, raise_problems
from flowers.system.atomic import write_atomic
from flowers.training.checkpoints import Checkpoint, check_classes, check_weights, read_checkpoint
from flowers.training.pair import class_names_of, make_data, make_model
from flowers.training.trust import check_trusted

_ELSEWHERE = ("data.fold", "paths", "logger", "tags", "task_name", "ckpt_path", "trainer.devices", "report")
"""Settings that leave the recipe as it is."""

_WATCHING = tuple(
    f"callbacks.{name}"
    for name in (
        *("progress_bar", "summary", "throughput", "compile_guard", "last_checkpoint", "nonfinite_guard"),
        *("gradient_norm", "loader_wait", "device_memory", "wandb_images"),
    )
)
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
    def last(self) -> Path:
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def metrics_path(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def metrics_csv(self) -> Path:
        return self.directory / "metrics.csv"

    @property
    def report(self) -> Path:
        return self.directory / "report" / "index.html"

    def wandb_id(self) -> str | None:
        """Return the id of the run's W&B run, which a resumed training keeps; None if it has none."""
        logs = sorted(self.directory.glob("wandb/*run-*-*/"), key=lambda path: path.name.partition("run-")[2])
        return logs[-1].name.partition("run-")[2].partition("-")[2] if logs else None

    def predictions(self, split: str) -> Path:
        return self.directory / "predictions" / f"{split}.parquet"

    @property
    def submission(self) -> Path:
        return self.directory / "submission.csv"

    def find_slurm_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that Lightning has left here before SLURM started the job again."""
        if not SLURMEnvironment.detect():
            return None
        paths = [path for path in self.directory.glob("hpc_ckpt_*.ckpt") if path.stem.split("_")[-1].isdigit()]
        return max(paths, key=lambda path: int(path.stem.split("_")[-1]), default=None)

    @contextmanager
    def claimed(self, resumed: Path | None) -> Iterator[None]:
        """Keep every other training out of this directory while the block runs.

        Only the first of the run's processes does so.

        Raises:
            InputError: another training runs here, or has left results: see `check_unused`.
        """
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            # The workers of a training that was killed a moment ago may hold it still.
            lock = FileLock(self.directory / ".lock").acquire(timeout=5)
        except Timeout:
            raise InputError(
                f"{self.directory}: expected a directory of its own, found another training that runs in it. Wait for "
                "its end, or set hydra.run.dir to another."
            ) from None
        with lock:
            self.check_unused(resumed)
            yield

    def check_unused(self, resumed: Path | None) -> None:
        """Raise `InputError` if another training has left results here than the one that is resumed.

        Its weights would be evaluated as the new run's, should that end early.
        """
        results = [*self.directory.glob("checkpoints/*.ckpt"), *self.directory.glob("predictions/*")]
        results += [path for path in (self.metrics_path, self.submission) if path.exists()]
        if results and (resumed is None or self.directory.resolve() not in resumed.resolve().parents):
            raise InputError(
                f"{self.directory}: expected a new directory, found what another run has left: "
                f"{first_few([str(path.relative_to(self.directory)) for path in results], ', ')}. Set hydra.run.dir to "
                f"another, or resume that run with ckpt_path={self.last}."
            )

    @rank_zero_only
    def write_config(self, config: DictConfig) -> None:
        """Keep the configuration, its references unresolved, so that what is overridden later still carries over."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = config.copy()
        kept.paths.output_dir = str(self.directory)
        write_atomic(self.config_path, OmegaConf.to_yaml(kept))

    @rank_zero_only
    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics as JSON, which has no number for NaN and infinity: null stands for them."""
        values = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
        write_atomic(self.metrics_path, json.dumps(values, indent=2, allow_nan=False) + "\n")

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
        try:
            config = OmegaConf.load(self.config_path)
        except (OSError, ValueError, YAMLError) as error:
            raise InputError(
                f"{self.config_path}: expected a configuration that can be read, found {' '.join(str(error).split())}."
            ) from error
        groups = ("data", "model")
        if not isinstance(config, DictConfig) or not all(OmegaConf.is_dict(config.get(group)) for group in groups):
            raise InputError(f"{self.config_path}: expected a training's configuration, found none in it.")
        return config

    def recipe(self) -> str:
        """A digest of the configuration: the same for the runs that differ in nothing but `data.fold`, and in where."""
        config = self.config()
        for key in (*_ELSEWHERE, *_WATCHING):
            OmegaConf.update(config, key, None, force_add=True)
        return hashlib.sha256(OmegaConf.to_yaml(config, sort_keys=True).encode()).hexdigest()

    def monitored(self) -> str:
        """Return the name of the metric that decided on the best checkpoint."""
        return str(OmegaConf.select(self.config(), "monitor.metric"))

    def load(
        self, overrides: Mapping[str, object], split: Split = "val", *, trust: bool = False
    ) -> tuple[L.LightningDataModule, L.LightningModule]:
        """Load the run's data, as trained but for `overrides` that are not None, and its model: the best checkpoint.

        Args:
            overrides: of the settings in `data`.
            split: what the model is to be used on.
            trust: whether the configuration may name any class, whose code runs.

        Raises:
            InputError: the directory is no run's, has no best checkpoint, its data have other classes, the split
                would hold images that it was trained on, or the configuration needs `trust`.
        """
        config = self.config()
        if not trust:
            check_trusted(config, self.config_path)
        self._check_same_folds(config, overrides.get("root"), split)
        train_size = config.data.get("train_size")  # before an override of what it may refer to
        for key, value in overrides.items():
            if key == "root" and value is not None:
                config.data.prepare = None  # never generate or download a data set in an overridden root
            if value is not None:
                OmegaConf.update(config, f"data.{key}", value, force_add=True)
        raise_problems(find_node_problems("data", _resolved(config, "data")))
        datamodule = make_data(_resolved(config, "data"))
        datamodule.prepare_data()
        checkpoint = read_checkpoint(self.best, datamodule)
        check_classes(self.best, checkpoint, class_names_of(datamodule))
        return datamodule, self._make_model(config, checkpoint, datamodule, train_size)

    def load_model(self, datamodule: L.LightningDataModule, fix: str) -> L.LightningModule:
        """Load the best checkpoint's model for use on another data module.

        Args:
            datamodule: has the same classes. The model is made for the image size that it was trained at.
            fix: what the user can do if the configuration is not trusted, for the message.

        Raises:
            InputError: the directory is no run's, has no best checkpoint, other classes, or its configuration is not
                trusted.
        """
        config = self.config()
        check_trusted(config, self.config_path, fix)
        checkpoint = read_checkpoint(self.best, datamodule)
        check_classes(self.best, checkpoint, class_names_of(datamodule))
        return self._make_model(config, checkpoint, datamodule, config.data.get("train_size"))

    def _make_model(
        self, config: DictConfig, checkpoint: Checkpoint, datamodule: L.LightningDataModule, train_size: int | None
    ) -> L.LightningModule:
        # The checkpoint has all weights: those that the training started from are not needed.
        node = {name: value for name, value in _resolved(config, "model").items() if name != "pretrained"}
        model = make_model(node, datamodule, pretrained=False, image_size=train_size)
        check_weights(self.best, checkpoint, model)
        model.load_state_dict(checkpoint.state)
        if checkpoint.licence is not None and isinstance(model, HasLicence):
            model.licence = checkpoint.licence  # it was made with random weights
        return model

    def load_data(self) -> L.LightningDataModule:
        """Load the run's data as trained. Nothing is generated or downloaded, and nothing of the user's own runs.

        Raises:
            InputError: the directory is no run's, or its configuration is not trusted.
        """
        config = self.config()
        check_trusted(config, self.config_path)
        node = _resolved(config, "data")
        return make_data(node | {"prepare": None} if "prepare" in node else node)

    def _check_same_folds(self, config: DictConfig, root: object, split: Split) -> None:
        """Raise `InputError` where the folds would be others than those that the run was trained in."""
        own = config.data
        if own.get("folds") is not None and root not in (None, own.root) and split != "test":
            raise InputError(
                f"data.root={root}: expected the data set that the run was trained in folds of, {own.root}, found "
                f"another, whose folds are others: the {split} split would hold images that it was trained on. Leave "
                f"data.root out; if the data set was moved, link it to {own.root}."
            )


def find_newest_run(directory: Path) -> Run:
    """Return the run below a directory whose best checkpoint is the newest.

    Raises:
        InputError: no run there has a best checkpoint.
    """
    runs = [run for run in map(Run, sorted(directory.glob("*/"))) if run.best.is_file()]
    if not runs:
        raise InputError(
            f"{directory}: expected the directories of trained runs, with checkpoints/best.ckpt in them, found none. "
            "Train a model: python src/train.py"
        )
    return max(runs, key=lambda run: run.best.stat().st_mtime)


def _resolved(config: DictConfig, group: str) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(config[group], resolve=True)  # type: ignore[assignment]
    return values
