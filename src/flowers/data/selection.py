"""Select the records of a split, as stored, with train and val joined, or by folds, and their sampling weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowers.data.catalog import Catalog
from flowers.data.folds import assign_folds
from flowers.data.layout import Split
from flowers.data.mixing import Mixture
from flowers.data.sampler import Balance, class_weights
from flowers.errors import InputError

TrainOn = Literal["train", "train+val"]


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """The settings that decide which records a split holds, and how often training draws each.

    Raises:
        InputError: the settings contradict each other.
    """

    train_on: TrainOn
    folds: int | None
    fold: int | None
    balance: Balance | None
    seed: int

    def __post_init__(self) -> None:
        folds, fold = self.folds, self.fold
        if (folds is None) != (fold is None) or (folds is not None and fold is not None and fold >= folds):
            raise InputError(
                f"data.fold={fold}, data.folds={folds}: expected both or neither, and a fold from 0 to folds - 1. "
                "For example, set data.folds=5 data.fold=0."
            )
        if folds is not None and self.train_on != "train":
            raise InputError(
                f"data.train_on={self.train_on}: expected train with data.folds={folds}, because folds divide train "
                "and val together. Remove one of the two settings."
            )

    def by_set(self, count: int) -> list[SelectionSettings]:
        """Return the settings of each of `count` data sets. Only the first one is divided into folds."""
        return [self, *[replace(self, folds=None, fold=None)] * (count - 1)]

    def sources(self, split: Split) -> tuple[Split, ...]:
        """Return the stored splits from which a split is selected. Their records are concatenated in this order."""
        joined = self.folds is not None or (split == "train" and self.train_on == "train+val")
        return ("train", "val") if joined and split != "test" else (split,)

    def needs_catalog(self, split: Split) -> bool:
        """Return whether selecting a split requires the ids and labels of its sources."""
        return (self.folds is not None and split != "test") or (self.balance is not None and split == "train")

    def order(self) -> dict[str, Any]:
        """Return the settings that the order of an epoch depends on, by configuration key."""
        return {f"data.{name}": value for name, value in asdict(self).items()}


class Selection(NamedTuple):
    """The records of a split.

    numbers: the record numbers within the split's sources, int64 `[N]`.
    weights: the sampling weights in training, float64 `[N]`; None if all are equal.
    mixture: the data sets that `numbers` come from, in training; None if there is one.
    """

    numbers: NDArray[np.int64]
    weights: NDArray[np.float64] | None = None
    mixture: Mixture | None = None


def select_records(split: Split, settings: SelectionSettings, count: int, catalog: Catalog | None) -> Selection:
    """Select the records of a split.

    Args:
        split: the split.
        settings: the selection's settings.
        count: the number of records in the split's sources.
        catalog: the ids and labels of the sources, if `settings.needs_catalog(split)`.

    Raises:
        InputError: there are too few records for the folds, or an id occurs twice.
    """
    if not settings.needs_catalog(split):
        return Selection(np.arange(count))
    assert catalog is not None
    chosen = np.ones(len(catalog.numbers), bool)
    if settings.folds is not None:
        fold = assign_folds(catalog.ids, catalog.labels, folds=settings.folds, seed=settings.seed)
        chosen = fold == settings.fold if split == "val" else fold != settings.fold
    balanced = settings.balance if split == "train" else None
    weights = class_weights(catalog.labels[chosen], balanced) if balanced else None
    return Selection(catalog.numbers[chosen], weights)
