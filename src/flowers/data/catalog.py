"""The ids and labels of a data set: what class-balanced sampling and folds go by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.data.dataset import FlowersDataset
from flowers.errors import BadRecord
from flowers.progress import progress

TOGETHER = 1024
"""Records that are fetched at once, where they are not local."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The `numbers`, int64 `[N]`, `ids` and `labels`, int64 `[N]`, of what can be read; what is wrong with the rest."""

    numbers: NDArray[np.int64]
    ids: list[str]
    labels: NDArray[np.int64]
    faults: list[str]


def read_catalog(dataset: FlowersDataset) -> Catalog:
    """Read every record of a labelled data set once; pictures are not decoded.

    Raises:
        BadRecord: a record cannot be read, and bad records are not skipped.
    """
    numbers: list[int] = []
    ids: list[str] = []
    labels: list[int | None] = []
    faults: list[str] = []
    for number in progress(range(len(dataset)), "Reading labels", len(dataset)):
        if number % TOGETHER == 0:
            dataset.reader.prefetch(range(number, min(number + TOGETHER, len(dataset))))
        try:
            record = dataset.record(number)
        except BadRecord as error:
            if dataset.on_bad_record == "stop":
                raise
            faults.append(str(error))
            continue
        numbers.append(number)
        ids.append(record.id)
        labels.append(record.label)
    return Catalog(np.array(numbers, np.int64), ids, np.array(labels, np.int64), faults)
