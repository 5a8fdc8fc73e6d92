"""One training from its configuration: what `python src/train.py` does."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from hydra.utils import instantiate
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from flowers.data.datamodule import FlowersDataModule
from flowers.models.classifier import FlowerClassifier, SchedulerFactory
from flowers.training.runs import Run, check_classes


def train(config: DictConfig) -> tuple[Run, dict[str, float], set[str]]:
    """Train as configured.

    Returns:
        The run, its final figures (those of the best checkpoint for the validation split), and what was
        wrong with each record that was skipped.

    Raises:
        InputError: bad data, weights or checkpoint; see the message.
    """
    run = Run(Path(config.paths.output_dir))
    run.write_config(config)
    # The CSV logger shares the run's directory, which therefore is not empty.
    warnings.filterwarnings("ignore", message="Experiment logs directory")
    L.seed_everything(config.seed, workers=True, verbose=False)

    datamodule: FlowersDataModule = instantiate(config.data)
    datamodule.prepare_data()
    if config.ckpt_path is not None:
        check_classes(Path(config.ckpt_path), datamodule.class_names)
    train_set = datamodule.dataset("train")  # damaged shards are found here, before anything slow
    datamodule.dataset("val")

    trainer: L.Trainer = instantiate(
        config.trainer, callbacks=_instances(config.callbacks), logger=_instances(config.logger)
    )
    steps_per_epoch = len(train_set) // (config.data.batch_size * trainer.world_size)
    model: FlowerClassifier = instantiate(
        config.model,
        class_names=datamodule.class_names,
        optimizer=instantiate(config.optimizer),
        scheduler=_schedule(config, max(1, steps_per_epoch // trainer.accumulate_grad_batches)),
    )
    _log_configuration(trainer, config)
    try:
        trainer.fit(model, datamodule=datamodule, ckpt_path=config.ckpt_path)
        figures = dict(trainer.callback_metrics)
        if not config.trainer.fast_dev_run:  # which leaves no checkpoint
            trainer.validate(model, datamodule=datamodule, ckpt_path="best", verbose=False)
            figures |= trainer.callback_metrics
    finally:
        wandb.finish()  # a multirun's next job starts a run of its own
    metrics = {name: float(value) for name, value in figures.items() if name != "train/loss_step"}
    if trainer.is_global_zero and not config.trainer.fast_dev_run:
        run.write_metrics(metrics)
    return run, metrics, datamodule.skipped


def _instances(group: DictConfig | None) -> list[Any]:
    return [instantiate(node) for node in group.values() if node is not None] if group else []


def _schedule(config: DictConfig, steps_per_epoch: int) -> SchedulerFactory:
    epochs = config.trainer.max_epochs
    if config.trainer.max_steps > 0:
        epochs = min(epochs or float("inf"), config.trainer.max_steps / steps_per_epoch)
    return functools.partial(instantiate(config.scheduler), steps_per_epoch=steps_per_epoch, epochs=epochs)


def _log_configuration(trainer: L.Trainer, config: DictConfig) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
