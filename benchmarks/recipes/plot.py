"""Plot macro F1 against time."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.recipes.summary import Summary
from flowers.system.atomic import atomic_path


def plot_scores(summary: Summary, directory: Path) -> list[Path]:
    """Plot each recipe's mean over seeds after each epoch as a line, and return the files written to `directory`."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for row in summary.rows:
        seconds, scores = zip(*((score.seconds, score.macro_f1) for score in row.by_epoch), strict=True)
        axes.plot(seconds, scores, marker="o", markersize=4, label=row.name)
    axes.set(xlabel="seconds since the process began", ylabel="macro F1", title=summary.title, xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    paths = [directory / f"macro-f1-{directory.name}.{suffix}" for suffix in ("svg", "png")]
    for path in paths:
        with atomic_path(path) as unfinished:
            figure.savefig(unfinished, format=path.suffix[1:], dpi=150)
    return paths
