"""One training from its configuration: what `python src/train.py` does."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from flowers.data.datamodule import FlowersDataModule
from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.models.classifier import FlowerClassifier, SchedulerFactory
from flowers.models.image_sizes import check_image_sizes
from flowers.system.atomic import remove_parts
from flowers.training.checkpoint_io import save_atomically
from flowers.training.distributed import closing_process_group
from flowers.training.limits import check_validation_interval
from flowers.training.random_state import SeedSteps
from flowers.training.resuming import ReportResume, TimeEachProcess, check_resumable
from flowers.training.runs import Run
from flowers.training.schedules import with_run_length

STEP_METRICS = ("train/loss_step", "train/learning_rate")
"""What is logged of single steps: none of a run's final metrics."""


@closing_process_group()
def train(config: DictConfig) -> tuple[Run, dict[str, float], set[str]]:
    """Train as configured. A W&B run is left open for the caller to finish: see `finished_wandb_run`.

    Returns:
        The run, its final metrics (those of the best checkpoint for the validation split), and what was
        wrong with each record that was skipped.

    Raises:
        InputError: bad data, weights or checkpoint; see the message.
    """
    run = Run(Path(config.paths.output_dir))
    L.seed_everything(config.seed, verbose=False)

    datamodule: FlowersDataModule = instantiate(config.data)
    datamodule.prepare_data()
    for split in ("train", "val"):
        datamodule.records(split)  # damaged shards are found here, before anything slow

    trainer = _make_trainer(config, run)
    _check_final_fit(trainer, datamodule)
    resumed = run.find_slurm_checkpoint() or (Path(config.ckpt_path) if config.ckpt_path is not None else None)
    with run.claimed(resumed):  # now that the trainer knows which process is the first
        return _fit(config, run, trainer, datamodule, resumed)


def _fit(
    config: DictConfig, run: Run, trainer: L.Trainer, datamodule: FlowersDataModule, resumed: Path | None
) -> tuple[Run, dict[str, float], set[str]]:
    images = len(datamodule.records("train"))
    batches = max(1, images // (config.data.batch_size * trainer.world_size))
    check_validation_interval(trainer, batches)
    model: FlowerClassifier = instantiate(
        config.model,
        class_names=datamodule.class_names,
        optimizer=instantiate(config.optimizer),
        scheduler=_schedule(config, batches),
        image_size=config.data.train_size,
    )
    sizes = {f"data.{name}": [config.data[name]] for name in ("train_size", "eval_size")}
    check_image_sizes(model.backbone, sizes)
    if resumed is not None:
        check_resumable(resumed, trainer, model, datamodule)
    run.write_config(config)  # now that nothing is refused
    _keep_earlier_metrics(run)
    _log_configuration(trainer, config)
    trainer.fit(model, datamodule=datamodule, ckpt_path=resumed)
    # Processes on other machines have composed a time-stamped directory of their own.
    run = Run(Path(trainer.strategy.broadcast(str(run.directory))))
    last = dict(trainer.callback_metrics)
    if not config.trainer.fast_dev_run:  # which leaves no checkpoint
        last |= _best_metrics(trainer, model, datamodule, run)
    metrics = {name: float(value) for name, value in last.items() if name not in STEP_METRICS}
    if trainer.is_global_zero and not config.trainer.fast_dev_run:
        run.write_metrics(metrics)
    return run, metrics, datamodule.gather_skipped()


def _make_trainer(config: DictConfig, run: Run) -> L.Trainer:
    callbacks = _instances(config.callbacks)
    trainer: L.Trainer = instantiate(
        config.trainer,
        callbacks=[*callbacks, SeedSteps(config.seed), TimeEachProcess(), ReportResume()],
        logger=_instances(config.logger),
        # Lightning would add its own where there is none.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        default_root_dir=str(run.directory),  # else SLURM goes on from what any run left in the working directory
    )
    save_atomically(trainer)
    return trainer


def _check_final_fit(trainer: L.Trainer, datamodule: FlowersDataModule) -> None:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if datamodule.train_on == "train+val" and any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise InputError(
            "callbacks.early_stopping: expected none with data.train_on=train+val, which leaves no validation. "
            "Set callbacks.early_stopping=null, and trainer.max_epochs to what another run was best at."
        )


@rank_zero_only
def _keep_earlier_metrics(run: Run) -> None:
    """Rename the metrics.csv of the run that is resumed here, which the CSV logger would delete.

    Remove what it was writing when it was killed.
    """
    for checkpoint in (run.best, run.last):
        remove_parts(checkpoint)
    if run.metrics_csv.exists():
        run.metrics_csv.rename(run.metrics_csv.with_name(f"metrics-until-{int(time.time())}.csv"))
    # Nothing is left to delete, though the directory is not empty.
    warnings.filterwarnings("ignore", message="Experiment logs directory")
    # Steps are counted over all epochs, so that short epochs are logged as well.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")


def _instances(group: DictConfig | None) -> list[Any]:
    return [instantiate(node) for node in group.values() if node is not None] if group else []


def _best_metrics(
    trainer: L.Trainer, model: FlowerClassifier, datamodule: FlowersDataModule, run: Run
) -> Mapping[str, Tensor]:
    """The validation metrics of the best checkpoint; a run without any validation makes its last the best."""
    best = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    # There is none yet, it is that of a run which this one was resumed from, or it was lost since.
    if best.resolve() != run.best.resolve() or not run.best.exists():
        trainer.save_checkpoint(run.best)
    if datamodule.train_on == "train+val":  # nothing is left to validate on
        return {}
    trainer.logger = None  # the epochs' own metrics are logged already
    trainer.validate(model, datamodule=datamodule, ckpt_path=run.best, verbose=False)
    return trainer.callback_metrics


def _schedule(config: DictConfig, batches: int) -> SchedulerFactory:
    trainer = config.trainer
    limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches")
    steps_per_epoch = math.ceil(limited(batches, limit) / trainer.accumulate_grad_batches)
    epochs = run_length(trainer.max_epochs, trainer.max_steps, steps_per_epoch)
    return with_run_length(instantiate(config.scheduler), steps_per_epoch, epochs)


def limited(batches: int, limit: int | float | None) -> int:
    """How many of an epoch's batches Lightning takes: `limit` of them (int), that share (float) or all (None)."""
    if limit is None:
        return batches
    return max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))


def run_length(max_epochs: int, max_steps: int, steps_per_epoch: int) -> float:
    """A run's epochs, of which -1 for either maximum means no bound.

    Raises:
        InputError: neither bounds it.
    """
    epochs = max_epochs if max_epochs >= 0 else math.inf
    steps = max_steps if max_steps >= 0 else math.inf
    length = min(epochs, steps / steps_per_epoch)
    if math.isinf(length):
        raise InputError(
            "trainer.max_epochs=-1: expected an end, as the learning rate's schedule has one, found none. Set "
            "trainer.max_epochs or trainer.max_steps."
        )
    return length


def _log_configuration(trainer: L.Trainer, config: DictConfig) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
