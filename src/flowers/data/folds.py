"""Assign labelled records to stratified folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from flowers.errors import InputError


def assign_folds(ids: Sequence[str], labels: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each record to a stratified fold.

    The sizes of the folds, and the counts of each class in them, differ by at most one record. The folds depend only on
    the set of (id, label) pairs and the seed: they are the same at every resolution and for any order of the records.

    Args:
        ids: the records' ids.
        labels: the records' labels, int64 `[N]`.
        folds: the number of folds.
        seed: the seed of the assignment.

    Returns:
        Each record's fold, from 0 to `folds - 1`, int64 `[N]`.

    Raises:
        InputError: `folds` is below 2 or above the number of records, or an id occurs twice.
    """
    if not 2 <= folds <= len(ids):
        raise InputError(f"folds={folds}: expected from 2 to {len(ids)}, the number of records. Choose another.")
    identity, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"id {identity}: expected each record once, found it {times} times. Remove the duplicate shard."
        )
    keys = [(label, _digest(identity, seed)) for identity, label in zip(ids, labels.tolist(), strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    fold = np.empty(len(ids), np.int64)
    # Round-robin over all classes: restarting each class at fold 0 would make the first folds larger.
    fold[order] = np.arange(len(ids)) % folds
    return fold


def _digest(identity: str, seed: int) -> bytes:
    return blake2b(f"{seed} {identity}".encode(), digest_size=16).digest()
