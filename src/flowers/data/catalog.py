"""Read the ids and labels of a data set, which folds and class balance need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.data.dataset import FlowersDataset
from flowers.errors import BadRecord
from flowers.progress import progress

TOGETHER = 1024
"""Records that are fetched at once, if they are remote."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The `numbers`, int64 `[N]`, `ids` and `labels`, int64 `[N]`, of readable records; the problems of the others."""

    numbers: NDArray[np.int64]
    ids: list[str]
    labels: NDArray[np.int64]
    problems: list[str]


def read_catalog(dataset: FlowersDataset) -> Catalog:
    """Read every record of a labelled data set once; images are not decoded.

    Raises:
        BadRecord: a record cannot be read, and bad records are not skipped.
    """
    numbers: list[int] = []
    ids: list[str] = []
    labels: list[int | None] = []
    problems: list[str] = []
    for number in progress(range(len(dataset)), "Reading labels", len(dataset)):
        if number % TOGETHER == 0:
            dataset.reader.prefetch(range(number, min(number + TOGETHER, len(dataset))))
        try:
            record = dataset.record(number)
        except BadRecord as error:
            if dataset.on_bad_record == "stop":
                raise
            problems.append(str(error))
            continue
        numbers.append(number)
        ids.append(record.id)
        labels.append(record.label)
    return Catalog(np.array(numbers, np.int64), ids, np.array(labels, np.int64), problems)
