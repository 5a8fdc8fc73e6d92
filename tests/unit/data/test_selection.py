"""A split's records are selected as stored, joined or by fold, with weights that balance them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowers.data.catalog import Catalog
from flowers.data.layout import SPLITS
from flowers.data.sampler import class_weights
from flowers.data.selection import SelectionSettings, select_records
from flowers.errors import InputError

CATALOG = Catalog(np.array([0, 1, 3, 4, 5, 6]), list("abdefg"), np.array([0, 0, 0, 1, 1, 0]), ["c: unreadable"])
"""The catalog of seven records, of which number 2 is unreadable."""


def settings(**changed: Any) -> SelectionSettings:
    defaults = {"train_on": "train", "folds": None, "fold": None, "balance": None, "seed": 0}
    return SelectionSettings(**{**defaults, **changed})


def test_a_split_as_stored_holds_all_of_its_records() -> None:
    for split in SPLITS:
        assert settings().sources(split) == (split,)
        assert not settings().needs_catalog(split)
        selection = select_records(split, settings(), 7, None)
        assert (selection.numbers.tolist(), selection.weights) == (list(range(7)), None)


def test_a_final_fit_joins_train_and_val() -> None:
    final = settings(train_on="train+val")
    assert [final.sources(split) for split in SPLITS] == [("train", "val"), ("val",), ("test",)]


def test_folds_divide_the_readable_records() -> None:
    held_out = []
    for fold in range(3):
        cut = settings(folds=3, fold=fold)
        assert [cut.sources(split) for split in SPLITS] == [("train", "val"), ("train", "val"), ("test",)]
        assert [cut.needs_catalog(split) for split in SPLITS] == [True, True, False]
        train, val = (select_records(split, cut, 7, CATALOG).numbers.tolist() for split in ("train", "val"))
        assert sorted([*train, *val]) == CATALOG.numbers.tolist()
        held_out += val
    assert sorted(held_out) == CATALOG.numbers.tolist()


@pytest.mark.parametrize("folds", [{}, {"folds": 2, "fold": 1}])
def test_only_training_is_balanced_by_its_own_labels(folds: dict[str, int]) -> None:
    balanced = settings(balance="full", **folds)
    numbers, weights, _ = select_records("train", balanced, 7, CATALOG)
    labels = dict(zip(CATALOG.numbers.tolist(), CATALOG.labels.tolist(), strict=True))
    expected = class_weights(np.array([labels[number] for number in numbers.tolist()]), "full")
    assert weights is not None
    assert weights.tolist() == expected.tolist()
    assert select_records("val", balanced, 7, CATALOG).weights is None


@pytest.mark.parametrize("changed", [{"folds": 5}, {"fold": 0}, {"folds": 5, "fold": 5}])
def test_folds_and_fold_must_fit_together(changed: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"data\.fold"):
        settings(**changed)


def test_a_final_fit_with_folds_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.train_on"):
        settings(train_on="train+val", folds=5, fold=0)
