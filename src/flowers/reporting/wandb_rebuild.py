"""Rebuild the lost part of a damaged `.wandb` file from the other files in the run's directory."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from wandb.proto.wandb_internal_pb2 import Record

from flowers.errors import InputError
from flowers.reporting.curves import read_rows
from flowers.reporting.wandb_log import item_name
from flowers.training.runs import Run

STEP = "trainer/global_step"
"""The step in Lightning's W&B logger. Its CSV logger calls it `step`."""


def rebuild(directory: Path, run_id: str, readable: Iterable[Record], parent: Path) -> Path | None:
    """Write an offline W&B run of the same id, with the metrics that are missing from the readable records.

    It has the configuration, the rows of metrics.csv (also those from before the run was resumed), and metrics.json as
    `best/...` in the summary. Images, tables and artifacts cannot be rebuilt.

    Args:
        directory: the run's directory.
        run_id: W&B's id of the run.
        readable: the readable records of the run's `.wandb` files.
        parent: the directory to write the offline run into.

    Returns:
        The offline run's directory; None if nothing is missing.

    Raises:
        InputError: there is nothing to rebuild from.
    """
    run, records = Run(directory), list(readable)
    logged = set(logged_metrics(records))
    summary = {item_name(item) for record in records for item in record.summary.update}
    try:
        config = run.config()
        rows = missing_rows(read_rows(run), logged)
        best = {name: value for name, value in read_best(run).items() if name not in summary}
        values: Any = OmegaConf.to_container(config, resolve=True)
    except (InputError, OSError, ValueError, csv.Error, OmegaConfBaseException) as error:
        raise InputError(f"cannot be rebuilt: {' '.join(str(error).split())}") from error
    if not rows and not best:
        if logged:
            return None
        raise InputError(f"cannot be rebuilt: {directory} has no metrics")
    exit_code = 0 if run.metrics_path.exists() else 1  # a training writes this file at its end
    with tempfile.TemporaryDirectory(dir=parent, prefix=".rebuilt-") as temporary:
        written = _write(Path(temporary), run_id, values, rows, best, exit_code)
        return written.rename(parent / written.name)


def logged_metrics(records: Iterable[Record]) -> Iterator[tuple[int, str]]:
    """Yield the step and the name of each metric in the history."""
    for record in records:
        values = {item_name(item): item.value_json for item in record.history.item}
        if STEP in values:
            step = int(float(values[STEP]))
            yield from ((step, name) for name in values)


def missing_rows(rows: Iterable[Mapping[str, str]], logged: set[tuple[int, str]]) -> list[tuple[int, dict[str, float]]]:
    """Return the step and the metrics of each row of metrics.csv, without the metrics that are already logged.

    A row may be truncated if the process was killed.
    """
    missing = []
    for row in rows:
        values = dict(_numbers(row))
        step = values.pop("step", None)
        if step is None:
            continue
        unlogged = {name: value for name, value in values.items() if (int(step), name) not in logged}
        if unlogged.keys() - {"epoch"}:
            missing.append((int(step), unlogged))
    return missing


def _numbers(row: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, text in row.items():
        with suppress(TypeError, ValueError):  # an empty or a missing field
            value = float(text)
            whole = name in ("step", "epoch") and math.isfinite(value)
            yield name, int(value) if whole else value


def read_best(run: Run) -> dict[str, float]:
    """Return the metrics of the best checkpoint as `best/...`; empty if the training has not written them."""
    if not run.metrics_path.exists():
        return {}
    metrics: dict[str, float | None] = json.loads(run.metrics_path.read_text())
    return {f"best/{name}": value for name, value in metrics.items() if "/" in name and value is not None}


def _write(
    directory: Path,
    run_id: str,
    config: dict[str, Any],
    rows: Iterable[tuple[int, dict[str, float]]],
    best: Mapping[str, float],
    exit_code: int,
) -> Path:
    """Write an offline run into `directory` as the training's logger would, and return the run's directory."""
    node = (config.get("logger") or {}).get("wandb") or {}
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
    names: dict[str, Any] = {name: node.get(name) for name in ("project", "entity", "group", "name", "tags")}
    logger = WandbLogger(save_dir=directory, id=run_id, mode="offline", settings=settings, **names)
    logger._wandb_init.pop("anonymous", None)  # W&B warns about the None that Lightning passes
    logger.log_hyperparams(config)
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    offline = logger.experiment
    offline.summary.update(best)
    offline.finish(exit_code=exit_code)
    wandb.teardown()  # waits until W&B's own process has written everything
    return Path(offline.settings.sync_dir)
