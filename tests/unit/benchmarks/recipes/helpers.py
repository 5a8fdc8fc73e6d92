"""Results of recipes, made without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.recipes.result import Predictions, Recorder, Result, result_path, write_result
from benchmarks.recipes.task import Task


def make_task(name: str = "plain_loop", seed: int = 1, overrides: tuple[str, ...] = ()) -> Task:
    return Task(name, "plain_loop", Path("flowers3"), 192, 2, seed, Path("cache"), overrides)


def make_predictions(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Predictions:
    """Return predictions with the ids 0, 1, ... as text."""
    return Predictions([str(row) for row in range(len(labels))], labels, np.eye(classes, dtype=np.float32)[predicted])


def make_result(task: Task, *epochs: Predictions, seconds: float = 10.0) -> Result:
    """Return the result of a training whose epochs, and start and end, each took `seconds`."""
    recorder = Recorder(began=0.0)
    for epoch, predictions in enumerate(epochs, start=1):
        recorder.record(epoch, predictions, at=epoch * seconds)
    return recorder.finish(task, {}, ended=(len(epochs) + 1) * seconds)


def write(results: Path, task: Task, *epochs: Predictions, seconds: float = 10.0) -> Path:
    path = result_path(results, task)
    write_result(path, make_result(task, *epochs, seconds=seconds), epochs[-1])
    return path
