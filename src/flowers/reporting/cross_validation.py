"""Print the results of a cross-validation."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from flowers.cross_validation.cross_validate import CrossValidation
from flowers.system.paths import shorten

_console = Console(soft_wrap=True, highlight=False)


def print_cross_validation(result: CrossValidation, report: Path | None) -> None:
    """Print a table of the folds' metrics and their summary, the out-of-fold macro F1, and the written files."""
    _console.print(_table(result))
    own, (images, tests) = result.macro_f1, result.ensemble.rows
    interval = f"{own.low:.3f} to {own.high:.3f}, 95 % by bootstrap of {images} images"
    _console.print(f"Out-of-fold macro F1: {own.value:.4f} ({interval})")
    _console.print("The intervals over folds are too narrow, as the folds share images (docs/cross-validation.md).")
    for file in [*result.files, *([] if report is None else [report])]:
        _console.print(f"Wrote {shorten(file)}", markup=False)
    if not tests:
        _console.print("The data set has no test split, so there is no submission.")


def _table(result: CrossValidation) -> Table:
    """Make a table with a column for each metric of the monitored split, the monitored one last."""
    split = result.monitored.rpartition("/")[0]
    names = [name for name in result.spreads if name.rpartition("/")[0] == split and name != result.monitored]
    names += [result.monitored] if result.monitored in result.spreads else []
    columns = [Column(name.rpartition("/")[2], justify="right", no_wrap=True) for name in names]
    table = Table(Column("fold", no_wrap=True), *columns)
    for fold, metrics in enumerate(result.folds):
        last = fold == len(result.folds) - 1
        table.add_row(str(fold), *(f"{metrics[name]:.4f}" for name in names), end_section=last)
    spreads = [result.spreads[name] for name in names]
    table.add_row("mean", *(f"{own.mean:.4f}" for own in spreads))
    table.add_row("std. deviation", *(f"{own.deviation:.4f}" for own in spreads))
    table.add_row("95 % interval", *(f"{own.low:.4f} to {own.high:.4f}" for own in spreads))
    return table
