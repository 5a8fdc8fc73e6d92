"""Recompute a run's metrics from its best checkpoint: what `python src/evaluate.py` does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
from omegaconf import DictConfig

from flowers.interfaces import ReportsSkipped
from flowers.settings import Count, Node, Positive, load_settings
from flowers.training.callbacks import ValidationSpeed
from flowers.training.collect_outcomes import CollectOutcomes
from flowers.training.distributed import closing_process_group
from flowers.training.execution import executing
from flowers.training.lightning_trainer import TRAINER, make_plain_trainer
from flowers.training.lightning_warnings import ignore_false_warnings
from flowers.training.outcomes import Outcomes
from flowers.training.pair import check_sizes, check_validated
from flowers.training.runs import Run
from flowers.training.tuning import choose_execution

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataOverrides:
    """Values that replace settings of `data` in the run's configuration; None: the run's value is kept."""

    root: str | None
    image_size: Positive | None
    batch_size: Positive | None
    num_workers: Count | None
    on_bad_record: Literal["stop", "skip"] | None
    storage_options: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The settings of the commands that use a run.

    run: a training's directory.
    trust: whether its configuration may name any class or function, whose code then runs.
    """

    run: str
    trust: bool
    trainer: Node
    data: DataOverrides


@dataclass(frozen=True, slots=True)
class EvaluateSettings(RunSettings):
    """The settings of `python src/evaluate.py`.

    report: write report/evaluation.html into the run's directory.
    """

    report: bool


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The result of an evaluation.

    run: the evaluated run.
    metrics: the metrics by name.
    skipped: why each skipped record was skipped.
    model: the model of the best checkpoint.
    datamodule: the data module of the evaluation.
    outcomes: the predictions of the validation split, if the model returns them; see `CollectOutcomes`.
    images_per_second: the speed after the first batch, with the padding of the last; None if there is only one batch.
    """

    run: Run
    metrics: dict[str, float]
    skipped: set[str]
    model: L.LightningModule
    datamodule: L.LightningDataModule
    outcomes: Outcomes | None
    images_per_second: float | None = None


@closing_process_group()
def evaluate(config: DictConfig) -> EvaluationResult:
    """Evaluate a run's best checkpoint on the validation split.

    Raises:
        InputError: there is no such run, or bad data or weights; see the message.
    """
    settings = load_settings(EvaluateSettings, config, {"trainer": TRAINER})
    run = Run(Path(settings.run))
    datamodule, model = run.load(asdict(settings.data), trust=settings.trust)
    check_validated(model, datamodule)
    check_sizes(model, datamodule, "eval_size")
    if getattr(datamodule, "train_on", None) == "train+val" and settings.data.root is None:
        log.warning("The run was trained on the validation split as well: these metrics do not hold for other images.")
    collected, speed = CollectOutcomes(), ValidationSpeed()
    trainer = make_plain_trainer(settings.trainer, run.best.parent, [collected, speed])

    def make_loader() -> Iterable[Any]:
        datamodule.setup("validate")
        loader: Iterable[Any] = datamodule.val_dataloader()
        return loader

    execution, _ = choose_execution("validate", settings.trainer, trainer, model, datamodule, make_loader)
    ignore_false_warnings(model, datamodule)
    with executing(execution, model, trainer):
        trainer.validate(model, datamodule=datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    skipped = datamodule.gather_skipped() if isinstance(datamodule, ReportsSkipped) else set[str]()
    outcomes = collected.outcomes
    return EvaluationResult(run, metrics, skipped, model, datamodule, outcomes, speed.stopwatch.images_per_second)
