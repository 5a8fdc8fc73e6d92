"""Store the result of one training: scores and times by epoch, and the last epoch's predictions by id."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from benchmarks.recipes.task import Recipe, Task
from flowers.ensembling.scores import macro_f1
from flowers.errors import InputError
from flowers.system.atomic import open_atomic, write_atomic


@dataclass(frozen=True, slots=True)
class EpochScore:
    """The validation scores after an epoch, and the seconds since the start of the training's process."""

    epoch: int
    seconds: float
    macro_f1: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of the validation split: `ids`, `labels` int64 `[N]`, `probabilities` float32 `[N, K]`."""

    ids: Sequence[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the most probable class of each image, int64 `[N]`."""
        labels: NDArray[np.int64] = self.probabilities.argmax(1)
        return labels

    def scores(self) -> tuple[float, float]:
        """Return macro F1 and accuracy."""
        score = macro_f1(self.labels, self.predicted, self.probabilities.shape[1])
        return score, float((self.predicted == self.labels).mean())


@dataclass(frozen=True, slots=True)
class Result:
    """A finished training.

    name: the name of the recipe, or of the variant of the default recipe.
    macro_f1, accuracy: the scores of the last epoch.
    wall_seconds: the time from the start of the process to the end of the training.
    images_trained: the number of images in all training steps.
    machine: the processor, its cores and the versions of packages.
    """

    name: str
    recipe: Recipe
    set_name: str
    image_size: int
    epochs: int
    seed: int
    overrides: list[str]
    macro_f1: float
    accuracy: float
    by_epoch: list[EpochScore]
    wall_seconds: float
    images_trained: int
    started: str
    machine: dict[str, Any]


@dataclass(slots=True)
class Recorder:
    """Collects the scores of a running training.

    began: the time at which its process started, in seconds as from `time.time()`.
    images_trained: the number of images in all training steps, counted by the recipe.
    """

    began: float
    images_trained: int = 0
    by_epoch: list[EpochScore] = field(default_factory=list)
    predictions: Predictions | None = None

    def record(self, epoch: int, predictions: Predictions, at: float | None = None) -> None:
        """Record the predictions after an epoch.

        Args:
            epoch: the epoch, counted from one.
            predictions: its predictions of the validation split.
            at: the time, in seconds as from `time.time()`; None: now.
        """
        seconds = (time.time() if at is None else at) - self.began
        self.by_epoch.append(EpochScore(epoch, seconds, *predictions.scores()))
        self.predictions = predictions

    def finish(self, task: Task, machine: Mapping[str, Any], ended: float) -> Result:
        """Return the result of a finished training.

        Args:
            task: the training's task.
            machine: a description of the machine.
            ended: the time at which the training ended, in seconds as from `time.time()`.

        Raises:
            RuntimeError: nothing was recorded.
        """
        if not self.by_epoch:
            raise RuntimeError(f"{task.name}: expected predictions after each epoch, found none")
        last = self.by_epoch[-1]
        return Result(
            name=task.name,
            recipe=task.recipe,
            set_name=task.set_name,
            image_size=task.image_size,
            epochs=task.epochs,
            seed=task.seed,
            overrides=list(task.overrides),
            macro_f1=last.macro_f1,
            accuracy=last.accuracy,
            by_epoch=self.by_epoch,
            wall_seconds=ended - self.began,
            images_trained=self.images_trained,
            started=datetime.fromtimestamp(self.began).isoformat(timespec="seconds"),
            machine=dict(machine),
        )


def result_path(results: Path, task: Task) -> Path:
    """Return the path of a task's result. The task is finished if this file exists."""
    return results / task.group / f"{task.key}.json"


def write_result(path: Path, result: Result, predictions: Predictions) -> None:
    """Write a result, and before it its predictions as NAME.npz: the file of the result marks the task as finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path.with_suffix(".npz")) as file:
        columns: dict[str, Any] = {
            "ids": np.array(predictions.ids, np.str_),
            "labels": predictions.labels,
            "probabilities": predictions.probabilities,
        }
        np.savez_compressed(file, **columns)
    write_atomic(path, json.dumps(asdict(result), indent=2) + "\n")


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        InputError: the file does not hold a result.
    """
    try:
        return TypeAdapter(Result).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: expected a result of `python -m benchmarks.recipes`, found "
            f"{str(error).partition(chr(10))[0]}. Remove the file, and run the benchmark again."
        ) from error


def read_predictions(path: Path) -> Predictions:
    """Read the predictions that belong to the result at a path.

    Raises:
        InputError: they are missing or damaged.
    """
    file = path.with_suffix(".npz")
    try:
        with np.load(file) as columns:
            return Predictions(columns["ids"].tolist(), columns["labels"], columns["probabilities"])
    except Exception as error:  # zipfile, zlib and NumPy raise different ones
        raise InputError(
            f"{file}: expected the predictions of {path.name}, found {type(error).__name__}: {error}. Remove both "
            "files, and run the benchmark again."
        ) from error
