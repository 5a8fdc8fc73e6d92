"""Offline W&B runs as trainings leave them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from pathlib import Path
from typing import Literal

import wandb
import yaml

AXIS = "trainer/global_step"
CONFIG = {
    "data": {"root": "garden"},
    "model": {"backbone": "tiny"},
    "paths": {"output_dir": "out"},
    "tags": ["a", "b"],
    "logger": {
        "wandb": {"project": "flowers", "entity": "botany", "group": "folds", "name": "first", "tags": "${tags}"}
    },
}
METRICS = {"val/loss": 0.25, "val/macro_f1": None, "plain": 1.0}


def log_run(
    directory: Path,
    run_id: str,
    steps: range,
    files: dict[str, str] | None = None,
    config: dict[str, str] | None = None,
    mode: Literal["offline", "online"] = "offline",
) -> Path:
    """Log `train/loss` = 10 * step and files as Lightning's logger does, and return the run's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    run = wandb.init(
        dir=directory, project="flowers", mode=mode, id=run_id, resume="allow", settings=settings, tags=["a", "b"]
    )
    run.define_metric(AXIS)
    run.define_metric("*", step_metric=AXIS, step_sync=True)
    run.config.update({"model": {"backbone": "tiny"}, **(config or {})})
    for step in steps:
        run.log({"train/loss": 10.0 * step, AXIS: step})
    for name, text in (files or {}).items():
        path = Path(run.dir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        run.save(str(path), base_path=run.dir, policy="end")
    run.finish()
    wandb.teardown()
    return Path(run.settings.sync_dir)


def copy_offline(source: Path, run: Path, begun: str = "20260101_000000", run_id: str | None = None) -> Path:
    """Copy an offline run into a run's directory, as if it had started at another time.

    With another id, its file still has the records of the original id.
    """
    run_id = run_id or source.name.rpartition("-")[2]
    target = run / "wandb" / f"offline-run-{begun}-{run_id}"
    shutil.copytree(source, target)
    find_wandb_file(target).rename(target / f"run-{run_id}.wandb")
    return target


def settle(file: Path) -> None:
    """Set a file's times to an hour ago, as if nothing had written to it since."""
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))


def find_wandb_file(directory: Path) -> Path:
    """Return the one `.wandb` file in a run's directory."""
    (path,) = directory.glob("*.wandb")
    return path


def write_results(run: Path, *parts: range, config: bool = True) -> None:
    """Write what a training leaves beside W&B's directory: its configuration and the metrics of each part."""
    run.mkdir(parents=True, exist_ok=True)
    if config:
        (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (run / "metrics.json").write_text(json.dumps(METRICS))
    for number, steps in enumerate(parts, 1):
        name = "metrics.csv" if number == len(parts) else f"metrics-until-{number}.csv"
        with (run / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "train/loss", "val/loss"])
            writer.writerows([0, step, 10.0 * step, ""] for step in steps)
