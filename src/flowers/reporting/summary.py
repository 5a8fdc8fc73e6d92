"""Print the results of a command: metrics, paths of the written files, and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from flowers.settings import typed
from flowers.system.paths import shorten
from flowers.training.autotune import loader_headroom
from flowers.training.runs import Run

SHOWN_SKIPS = 5
"""Skipped records that are printed."""

_console = Console(soft_wrap=True, highlight=False)


@rank_zero_only
def print_metrics(metrics: Mapping[str, float], monitored: str) -> None:
    """Print a table of metrics: a row for each split, a column for each metric of the monitored split.

    Args:
        metrics: the metrics by name, such as `val/accuracy`. Names without a split share a row.
        monitored: the name of the metric that decided on the best checkpoint. Its column comes last.
    """
    table_split, _, last = monitored.rpartition("/")
    names = [name.rpartition("/")[2] for name in metrics if name.rpartition("/")[0] == table_split]
    names = [*dict.fromkeys(name for name in names if name != last), *([last] if last in names else [])]
    names = names or list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
    table = Table("split", *names)
    for split in sorted({name.rpartition("/")[0] for name in metrics}, reverse=True):
        values = [metrics.get(f"{split}/{name}" if split else name) for name in names]
        if any(value is not None for value in values):
            table.add_row(split, *("" if value is None else f"{value:.4f}" for value in values))
    _console.print(table)


@rank_zero_only
def print_finished(directory: Path) -> None:
    """Print that a run is finished, so that nothing is trained."""
    _console.print(f"Finished already: {shorten(directory)}", markup=False)


@rank_zero_only
def print_headroom(metrics: Mapping[str, float]) -> None:
    """Print how much faster a training would be that never waits for a batch, if `train/loader_wait` is known."""
    gain = loader_headroom(metrics.get("train/loader_wait"))
    if gain is not None:
        _console.print(
            f"Headroom:       {gain:.2f} times as fast with a perfect loader "
            f"({1 - 1 / gain:.1%} of the last epoch was spent waiting for batches)"
        )


@rank_zero_only
def print_speed(images_per_second: float | None) -> None:
    """Print the speed of an evaluation or a prediction, if it is known."""
    if images_per_second is not None:
        _console.print(f"Speed: {images_per_second:.1f} images/s")


@rank_zero_only
def print_run(directory: Path) -> None:
    """Print a run's directory and the commands that use it, with paths relative to the working directory."""
    directory = shorten(directory)
    _console.print(f"Run directory:  {directory}", markup=False)
    if not Run(directory).best.exists():
        return
    if (report := Run(directory).report).exists():
        _console.print(f"Look at it:     {report}", markup=False)
    run = typed("run", directory)
    _console.print(f"Evaluate it:    python src/evaluate.py {run}", markup=False)
    _console.print(f"Predict:        python src/predict.py {run} split=test", markup=False)
    wandb = directory / "wandb"
    if any(wandb.glob("*run-*")):
        _console.print(f"In a terminal:  wandb leet {shlex.quote(str(wandb))}", markup=False)
    if any(wandb.glob("offline-run-*")):
        _console.print(f"Put it online:  wandb login && python src/sync.py {typed('runs', directory)}", markup=False)


@rank_zero_only
def print_skipped(skipped: set[str]) -> None:
    """Print how many records were skipped, and the first few with the reason."""
    if not skipped:
        return
    _console.print(f"[bold]Skipped {len(skipped)} bad records or shards[/bold] (data.on_bad_record=skip):")
    for reason in sorted(skipped)[:SHOWN_SKIPS]:
        _console.print(f"  {reason}", markup=False)
    if len(skipped) > SHOWN_SKIPS:
        _console.print(f"  and {len(skipped) - SHOWN_SKIPS} more")


def print_written(files: list[Path], rows: int) -> None:
    """Print the paths of the files that `rows` predictions were written to."""
    if not files:
        _console.print("fast_dev_run: one batch predicted, nothing written")
    for file in files:
        _console.print(f"Wrote {rows} rows: {file}")


@rank_zero_only
def print_written_report(path: Path) -> None:
    """Print the path of a written report."""
    _console.print(f"Look at it: {shorten(path)}", markup=False)
