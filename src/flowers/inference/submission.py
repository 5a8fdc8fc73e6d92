"""Write decisions as CSV: the submission, and the most probable classes of photographs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowers.system.atomic import atomic_path
from flowers.training.predictions import read_provenance, read_rows

_RANKS = (("class", "probability"), ("second", "second_probability"), ("third", "third_probability"))


def decide(probabilities: NDArray[np.float32], offsets: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the best class of each row, int64 `[N]`, after adding offsets to the logarithms of the probabilities.

    Args:
        probabilities: float32 `[N, K]`.
        offsets: float64 `[K]`.
    """
    decisions: NDArray[np.int64] = (probabilities * np.exp(offsets).astype(np.float32)).argmax(-1)
    return decisions


def write_submission(predictions: Path, submission: Path, offsets: NDArray[np.float64] | None = None) -> int:
    """Write `id,label` for every row of a predictions file, atomically, and return the number of rows.

    Args:
        predictions: the predictions file.
        submission: the file to write.
        offsets: the offsets of the classes, float64 `[K]`; see `decide`. None: the most probable class is the label.

    Raises:
        InputError: the predictions file is missing or damaged.
    """
    classes = read_provenance(predictions).class_names
    added = np.zeros(len(classes)) if offsets is None else offsets
    rows = 0
    with atomic_path(submission) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "label"))
        for part in read_rows(predictions, classes):
            labels = decide(part.probabilities, added)
            writer.writerows(zip(part.ids.to_pylist(), labels.tolist(), strict=True))
            rows += len(labels)
    return rows


def write_best_classes(predictions: Path, path: Path) -> None:
    """Write the most probable classes of each row of a predictions file by name, atomically.

    The columns are `file`, `class`, `probability`, and for the next two classes `second`, `second_probability`,
    `third`, `third_probability`.

    Raises:
        InputError: the predictions file is missing or damaged.
    """
    classes = read_provenance(predictions).class_names
    ranks = _RANKS[: len(classes)]
    with atomic_path(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", *(name for rank in ranks for name in rank)])
        for part in read_rows(predictions, classes):
            best = np.argsort(-part.probabilities, axis=1, kind="stable")[:, : len(ranks)]
            for identity, row, chosen in zip(part.ids.to_pylist(), part.probabilities, best, strict=True):
                cells = ((classes[label], f"{row[label]:.4f}") for label in chosen)
                writer.writerow([identity, *(cell for pair in cells for cell in pair)])
