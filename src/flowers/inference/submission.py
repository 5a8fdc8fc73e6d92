"""Write the submission: each test id once, with a class."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowers.system.atomic import atomic_path
from flowers.training.predictions import read_provenance, read_rows


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
