"""Read the ids and labels of a data set, for folds and class balance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowers.data.dataset import FlowersDataset
from flowers.errors import BadRecord
from flowers.progress import progress

PREFETCHED_RECORDS = 1024
"""Remote records that are fetched at once."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The ids and labels of a data set's readable records, and the problems of the others.

    numbers: the record numbers, int64 `[N]`.
    ids: the records' ids.
    labels: the records' labels, int64 `[N]`.
    problems: a message for each unreadable record.
    """

    numbers: NDArray[np.int64]
    ids: list[str]
    labels: NDArray[np.int64]
    problems: list[str]


def read_catalog(dataset: FlowersDataset) -> Catalog:
    """Read every record of a labelled data set once. Images are not decoded.

    Raises:
        BadRecord: a record cannot be read, and bad records are not skipped.
    """
    numbers: list[int] = []
    ids: list[str] = []
    labels: list[int | None] = []
    problems: list[str] = []
    for number in progress(range(len(dataset)), "Reading labels", len(dataset)):
        if number % PREFETCHED_RECORDS == 0:
            dataset.reader.prefetch(range(number, min(number + PREFETCHED_RECORDS, len(dataset))))
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
