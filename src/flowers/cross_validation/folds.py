"""Train the folds, each in a process of its own, and predict them."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from flowers.cross_validation.plan import Plan, fold_overrides
from flowers.data.datamodule import FlowersDataModule
from flowers.data.layout import Split, list_shards
from flowers.errors import InputError
from flowers.inference.predict import predict
from flowers.settings import quote
from flowers.system.atomic import remove_parts
from flowers.system.paths import shorten
from flowers.system.programs import find_error, run_program
from flowers.system.termination import Terminated
from flowers.training.runs import Run

log = logging.getLogger(__name__)


def train_folds(plan: Plan) -> None:
    """Train all folds that are not trained yet, one after the other.

    Raises:
        InputError: a training fails, or a fold's directory has the results of other settings.
    """
    for fold in range(plan.settings.folds):
        run = plan.run(fold)
        run.wait_until_unused()
        if run.metrics_path.exists():
            log.info("Fold %d of %d: trained already", fold, plan.settings.folds)
        else:
            _train(plan, fold)
        _check_same_recipe(plan, run)


def _train(plan: Plan, fold: int) -> None:
    run, folds = plan.run(fold), plan.settings.folds
    run.directory.mkdir(exist_ok=True)
    console = run.directory / "console.log"
    arguments = [*plan.call.overrides, *fold_overrides(folds, fold), "resume=true"]
    arguments.append(f"hydra.run.dir={quote(str(run.directory))}")
    if "group" in (wandb := (plan.settings.logger or {}).get("wandb") or {}) and wandb["group"] is None:
        arguments.append(f"logger.wandb.group={quote('-'.join(plan.directory.parts[-2:]))}")
    log.info("Fold %d of %d: training, log in %s", fold, folds, shorten(console))
    start = console.stat().st_size if console.exists() else 0
    try:
        status = run_program([*plan.call.train, *arguments, "hydra.mode=RUN"], console, _echo)
    except Terminated as end:
        where = f" in the training of fold {fold}. Continue with: {plan.call.command}"
        raise Terminated(end.number, where) from None
    if status or not run.metrics_path.exists():
        raise InputError(_describe_failure(plan, fold, status, console, start))


def _echo(output: str) -> None:
    sys.stdout.write(output)
    sys.stdout.flush()


def _describe_failure(plan: Plan, fold: int, status: int, console: Path, start: int) -> str:
    with console.open("rb") as file:
        file.seek(start)
        output = file.read().decode(errors="replace")
    if status < 0:
        reason = f"it was killed by {signal.Signals(-status).name}, most often because the machine ran out of memory."
    else:
        reason = find_error(output) or f"it ended with status {status}."
    return (
        f"fold {fold}: expected a finished training, found that it failed: {reason}\n"
        f"Its output is in {shorten(console)}. When the reason is fixed, continue with: {plan.call.command}"
    )


def _check_same_recipe(plan: Plan, run: Run) -> None:
    """Raise `InputError` if a fold was trained with other settings: configurations may have changed in between."""
    if run.recipe() != plan.recipe:
        raise InputError(
            f"{run.config_path}: expected the settings of this cross-validation, found others: a file in configs/ has "
            "changed since this fold was trained, or another run was copied here. Set output to a new directory."
        )


def predict_folds(plan: Plan) -> list[Split]:
    """Predict val, and test if the data set has it, with each fold's model. Return the predicted splits.

    Finished predictions are not repeated.
    """
    splits: list[Split] = ["val", "test"] if has_test(plan.make_data()) else ["val"]
    for fold in range(plan.settings.folds):
        run = plan.run(fold)
        for split in splits:
            if not run.predictions(split).exists():
                log.info("Fold %d of %d: predicting %s", fold, plan.settings.folds, split)
                remove_parts(run.predictions(split))  # of a process that was killed here
                config = _compose(plan, "predict", run, f"split={split}")
                predict(config)
    return splits


def has_test(datamodule: L.LightningDataModule) -> bool:
    """Return whether a data set has a test split. Other data modules than ours have one if they have its loader."""
    if isinstance(datamodule, FlowersDataModule):
        return bool(list_shards(datamodule.root, "test", datamodule.image_size))
    return type(datamodule).test_dataloader is not L.LightningDataModule.test_dataloader


def _compose(plan: Plan, command: str, run: Run, *overrides: str) -> DictConfig:
    """Compose the configuration of a command that uses a fold's run.

    The run's configuration is trusted: its recipe is that of the user's own overrides.
    """
    config = plan.compose(command, [f"run={quote(str(run.directory))}", "trust=true", *overrides])
    OmegaConf.update(config, "trainer", plain_trainer(plan.settings.trainer), merge=False, force_add=True)
    return config


def plain_trainer(node: dict[str, Any]) -> dict[str, Any]:
    """Return a training's trainer reduced to one device, without limits and schedules, as predictions need it.

    A strategy that is a node, as XLA's, keeps its devices: it is one process on all of them.
    """
    kept = {key: node[key] for key in ("_target_", "accelerator", "precision", "plugins") if key in node}
    if isinstance(node.get("strategy"), dict):
        return kept | {"strategy": node["strategy"], "devices": node.get("devices", "auto")}
    devices = node.get("devices")
    return kept | {"devices": devices[:1] if isinstance(devices, list) else 1}
