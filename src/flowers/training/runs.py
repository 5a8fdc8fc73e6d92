"""The run directory: its files, and how to load the configuration, data and model from it.

config.yaml  checkpoints/{best,last}.ckpt  metrics.csv  metrics.json  unfinished.txt  predictions/  report/  wandb/
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
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
from flowers.settings import find_node_problems, raise_problems, typed
from flowers.system.atomic import write_atomic
from flowers.training.checkpoints import Checkpoint, check_classes, check_weights, read_checkpoint
from flowers.training.pair import class_names_of, make_data, make_model
from flowers.training.trust import check_trusted

_NOT_IN_RECIPE = (
    *("data.fold", "paths", "logger", "tags", "task_name", "ckpt_path", "trainer.devices", "report", "resume"),
)
"""Settings that do not change the recipe."""

PASSIVE_CALLBACKS = tuple(
    f"callbacks.{name}"
    for name in (
        *("progress_bar", "summary", "throughput", "compile_guard", "last_checkpoint", "nonfinite_guard"),
        *("gradient_norm", "loader_wait", "device_memory", "wandb_images"),
    )
)
"""Callbacks that do not change the model."""


_EARLIER_METRICS = "metrics-until-"
"""How the names of metrics begin that a run had before it was resumed. The time in seconds follows, and the suffix."""

_ORPHAN_SECONDS = 60
"""How long a training whose parent was killed may take to end its step and save a checkpoint."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run's directory, and the paths of its files."""

    directory: Path

    @property
    def config_path(self) -> Path:
        """Return the path of the configuration."""
        return self.directory / "config.yaml"

    @property
    def best(self) -> Path:
        """Return the path of the best checkpoint."""
        return self.directory / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """Return the path of the last checkpoint, which the run resumes from."""
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def metrics_path(self) -> Path:
        """Return the path of the final metrics."""
        return self.directory / "metrics.json"

    @property
    def unfinished_path(self) -> Path:
        """Return the path of the note that `trainer.max_time` ended the run before its last step."""
        return self.directory / "unfinished.txt"

    @property
    def metrics_csv(self) -> Path:
        """Return the path of the metrics of all epochs since the run was started or resumed."""
        return self.directory / "metrics.csv"

    def find_metrics_csvs(self) -> list[Path]:
        """Return the files with the metrics of all epochs in order: one more for each time the run was resumed."""
        return [*self._find_earlier_metrics(".csv"), *([self.metrics_csv] if self.metrics_csv.exists() else [])]

    def _find_earlier_metrics(self, suffix: str) -> list[Path]:
        return sorted(self.directory.glob(f"{_EARLIER_METRICS}*{suffix}"))

    @property
    def report(self) -> Path:
        """Return the path of the report."""
        return self.directory / "report" / "index.html"

    def wandb_id(self) -> str | None:
        """Return the id of the W&B run, which a resumed training continues; None if there is none."""
        logs = sorted(self.directory.glob("wandb/*run-*-*/"), key=lambda path: path.name.partition("run-")[2])
        return logs[-1].name.partition("run-")[2].partition("-")[2] if logs else None

    def predictions(self, split: str) -> Path:
        """Return the path of the predictions file of a split."""
        return self.directory / "predictions" / f"{split}.parquet"

    @property
    def submission(self) -> Path:
        """Return the path of the submission."""
        return self.directory / "submission.csv"

    def find_slurm_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that Lightning saved here before SLURM requeued the job; None if none."""
        if not SLURMEnvironment.detect():
            return None
        paths = [path for path in self.directory.glob("hpc_ckpt_*.ckpt") if path.stem.split("_")[-1].isdigit()]
        return max(paths, key=lambda path: int(path.stem.split("_")[-1]), default=None)

    @contextmanager
    def claim(self, resumed: Path | None, *, again: bool = False) -> Iterator[None]:
        """Lock this directory against other trainings while the block runs.

        Only the first process of the run takes the lock.

        Args:
            resumed: the checkpoint that the training resumes from, if any.
            again: whether a training that was killed in its first epoch starts again: see `discard_first_epoch`.

        Raises:
            InputError: another training runs here, or has left results: see `check_unused`.
        """
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            # The workers of a training that has just been killed may still hold the lock.
            lock = FileLock(self.directory / ".lock").acquire(timeout=5)
        except Timeout:
            raise InputError(
                f"{self.directory}: expected a directory that is not in use, found another training running in it. "
                "Wait for it to end, or set hydra.run.dir to another directory."
            ) from None
        with lock:
            if again and not self._contains(resumed):
                self.discard_first_epoch()
            self.check_unused(resumed)
            yield

    def wait_until_unused(self) -> None:
        """Wait until no training runs in this directory: one whose parent was killed ends after its step.

        Raises:
            InputError: after a minute a training still runs.
        """
        lock = self.directory / ".lock"
        if not lock.exists():
            return
        try:
            with FileLock(lock, timeout=_ORPHAN_SECONDS):
                pass
        except Timeout:
            raise InputError(
                f"{self.directory}: expected a directory that is not in use, found a training running in it. Wait for "
                "it to end, or end it, then run the same command again."
            ) from None

    def read_metrics(self) -> dict[str, float] | None:
        """Return the final metrics, or None if the training is not finished."""
        if not self.metrics_path.is_file():
            return None
        values: dict[str, float | None] = json.loads(self.metrics_path.read_text())
        return {name: math.nan if value is None else value for name, value in values.items()}

    def find_last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that this run can be resumed from; None if there is none."""
        found = [path for path in (self.last, self.find_slurm_checkpoint()) if path is not None and path.is_file()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def discard_first_epoch(self) -> None:
        """Remove the checkpoints of a training that was killed in its first epoch, before there was one to resume.

        They are kept if the training saved its last checkpoint elsewhere, or none: then it may have come further. They
        are also kept if the run had ended before, and was then continued.
        """
        ended = self.metrics_path.exists() or bool(self._find_earlier_metrics(self.metrics_path.suffix))
        if not self.config_path.is_file() or ended or self.find_last_checkpoint() is not None:
            return
        began = self.config()
        OmegaConf.update(began, "paths.output_dir", str(self.directory))  # it may have been moved
        saved = OmegaConf.select(began, "callbacks.last_checkpoint.path")
        if saved is not None and Path(saved).absolute() == self.last.absolute():
            shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)

    def check_unused(self, resumed: Path | None) -> None:
        """Raise `InputError` if the directory holds results of a training other than the resumed one.

        If the new run ended early, the old weights would be evaluated as its own.
        """
        results = [*self.directory.glob("checkpoints/*.ckpt"), *self.directory.glob("predictions/*")]
        results += [path for path in (self.metrics_path, self.submission) if path.exists()]
        if results and not self._contains(resumed):
            raise InputError(
                f"{self.directory}: expected a new directory, found files of another run: "
                f"{first_few([str(path.relative_to(self.directory)) for path in results], ', ')}. Set hydra.run.dir to "
                f"another directory, {self._describe_resuming()}."
            )

    def _contains(self, checkpoint: Path | None) -> bool:
        return checkpoint is not None and self.directory.resolve() in checkpoint.resolve().parents

    def _describe_resuming(self) -> str:
        last = self.find_last_checkpoint()
        if last is None:
            return "or remove these files; they hold no last checkpoint that the run could be resumed from"
        return f"or resume that run with ckpt_path={last}"

    @rank_zero_only
    def set_metrics_aside(self) -> None:
        """Rename the metrics of a run that is resumed.

        With metrics.json it would count as finished, and the CSV logger would delete metrics.csv.
        """
        for path in (self.metrics_path, self.metrics_csv):
            if path.exists():
                path.rename(path.with_name(f"{_EARLIER_METRICS}{int(time.time())}{path.suffix}"))
        self.unfinished_path.unlink(missing_ok=True)

    @rank_zero_only
    def write_config(self, config: DictConfig) -> None:
        """Write config.yaml with unresolved references, so that they follow later overrides."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = config.copy()
        kept.paths.output_dir = str(self.directory)
        write_atomic(self.config_path, OmegaConf.to_yaml(kept))

    @rank_zero_only
    def write_metrics(self, metrics: Mapping[str, float], *, cut_short: bool = False) -> None:
        """Write the metrics as JSON, with null for NaN and infinity, which JSON does not have.

        If the run was `cut_short`, a note says so. Then its metrics are those of its unfinished training.
        """
        if cut_short:
            write_atomic(self.unfinished_path, f"trainer.max_time ended this run. {advise_resuming(self.directory)}\n")
        values = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
        write_atomic(self.metrics_path, json.dumps(values, indent=2, allow_nan=False) + "\n")

    def config(self) -> DictConfig:
        """Return the configuration that the run was trained with.

        Raises:
            InputError: the directory is not a run's.
        """
        if not self.config_path.is_file():
            raise InputError(
                f"{self.config_path}: no such file. Set run=DIR to the directory that `python src/train.py` "
                "printed, one of logs/train/runs/*."
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
        """Return the SHA-256 digest of the configuration without settings that do not change the recipe, in hex.

        `data.fold` is one of these, so all folds of a cross-validation have the same digest.
        """
        return recipe_of(self.config())

    def monitored(self) -> str:
        """Return the name of the metric that selected the best checkpoint."""
        return str(OmegaConf.select(self.config(), "monitor.metric"))

    def load(
        self, overrides: Mapping[str, object], split: Split = "val", *, trust: bool = False
    ) -> tuple[L.LightningDataModule, L.LightningModule]:
        """Load the run's data module, and the model of its best checkpoint.

        Args:
            overrides: values that replace settings of `data`; None keeps the run's value.
            split: the split that the model will be used on.
            trust: whether the configuration may name any class or function, whose code then runs.

        Raises:
            InputError: the directory is not a run's, it has no best checkpoint, the data have other classes, the split
                would contain training images, or the configuration needs `trust`.
        """
        config = self.config()
        if not trust:
            check_trusted(config, self.config_path)
        self._check_same_folds(config, overrides.get("root"), split)
        train_size = config.data.get("train_size")  # read before the overrides change what it may refer to
        for key, value in overrides.items():
            if key == "root" and value is not None:
                config.data.prepare = None  # never generate or download a data set in an overridden root
                config.data.update({key: None for key in ("roots", "weights") if config.data.get(key) is not None})
            if value is not None:
                OmegaConf.update(config, f"data.{key}", value, force_add=True)
        raise_problems(find_node_problems("data", _resolve_group(config, "data")))
        datamodule = make_data(_resolve_group(config, "data"))
        datamodule.prepare_data()
        checkpoint = read_checkpoint(self.best, datamodule)
        check_classes(self.best, checkpoint, class_names_of(datamodule))
        return datamodule, self._make_model(config, checkpoint, datamodule, train_size)

    def load_model(self, datamodule: L.LightningDataModule, fix: str) -> L.LightningModule:
        """Load the best checkpoint's model for use on another data module.

        Args:
            datamodule: the other data module, with the same classes. The model keeps the image size of its training.
            fix: the advice in the message if the configuration is not trusted.

        Raises:
            InputError: the directory is not a run's, it has no best checkpoint, the classes differ, or the
                configuration is not trusted.
        """
        config = self.config()
        check_trusted(config, self.config_path, fix)
        checkpoint = read_checkpoint(self.best, datamodule)
        check_classes(self.best, checkpoint, class_names_of(datamodule))
        return self._make_model(config, checkpoint, datamodule, config.data.get("train_size"))

    def _make_model(
        self, config: DictConfig, checkpoint: Checkpoint, datamodule: L.LightningDataModule, train_size: int | None
    ) -> L.LightningModule:
        # The checkpoint has all weights, so the pretrained ones are not needed.
        node = {name: value for name, value in _resolve_group(config, "model").items() if name != "pretrained"}
        model = make_model(node, datamodule, pretrained=False, image_size=train_size)
        check_weights(self.best, checkpoint, model)
        model.load_state_dict(checkpoint.state)
        if checkpoint.licence is not None and isinstance(model, HasLicence):
            model.licence = checkpoint.licence  # the model was created with random weights
        return model

    def load_data(self) -> L.LightningDataModule:
        """Load the run's data module with the settings of the training.

        Nothing is generated or downloaded, and no untrusted code runs.

        Raises:
            InputError: the directory is not a run's, or its configuration is not trusted.
        """
        config = self.config()
        check_trusted(config, self.config_path)
        node = _resolve_group(config, "data")
        return make_data(node | {"prepare": None} if "prepare" in node else node)

    def _check_same_folds(self, config: DictConfig, root: object, split: Split) -> None:
        """Raise `InputError` if the folds would differ from those of the training."""
        own = config.data
        divided = own.roots[0] if own.get("roots") else own.get("root")
        if own.get("folds") is not None and root not in (None, divided) and split != "test":
            raise InputError(
                f"data.root={root}: expected the data set of the run's folds, {divided}, found another. Its folds "
                f"differ, so the {split} split would contain training images. Leave data.root out; if the data set "
                f"was moved, link it to {divided}."
            )


def advise_resuming(directory: Path) -> str:
    """Return the advice for a run that is not finished."""
    return f"To continue it, repeat its command with {typed('hydra.run.dir', directory)} resume=true."


def recipe_of(config: DictConfig) -> str:
    """Return the digest of a training's configuration: see `Run.recipe`."""
    kept = copy.deepcopy(config)
    OmegaConf.set_struct(kept, False)  # a composed configuration refuses to lose keys
    for key in (*_NOT_IN_RECIPE, *PASSIVE_CALLBACKS):
        OmegaConf.update(kept, key, None, force_add=True)
    if kept.trainer.pop("autotune", False):
        kept.trainer.precision = "autotune"  # the folds of a cross-validation may have different ones
    for key in ("channels_last", "compile", "threads", "keep_memory", "max_time"):
        kept.trainer.pop(key, None)
    return hashlib.sha256(OmegaConf.to_yaml(kept, sort_keys=True).encode()).hexdigest()


def find_newest_run(directory: Path) -> Run:
    """Return the run in a subdirectory of `directory` that has the newest best checkpoint.

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


def _resolve_group(config: DictConfig, group: str) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(config[group], resolve=True)  # type: ignore[assignment]
    return values
