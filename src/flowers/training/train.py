"""Train a model as configured: what `python src/train.py` does."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.interfaces import LearnsFromTeacher, ReportsSkipped
from flowers.models.optimizers import OptimizerFactory, SchedulerFactory, configure
from flowers.settings import Node, Nodes, Paths, Seed, load_settings
from flowers.system.atomic import atomic_path, final_name, remove_parts
from flowers.targets import locate, parameters_of
from flowers.training.autotune import Choice
from flowers.training.checkpoint_io import check_kept_checkpoints
from flowers.training.collect_outcomes import CollectOutcomes
from flowers.training.continuing import FollowMove, StayStopped, check_same_run
from flowers.training.distributed import closing_process_group
from flowers.training.execution import Execution, executing
from flowers.training.learning_rate import LrScaling, count_images_per_step, scale_rate
from flowers.training.length import check_validation_interval, count_batches, count_run_batches, make_schedule
from flowers.training.lightning_trainer import TRAINER, make_all, make_trainer
from flowers.training.lightning_warnings import ignore_false_warnings
from flowers.training.monitor import CheckMonitor, Monitor, check_monitors
from flowers.training.outcomes import Outcomes
from flowers.training.pair import MODEL, check_data, check_model, check_testable, has_validation, make_data, make_model
from flowers.training.random_state import SeedSteps
from flowers.training.resuming import ReportResume, ResumeNextEpoch, TimeEachProcess, check_resumable
from flowers.training.runs import Run
from flowers.training.teachers import describe_teacher, find_teacher, load_teacher
from flowers.training.tuning import RecordChoice, choose_execution, configure_choice, keep_execution, write_tuning

log = logging.getLogger(__name__)

STEP_METRICS = ("train/loss_step", "train/learning_rate", "train/gradient_norm")
"""Metrics that are logged for single steps. They are not among a run's final metrics."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The settings of `python src/train.py`.

    data, model: any LightningDataModule and any LightningModule; see `flowers.interfaces`.
    optimizer, scheduler: factories (`_partial_: true`), given to models whose signature has parameters of these names.
    lr_scaling: how `optimizer.lr`, meant for 32 images per step, scales with the global batch; see `scale_rate`.
    ckpt_path: the checkpoint to resume from.
    resume: continue the run in this directory: a finished one is left as it is, one with a last checkpoint is
        resumed, and one without is started.
    test: run the model's `test_step` with the best checkpoint after training.
    report: write report/index.html into the run's directory after training.
    """

    data: Node
    model: Node
    optimizer: Node
    scheduler: Node | None
    lr_scaling: LrScaling | None
    trainer: Node
    monitor: Monitor
    callbacks: Nodes
    logger: Nodes
    paths: Paths
    task_name: str
    tags: list[str]
    seed: Seed
    ckpt_path: str | None
    resume: bool
    test: bool
    report: bool


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training.

    run: the run's directory.
    metrics: the final metrics by name. The validation metrics are those of the best checkpoint.
    skipped: why each skipped record was skipped.
    model: the model with the weights of the best checkpoint.
    datamodule: the data module of the training.
    outcomes: the best checkpoint's predictions of the validation split, if the model returns them; see
        `CollectOutcomes`.
    loggers: the loggers of the training.
    steps: the total number of optimizer steps.
    """

    run: Run
    metrics: dict[str, float]
    skipped: set[str]
    model: L.LightningModule
    datamodule: L.LightningDataModule
    outcomes: Outcomes | None
    loggers: list[Logger]
    steps: int


RULES = {"trainer": TRAINER, "model": MODEL}


@closing_process_group()
def train(config: DictConfig) -> TrainingResult:
    """Train a model as configured.

    A W&B run stays open. The caller finishes it: see `finished_wandb_run`.

    Raises:
        InputError: bad settings, data, weights or checkpoint; see the message.
    """
    settings = load_settings(TrainSettings, config, RULES)
    check_settings(settings)
    run = Run(Path(settings.paths.output_dir))
    if settings.resume:
        check_same_run(run, config)
    L.seed_everything(settings.seed, verbose=False)

    trainer = _make_trainer(settings, run)
    datamodule = make_data(settings.data)
    check_data(datamodule)
    check_testable(settings.test, settings.model, datamodule)
    datamodule.prepare_data()
    datamodule.setup("fit")  # damaged shards are found here, before anything slow
    _check_final_fit(trainer, datamodule)
    resumed = _find_resumed(settings, run)
    again = settings.resume and (settings.callbacks or {}).get("last_checkpoint") is not None
    with run.claim(resumed, again=again):  # only now does the trainer know which process is the first
        try:
            return _fit(config, settings, run, trainer, datamodule, resumed)
        except MisconfigurationException as error:
            raise InputError(" ".join(str(error).split())) from error


def _find_resumed(settings: TrainSettings, run: Run) -> Path | None:
    """Return the checkpoint to resume from. The run's own is further than the one that the run was started from."""
    own = run.find_last_checkpoint() if settings.resume else run.find_slurm_checkpoint()
    return own or (Path(settings.ckpt_path) if settings.ckpt_path is not None else None)


def check_settings(settings: TrainSettings) -> None:
    """Raise `InputError` for inconsistent settings, before any data are read or weights are loaded."""
    check_monitors(settings.monitor, settings.callbacks, settings.model)
    check_kept_checkpoints(settings.callbacks)
    find_teacher(settings.model)
    for key, node in (("optimizer", settings.optimizer), ("scheduler", settings.scheduler)):
        if node is not None and node.get("_partial_") is not True:
            found = node.get("_partial_")
            raise InputError(f"{key}._partial_: expected true, because the model calls the factory, found {found}.")
    # An optimizer checks the ranges of its arguments when it is created.
    schedule = make_schedule(settings.scheduler, settings.trainer, batches=1) if settings.scheduler else None
    configure(instantiate("optimizer", settings.optimizer), schedule, [nn.Parameter(torch.zeros(1))])


def _fit(
    config: DictConfig,
    settings: TrainSettings,
    run: Run,
    trainer: L.Trainer,
    datamodule: L.LightningDataModule,
    resumed: Path | None,
) -> TrainingResult:
    batches = count_batches(datamodule, trainer.world_size)
    if batches is not None:
        check_validation_interval(trainer, batches)
    images = count_images_per_step(datamodule, trainer)
    found = find_teacher(settings.model)
    teacher = None if found is None else load_teacher(found, datamodule)
    model = make_model(settings.model, datamodule, **_make_factories(settings, batches, images))
    check_model(model, datamodule)
    if teacher is not None and isinstance(model, LearnsFromTeacher):
        rank_zero_only(log.info)("Teacher: %s", describe_teacher(teacher))
        model.learn_from(teacher)
    if resumed is None:
        execution, choice = _find_execution(settings, run, trainer, model, datamodule, batches)
    else:
        checkpoint = check_resumable(resumed, trainer, model, datamodule, complete=settings.resume)
        execution, choice = keep_execution(settings.trainer, trainer, datamodule, resumed, checkpoint.choice)
    if choice is not None:
        _callbacks(trainer).insert(0, RecordChoice(choice))
        config = configure_choice(config, choice)
    run.set_metrics_aside()  # all checks have passed
    run.write_config(config)
    _remove_incomplete_checkpoints(run)
    ignore_false_warnings(model, datamodule)
    _log_configuration(trainer, config)
    loggers = list(trainer.loggers)
    with executing(execution, model, trainer):
        trainer.fit(model, datamodule=datamodule, ckpt_path=resumed)
        # Processes on other machines have composed their own time-stamped directory.
        run = Run(Path(trainer.strategy.broadcast(str(run.directory))))
        last = dict(trainer.callback_metrics)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # it saves no checkpoint
            last |= _best_metrics(trainer, model, datamodule, run)
        if settings.test:
            best = run.best if run.best.exists() else None
            trainer.test(model, datamodule=datamodule, ckpt_path=best, verbose=False)
            last |= trainer.callback_metrics
    metrics = {name: float(value) for name, value in last.items() if name not in STEP_METRICS}
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        (timed,) = (callback for callback in _callbacks(trainer) if isinstance(callback, TimeEachProcess))
        run.write_metrics(metrics, cut_short=timed.cut_short)
    skipped = datamodule.gather_skipped() if isinstance(datamodule, ReportsSkipped) else set[str]()
    (collected,) = (callback for callback in _callbacks(trainer) if isinstance(callback, CollectOutcomes))
    return TrainingResult(run, metrics, skipped, model, datamodule, collected.outcomes, loggers, trainer.global_step)


def _find_execution(
    settings: TrainSettings,
    run: Run,
    trainer: L.Trainer,
    model: L.LightningModule,
    datamodule: L.LightningDataModule,
    batches: int | None,
) -> tuple[Execution, Choice | None]:
    """Return how to run the steps of a new training, and the choice if it is tuned."""
    length = count_run_batches(settings.trainer, batches)
    parts = (trainer, model, datamodule, datamodule.train_dataloader)
    execution, tuning = choose_execution("fit", settings.trainer, *parts, length)
    if tuning is None:
        return execution, None
    write_tuning(run.directory, tuning)
    return execution, tuning.choice


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _make_factories(
    settings: TrainSettings, batches: int | None, images: int | None
) -> dict[str, OptimizerFactory | SchedulerFactory]:
    """Create the optimizer and scheduler factories that the model's signature asks for."""
    taken, _ = parameters_of(locate(settings.model["_target_"], "model"))
    factories: dict[str, Any] = {}
    if "optimizer" in taken:
        factories["optimizer"] = instantiate("optimizer", scale_rate(settings.optimizer, settings.lr_scaling, images))
    if "scheduler" in taken:
        node = settings.scheduler
        factories["scheduler"] = None if node is None else make_schedule(node, settings.trainer, batches)
    return factories


def _make_trainer(settings: TrainSettings, run: Run) -> L.Trainer:
    callbacks = make_all("callbacks", settings.callbacks)
    own = [SeedSteps(settings.seed), TimeEachProcess(), ResumeNextEpoch(), ReportResume(), FollowMove()]
    if settings.resume:
        own.append(StayStopped())
    if callbacks:
        own.append(CheckMonitor(settings.monitor.metric))
    loggers = make_all("logger", settings.logger)
    # CollectOutcomes comes first, because other callbacks use what it collects.
    return make_trainer(settings.trainer, [CollectOutcomes(), *callbacks, *own], loggers, run.directory)


def _check_final_fit(trainer: L.Trainer, datamodule: L.LightningDataModule) -> None:
    if not has_validation(datamodule) and any(isinstance(callback, EarlyStopping) for callback in _callbacks(trainer)):
        train_on = getattr(datamodule, "train_on", None)
        without = f"data.train_on={train_on}, which leaves no validation" if train_on else "data without validation"
        raise InputError(
            f"callbacks.early_stopping: expected none with {without}. "
            "Set callbacks.early_stopping=null, and trainer.max_epochs to the best epoch of another run."
        )


@rank_zero_only
def _remove_incomplete_checkpoints(run: Run) -> None:
    """Remove checkpoints that were incomplete when the run was killed."""
    for part in run.best.parent.glob("*.part"):
        remove_parts(part.with_name(final_name(part.name)))


def find_best_checkpoint(trainer: L.Trainer) -> str:
    """Return the path of the best checkpoint, or an empty one, of the first callback that keeps the best.

    Lightning's `checkpoint_callback` is the first of any kind.
    """
    found = (getattr(callback, "best_model_path", None) for callback in trainer.checkpoint_callbacks)
    return next((str(path) for path in found if path is not None), "")


def _best_metrics(
    trainer: L.Trainer, model: L.LightningModule, datamodule: L.LightningDataModule, run: Run
) -> Mapping[str, Tensor]:
    """Return the validation metrics of the best checkpoint.

    Without a validation split, the last weights are saved as the best, and there are no metrics.
    """
    best = Path(find_best_checkpoint(trainer))
    # There is no best checkpoint yet, it belongs to the run that this one was resumed from, or it was deleted.
    if best.parent.resolve() != run.best.parent.resolve() or not best.is_file():
        trainer.save_checkpoint(run.best)
    elif best.name != run.best.name and trainer.is_global_zero:
        with atomic_path(run.best) as unfinished:
            shutil.copy(best, unfinished)
    trainer.strategy.barrier()
    if not has_validation(datamodule):
        return {}
    trainer.logger = None  # the metrics of each epoch are already logged
    trainer.validate(model, datamodule=datamodule, ckpt_path=run.best, verbose=False)
    return trainer.callback_metrics


def _log_configuration(trainer: L.Trainer, config: DictConfig) -> None:
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLogger):  # config.yaml is already in its directory
            composed: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
            logger.log_hyperparams(composed | {"device": trainer.strategy.root_device.type})
