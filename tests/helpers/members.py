"""Made-up members of ensembles, and their predictions files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flowers.training.predictions import PredictionsWriter, Provenance

CLASSES = ["rose", "iris", "moon orchid"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a predictions file: ids, labels (None if the split has none) and probabilities float32 `[N, K]`."""

    ids: list[str]
    labels: list[int | None]
    probabilities: NDArray[np.float32]

    def take(self, order: Sequence[int]) -> Rows:
        """Return the rows at these positions, in this order."""
        return Rows([self.ids[row] for row in order], [self.labels[row] for row in order], self.probabilities[order])

    def shuffle(self, seed: int) -> Rows:
        """Return the same rows in another order."""
        return self.take(np.random.default_rng(seed).permutation(len(self.ids)).tolist())

    def remove_labels(self) -> Rows:
        """Return the same rows without labels, like those of a test split."""
        return replace(self, labels=[None] * len(self.ids))

    def replace_row(self, row: int, *, label: int | None = None, probabilities: Sequence[float] | None = None) -> Rows:
        """Return the same rows with one of them changed."""
        labels, changed = list(self.labels), self.probabilities.copy()
        if label is not None:
            labels[row] = label
        if probabilities is not None:
            changed[row] = probabilities
        return Rows(self.ids, labels, changed)


def make_rows(count: int, seed: int, *, first: int = 0, classes: int = len(CLASSES), skill: float = 2.0) -> Rows:
    """Return rows with ids from `first` on. `skill` raises the accuracy; the seed does not change the labels."""
    labels = [(first + row) * 7 % 11 % classes for row in range(count)]
    logits = np.random.default_rng((seed, first)).normal(size=(count, classes))
    logits[np.arange(count), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Rows([f"{first + row:09x}" for row in range(count)], list(labels), probabilities.astype(np.float32))


def write_file(path: Path, rows: Rows, class_names: Sequence[str] = CLASSES, **provenance: Any) -> Path:
    """Write a predictions file as `predict` does, and return its path."""
    values = {
        "run": str(path.parent),
        "split": path.stem,
        "image_size": 224,
        "tta": "none",
        "trained_on": "train",
        "weights": str(provenance.get("run", path.parent)),  # so that all members of a test are different models
    } | provenance
    with PredictionsWriter(path, class_names) as writer:
        writer.write(rows.ids, rows.labels, rows.probabilities)
        writer.finish(Provenance(class_names=list(class_names), **values))
    return path


def write_run(
    directory: Path,
    val: Rows,
    test: Rows | None = None,
    *,
    train: Rows | None = None,
    class_names: Sequence[str] = CLASSES,
    test_skipped: int = 0,
    **provenance: Any,
) -> str:
    """Write a run's directory with its predictions, and return it as `runs` lists it."""
    files = directory / "predictions"
    values = {"run": str(directory), "backbone": "resnet18"} | provenance
    write_file(files / "val.parquet", val, class_names, **values)
    if train is not None:
        write_file(files / "train.parquet", train, class_names, **values)
    if test is not None:
        write_file(files / "test.parquet", test.remove_labels(), class_names, **values, skipped=test_skipped)
    return str(directory)


def write_foreign(path: Path, rows: Rows, columns: Mapping[str, Any] | None = None) -> Path:
    """Write a predictions file like another program's: float64, no metadata. `columns` replace or extend its own."""
    own = dict(zip(CLASSES, rows.probabilities.T.astype(np.float64), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": rows.ids, "label": rows.labels, **own, **(columns or {})}), path)
    return path
