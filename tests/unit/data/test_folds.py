"""Folds are stratified, of equal size, and independent of the order of the records."""

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


def make_ids(count: int) -> list[str]:
    return [f"{number * 2654435761 % 2**32:08x}" for number in range(count)]


def count_records(fold: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of records by fold and class, `[folds, classes]`."""
    counts = np.zeros((fold.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (fold, labels), 1)
    return counts


@given(labels=st.lists(st.integers(0, 12), min_size=2, max_size=300), folds=st.integers(2, 10), seed=st.integers(0, 9))
def test_folds_and_their_classes_differ_by_at_most_one_record(labels: list[int], folds: int, seed: int) -> None:
    folds = min(folds, len(labels))
    counts = count_records(
        assign_folds(make_ids(len(labels)), np.array(labels), folds=folds, seed=seed), np.array(labels)
    )
    assert len(counts) == folds
    assert np.ptp(counts.sum(axis=1)) <= 1
    assert (np.ptp(counts, axis=0) <= 1).all()


@given(order=st.permutations(range(60)))
def test_folds_do_not_depend_on_the_order_of_records(order: list[int]) -> None:
    ids, labels = np.array(make_ids(60)), np.arange(60) % 7
    fold = assign_folds(ids.tolist(), labels, folds=4, seed=0)
    assert assign_folds(ids[order].tolist(), labels[order], folds=4, seed=0).tolist() == fold[order].tolist()


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_classes_are_spread_as_in_scikit_learn(folds: int) -> None:
    labels = np.repeat(np.arange(104), kaggle_train_counts())
    ours = count_records(assign_folds(make_ids(len(labels)), labels, folds=folds, seed=0), labels)
    splits = StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels)
    theirs = np.array([np.bincount(labels[held_out], minlength=104) for _, held_out in splits])
    assert np.abs(ours - theirs).max() <= 1
    assert (ours.sum(axis=0) == theirs.sum(axis=0)).all()


def test_folds_are_the_same_on_every_machine_and_differ_between_seeds() -> None:
    ids, labels = make_ids(12), np.arange(12) % 3
    assert assign_folds(ids, labels, folds=3, seed=0).tolist() == [0, 2, 2, 2, 0, 0, 1, 1, 1, 0, 1, 2]
    assert assign_folds(ids, labels, folds=3, seed=1).tolist() != assign_folds(ids, labels, folds=3, seed=0).tolist()


@pytest.mark.parametrize("folds", [-1, 0, 1, 7])
def test_an_impossible_number_of_folds_is_refused(folds: int) -> None:
    with pytest.raises(InputError, match=f"folds={folds}: .*2 to 6"):
        assign_folds(make_ids(6), np.zeros(6, np.int64), folds=folds, seed=0)


def test_a_duplicate_id_is_reported() -> None:
    with pytest.raises(InputError, match=r"id rose: .* 2 "):
        assign_folds(["tulip", "rose", "rose", "daisy"], np.zeros(4, np.int64), folds=2, seed=0)
