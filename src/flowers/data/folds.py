"""Assign labelled records to stratified folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from flowers.errors import InputError


def assign_folds(ids: Sequence[str], labels: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each record a fold from 0 to `folds - 1`, int64 `[N]`, by the records' ids and labels, int64 `[N]`.

    The folds are as large as each other, and have as many of each class, but for one record. They depend on
    the set of (id, label) and the seed only, so every resolution and any order of the records have the same.

    Raises:
        InputError: `folds` is below 2 or above the number of records, or an id is there twice.
    """
    if not 2 <= folds <= len(ids):
        raise InputError(f"folds={folds}: expected from 2 to {len(ids)}, one record a fold. Choose another number.")
    identity, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"id {identity}: expected each record once, found it {times} times. Remove the shard that is there twice."
        )
    cards = [(label, _digest(identity, seed)) for identity, label in zip(ids, labels.tolist(), strict=True)]
    deck = sorted(range(len(cards)), key=cards.__getitem__)
    fold = np.empty(len(ids), np.int64)
    # Dealt on from class to class: with each class begun at fold 0, the first folds would be the larger ones.
    fold[deck] = np.arange(len(ids)) % folds
    return fold


def _digest(identity: str, seed: int) -> bytes:
    return blake2b(f"{seed} {identity}".encode(), digest_size=16).digest()
