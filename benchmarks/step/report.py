"""Print the measured training steps, including those of earlier runs and other machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Column, Table

from benchmarks.step.run import StepBenchmark

BENCHMARKED = ("device", "precision", "batch", "step ms", "images/s", "start s", "compile s", "compiled", "fallbacks")
WIDE = 110
"""The least width of the table, in characters."""

_console = Console(soft_wrap=True, highlight=False)


@rank_zero_only
def print_step_benchmarks(results: Sequence[StepBenchmark], path: Path) -> None:
    """Print a table for each backbone and image size, with a row for each result, and the path of the results."""
    tasks = dict.fromkeys((result.backbone, result.image_size) for result in results)
    for backbone, size in tasks:
        table = Table(*(Column(name, no_wrap=True) for name in BENCHMARKED), title=f"{backbone}, {size} px")
        for result in results:
            if (result.backbone, result.image_size) == (backbone, size):
                table.add_row(*_benchmark_row(result))
        Console(width=max(_console.width, WIDE)).print(table)
    _console.print(f"Results: {path} (one line each; you can add lines from other machines)")


def _benchmark_row(result: StepBenchmark) -> list[str]:
    late = f", {result.late_compilations} late" if result.late_compilations else ""
    return [
        result.device,
        result.precision,
        str(result.batch_size),
        f"{result.step_seconds * 1e3:.1f}",
        f"{result.images_per_second:.1f}",
        f"{result.start_seconds:.1f}",
        "" if result.compile_seconds is None else f"{result.compile_seconds:.1f}",
        "" if result.compilations is None else f"{result.compilations}{late}",
        "" if result.fallbacks is None else str(result.fallbacks),
    ]
