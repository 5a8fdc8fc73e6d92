"""Print the results of the recipe benchmark."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.recipes.plot import plot_scores
from benchmarks.recipes.run import Outcome
from benchmarks.recipes.summary import Row, Summary, read_summaries
from flowers.settings import Paths

WIDE = 150
"""The least width of the table, in characters."""

_console = Console(soft_wrap=True, highlight=False)


@dataclass(frozen=True, slots=True)
class SummarySettings:
    """The settings of `summarise`; configs/benchmark_recipes_summary.yaml explains each of them."""

    paths: Paths
    results: str
    reference: str


def print_absent(absent: Mapping[str, str]) -> None:
    """Print which recipes are left out, and why."""
    for name, reason in absent.items():
        _console.print(f"{name}: left out ({reason})", markup=False)


def print_outcome(outcome: Outcome) -> None:
    """Print the outcome of a training in one line."""
    line = f"{outcome.task.group}  {outcome.task.key}: {outcome.status}"
    if outcome.result is not None:
        result = outcome.result
        line += f", macro F1 {result.macro_f1:.4f}, accuracy {result.accuracy:.4f}, {result.wall_seconds:.0f} s"
    if outcome.reason:
        line += f": {outcome.reason}"
    _console.print(line, markup=False)


def print_summaries(
    results: Path, reference: str, groups: Collection[str] | None = None, names: Collection[str] | None = None
) -> None:
    """Print a table for each data set, resolution and number of epochs, and plot macro F1 against time.

    Args:
        results: the directory of all results.
        reference: the recipe that the others are compared with.
        groups: the subdirectories to summarise; None: all.
        names: the recipes to show besides the reference; None: all.

    Raises:
        InputError: a result is damaged, or results were measured on different images.
    """
    for directory, summary in read_summaries(results, reference, groups, names):
        Console(width=max(_console.width, WIDE)).print(make_table(summary))
        for path in plot_scores(summary, directory):
            _console.print(f"Plot: {path}")
    _console.print(f"Results: {results}")


def make_table(summary: Summary) -> Table:
    """Return a summary as a table, the best recipe first."""
    title = f"{summary.title}: macro F1 on {summary.image_count} validation images"
    table = Table(title=title, caption=f"Differences: to {summary.reference}, with 95 % intervals.")
    for name in ("recipe", "seeds", "macro F1", "spread", "difference", "", "seconds", "ratio", "s to reference"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("recipe", "") else "right")
    for row in summary.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    gain = row.gain
    return [
        row.name,
        str(len(row.seeds)),
        f"{row.macro_f1:.4f}",
        "" if row.spread is None else f"{row.spread:.4f}",
        "" if gain is None else f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]",
        "" if gain is None else "no difference seen" if gain.low <= 0 <= gain.high else _direction(gain.value),
        f"{row.seconds:.0f}",
        "" if row.seconds_ratio is None else f"{row.seconds_ratio:.2f}",
        "" if row.seconds_to_reference is None else f"{row.seconds_to_reference:.0f}",
    ]


def _direction(gain: float) -> str:
    return "better" if gain > 0 else "worse"
