"""What a command prints when it is done: the figures, where they are, how to look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Column, Table

from flowers.data.benchmark.result import LoaderBenchmark
from flowers.data.benchmark.work import NAMES
from flowers.training.benchmark import StepBenchmark
from flowers.training.runs import Run

SHOWN_SKIPS = 5
BENCHMARKED = ("device", "precision", "batch", "step ms", "images/s", "start s", "compile s", "compiled", "fallbacks")
COMPARED = ("px", "task", *NAMES, *(f"/ {name}" for name in NAMES if name != "flowers"))
WIDE = 110  # characters, for tables that no narrower terminal or file could hold

_console = Console(soft_wrap=True, highlight=False)


@rank_zero_only
def print_metrics(metrics: Mapping[str, float]) -> None:
    """A table of figures: a row a split, a column a figure."""
    splits = sorted({name.partition("/")[0] for name in metrics if "/" in name}, reverse=True)
    figures = [figure for figure in ("loss", "accuracy", "macro_f1") if any(f"{s}/{figure}" in metrics for s in splits)]
    table = Table("split", *figures)
    for split in splits:
        values = [metrics.get(f"{split}/{figure}") for figure in figures]
        if any(value is not None for value in values):
            table.add_row(split, *("" if value is None else f"{value:.4f}" for value in values))
    _console.print(table)


@rank_zero_only
def print_run(directory: Path) -> None:
    """Where a run is, and what can be done with it next; paths as short as they work from here."""
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    _console.print(f"Run directory:  {directory}")
    if not Run(directory).best.exists():
        return
    _console.print(f"Evaluate it:    python src/evaluate.py run={directory}")
    _console.print(f"Predict:        python src/predict.py run={directory} split=test")
    wandb = directory / "wandb"
    if any(wandb.glob("*run-*")):
        _console.print(f"Look at it:     wandb leet {wandb}")
    for offline in sorted(wandb.glob("offline-run-*"))[-1:]:
        _console.print(f"Put it online:  wandb login && wandb sync {offline}")


@rank_zero_only
def print_skipped(skipped: set[str]) -> None:
    """How many records were skipped, and the first few with the reason."""
    if not skipped:
        return
    _console.print(f"[bold]Skipped {len(skipped)} bad records or shards[/bold] (data.on_bad_record=skip):")
    for reason in sorted(skipped)[:SHOWN_SKIPS]:
        _console.print(f"  {reason}", markup=False)
    if len(skipped) > SHOWN_SKIPS:
        _console.print(f"  and {len(skipped) - SHOWN_SKIPS} more")


def print_written(files: list[Path], rows: int) -> None:
    """The files that hold `rows` predictions."""
    if not files:
        _console.print("fast_dev_run: one batch predicted, nothing written")
    for file in files:
        _console.print(f"Wrote {rows} rows: {file}")


@rank_zero_only
def print_step_benchmarks(results: Sequence[StepBenchmark], path: Path) -> None:
    """A table for each backbone and image size with a row a result, and the file that holds them."""
    tasks = dict.fromkeys((result.backbone, result.image_size) for result in results)
    for backbone, size in tasks:
        table = Table(*(Column(name, no_wrap=True) for name in BENCHMARKED), title=f"{backbone}, {size} px")
        for result in results:
            if (result.backbone, result.image_size) == (backbone, size):
                table.add_row(*_benchmark_row(result))
        Console(width=max(_console.width, WIDE)).print(table)
    _console.print(f"Results: {path} (a line each; lines from other machines may be added)")


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


def print_comparison(result: LoaderBenchmark) -> None:
    """The newest comparison as a row of a table that grows with each call: images/s, and `flowers` over the others."""
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
    """What the table's figures are, which contestants are not in it, and the file that holds all."""
    rounds = result.settings["rounds"]
    _console.print(f"Images/s and flowers / others: medians of {rounds} rounds on {result.cores} cores, {result.cpu}.")
    for name, reason in result.absent.items():
        _console.print(f"{name}: absent ({reason})", markup=False)
    _console.print(f"Results: {path}")
