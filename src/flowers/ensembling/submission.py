"""The submission: each test id once, with the class that is most probable."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from flowers.ensembling.predictions import read_provenance


def write_submission(predictions: Path, submission: Path) -> int:
    """Write `id,label` for every row of a predictions file, whole or not at all; the number of rows."""
    classes = read_provenance(predictions).class_names
    unfinished = submission.with_name(submission.name + ".part")
    rows = 0
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "label"))
        for batch in pq.ParquetFile(predictions).iter_batches():
            probabilities = np.stack([batch.column(name).to_numpy() for name in classes], axis=1)
            writer.writerows(zip(batch.column("id").to_pylist(), probabilities.argmax(axis=1).tolist(), strict=True))
            rows += len(batch)
    unfinished.replace(submission)
    return rows
