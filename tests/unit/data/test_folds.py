"""The folds: stratified, as large as each other, and the same for any order of the records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from flowers.data.class_names import kaggle_train_counts
from flowers.data.folds import assign_folds
from flowers.errors import InputError


def names(count: int) -> list[str]:
    return [f"{number * 2654435761 % 2**32:08x}" for number in range(count)]


def table(fold: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many records of each class each fold has, `[folds, classes]`."""
    counts = np.zeros((fold.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (fold, labels), 1)
    return counts


@given(labels=st.lists(st.integers(0, 12), min_size=2, max_size=300), folds=st.integers(2, 10), seed=st.integers(0, 9))
def test_folds_and_their_classes_differ_by_one_record(labels: list[int], folds: int, seed: int) -> None:
    folds = min(folds, len(labels))
    counts = table(assign_folds(names(len(labels)), np.array(labels), folds=folds, seed=seed), np.array(labels))
    assert len(counts) == folds
    assert np.ptp(counts.sum(axis=1)) <= 1
    assert (np.ptp(counts, axis=0) <= 1).all()


@given(order=st.permutations(range(60)))
def test_the_order_of_records_does_not_matter(order: list[int]) -> None:
    ids, labels = np.array(names(60)), np.arange(60) % 7
    fold = assign_folds(ids.tolist(), labels, folds=4, seed=0)
    assert assign_folds(ids[order].tolist(), labels[order], folds=4, seed=0).tolist() == fold[order].tolist()


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_classes_are_spread_as_scikit_learn_spreads_them(folds: int) -> None:
    labels = np.repeat(np.arange(104), kaggle_train_counts())
    ours = table(assign_folds(names(len(labels)), labels, folds=folds, seed=0), labels)
    splits = StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels)
    theirs = np.array([np.bincount(labels[held_out], minlength=104) for _, held_out in splits])
    assert np.abs(ours - theirs).max() <= 1
    assert (ours.sum(axis=0) == theirs.sum(axis=0)).all()


def test_folds_are_the_same_on_every_machine_and_differ_between_seeds() -> None:
    ids, labels = names(12), np.arange(12) % 3
    assert assign_folds(ids, labels, folds=3, seed=0).tolist() == [0, 2, 2, 2, 0, 0, 1, 1, 1, 0, 1, 2]
    assert assign_folds(ids, labels, folds=3, seed=1).tolist() != assign_folds(ids, labels, folds=3, seed=0).tolist()


@pytest.mark.parametrize("folds", [-1, 0, 1, 7])
def test_a_number_of_folds_that_cannot_be_is_refused(folds: int) -> None:
    with pytest.raises(InputError, match=f"folds={folds}: expected from 2 to 6"):
        assign_folds(names(6), np.zeros(6, np.int64), folds=folds, seed=0)


def test_an_id_that_is_there_twice_is_named() -> None:
    with pytest.raises(InputError, match="id rose: expected each record once, found it 2 times"):
        assign_folds(["tulip", "rose", "rose", "daisy"], np.zeros(4, np.int64), folds=2, seed=0)
