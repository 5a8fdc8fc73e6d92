"""Read the metrics of a run's epochs from its metrics.csv files."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flowers.training.runs import Run


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric's value after each epoch, counted from one."""

    epochs: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_curves(run: Run) -> dict[str, dict[str, Curve]]:
    """Return the metrics of a run's epochs, by metric and then by split; empty without a CSV logger."""
    points: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in read_rows(run):
        for name, value in row.items():
            split, _, metric = name.rpartition("/")
            if split and value and row.get("epoch"):
                points[metric][split][int(float(row["epoch"])) + 1] = float(value)
    return {
        metric: {split: _curve(values) for split, values in splits.items()} for metric, splits in sorted(points.items())
    }


def _curve(values: Mapping[int, float]) -> Curve:
    epochs = sorted(values)
    return Curve(epochs, [values[epoch] for epoch in epochs])


def read_rows(run: Run) -> Iterator[dict[str, str]]:
    """Yield the rows of the run's metrics files in order, including those from before it was resumed."""
    for path in run.find_metrics_csvs():
        with path.open(newline="") as file:
            yield from csv.DictReader(file)
