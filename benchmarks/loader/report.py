"""Print the results of the loader benchmark."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from benchmarks.loader.result import LoaderBenchmark
from benchmarks.loader.work import NAMES

COMPARED = ("px", "task", *NAMES, *(f"/ {name}" for name in NAMES if name != "flowers"))
WIDE = 130
"""The least width of the table, in characters."""

_console = Console(soft_wrap=True, highlight=False)


def print_comparison(result: LoaderBenchmark) -> None:
    """Print the latest comparison as the next row of a table: images/s, and the ratios of `flowers` to the others."""
    comparison = result.comparisons[-1]
    medians, ratios = comparison.medians(), comparison.ratios()
    table = Table(
        *(Column(name, width=max(8, len(name)), justify="right", no_wrap=True) for name in COMPARED),
        box=None,
        show_header=len(result.comparisons) == 1,
    )
    table.add_row(
        str(comparison.image_size),
        comparison.task,
        *(f"{medians[name]:.0f}" if name in medians else "absent" if name in result.absent else "" for name in NAMES),
        *(f"{ratios[name]:.2f}" if name in ratios else "" for name in NAMES if name != "flowers"),
    )
    Console(width=max(_console.width, WIDE)).print(table)


def print_loader_benchmark(result: LoaderBenchmark, path: Path) -> None:
    """Print a legend of the table, the absent loaders, and the path of the results."""
    rounds = result.settings["rounds"]
    _console.print(f"Images/s and flowers / others: medians of {rounds} rounds on {result.cores} cores, {result.cpu}.")
    for name, reason in result.absent.items():
        _console.print(f"{name}: absent ({reason})", markup=False)
    _console.print(f"Results: {path}")
