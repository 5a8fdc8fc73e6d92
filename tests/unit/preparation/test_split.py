"""Near-duplicates are grouped as by brute force, and the split keeps groups whole and classes stratified."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowers.preparation.split import class_quota, hash_words, near_duplicate_groups, stratified_split

members = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), min_size=1, max_size=120)
fractions = st.sampled_from([(0.15, 0.15), (0.5, 0.4), (0.2, 0.0), (0.0, 0.0), (0.33, 0.33), (0.01, 0.98)])


def to_arrays(drawn: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, groups = np.array(drawn, np.int64).T
    return np.unique(labels, return_inverse=True)[1], np.unique(groups, return_inverse=True)[1]


@given(drawn=members, fraction=fractions, seed=st.integers(0, 3))
def test_groups_stay_whole_and_every_class_is_in_train(
    drawn: list[tuple[int, int]], fraction: tuple[float, float], seed: int
) -> None:
    labels, groups = to_arrays(drawn)
    split = stratified_split(labels, groups, *fraction, seed)
    assert len(split) == len(labels)
    assert set(split) <= {0, 1, 2}
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert set(labels[split == 0]) == set(labels)
    mixed = [group for group in set(groups) if len(set(labels[groups == group])) > 1]
    assert set(split[np.isin(groups, mixed)]) <= {0}
    np.testing.assert_array_equal(split, stratified_split(labels, groups, *fraction, seed))


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=6), fraction=fractions, seed=st.integers(0, 3))
def test_without_groups_every_class_is_split_exactly(
    counts: list[int], fraction: tuple[float, float], seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    split = stratified_split(labels, np.arange(len(labels)), *fraction, seed)
    for label, count in enumerate(counts):
        found = np.bincount(split[labels == label], minlength=3)
        exact = count * np.array([1 - sum(fraction), *fraction])
        assert found[0] >= 1
        if exact[0] >= 1:
            assert (np.abs(found - exact) < 1 + 1e-6).all()


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=60), seed=st.integers(0, 3))
def test_with_groups_the_fractions_are_off_by_less_than_two_groups(sizes: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    found = np.bincount(stratified_split(np.zeros_like(groups), groups, 0.2, 0.2, seed), minlength=3)
    exact = len(groups) * np.array([0.6, 0.2, 0.2])
    assert (np.abs(found - exact) < 2 * max(sizes) + 1).all()


def test_another_seed_gives_another_split() -> None:
    labels, groups = np.zeros(100, np.int64), np.arange(100)
    splits = [stratified_split(labels, groups, 0.15, 0.15, seed) for seed in range(3)]
    assert (splits[0] != splits[1]).any()
    assert (splits[1] != splits[2]).any()


def test_equal_fractions_get_equal_parts_over_many_small_classes() -> None:
    labels = np.repeat(np.arange(400), 10)  # 7, 1.5 and 1.5 of each
    counts = np.bincount(stratified_split(labels, np.arange(len(labels)), 0.15, 0.15, 0))
    assert counts[0] == 2800
    assert abs(int(counts[1]) - 600) < 60  # three standard deviations of 400 coin tosses


@given(count=st.integers(1, 500), fraction=fractions)
def test_the_class_quota_adds_up(count: int, fraction: tuple[float, float]) -> None:
    quota = class_quota(count, *fraction, np.random.default_rng(0))
    assert quota.sum() == count
    assert quota[0] >= 1
    assert (quota >= 0).all()


def group_by_brute_force(words: np.ndarray, distance: int) -> list[int]:
    """Return the groups, found by walking from each image to all images near it."""
    numbers = [int.from_bytes(row.astype(">u8").tobytes(), "big") for row in words]
    group: dict[int, int] = {}
    for start in range(len(numbers)):
        if start in group:
            continue
        number, waiting = len(set(group.values())), [start]
        while waiting:
            one = waiting.pop()
            if one in group:
                continue
            group[one] = number
            waiting += [other for other, bits in enumerate(numbers) if (bits ^ numbers[one]).bit_count() <= distance]
    return [group[member] for member in range(len(numbers))]


@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 150), width=st.integers(1, 4), distance=st.sampled_from([0, 3, 9])
)
def test_the_groups_match_brute_force(seed: int, count: int, width: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, (max(1, count // 4), width), np.uint64)
    words = centres[rng.integers(0, len(centres), count)]
    for bit in range(0, 64, 11):  # up to six bits off in each word
        words = words ^ (rng.integers(0, 2, words.shape, np.uint64) << np.uint64(bit))
    groups = near_duplicate_groups(words, distance)
    assert groups.tolist() == group_by_brute_force(words, distance)
    assert Counter(groups.tolist()).total() == count


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    words = np.array([[0], [0b111111], [0b111], [0xFFFF_FFFF_FFFF_FFFF], [0]], np.uint64)
    assert near_duplicate_groups(words, 3).tolist() == [0, 0, 0, 1, 0]
    assert near_duplicate_groups(words, 2).tolist() == [0, 1, 2, 3, 0]


def test_a_large_group_takes_about_as_long_as_distinct_images() -> None:
    unlike = np.random.default_rng(0).integers(0, 2**64, (4000, 4), np.uint64)
    alike = np.zeros((4000, 4), np.uint64)
    alike[:, 0] = np.arange(4000)  # at most 12 bits apart, and no two equal

    def measure_seconds(words: np.ndarray, groups: int) -> float:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            assert near_duplicate_groups(words, 60).max() + 1 == groups
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    # Linking pairs one by one takes 50 times as long.
    assert measure_seconds(alike, 1) < 5 * measure_seconds(unlike, 4000)


def test_hash_words_keep_every_bit() -> None:
    digits = ["00000000000000010000000000000002", "ffffffffffffffff8000000000000000"]
    assert hash_words(digits).tolist() == [[1, 2], [2**64 - 1, 2**63]]
    with pytest.raises(ValueError):
        hash_words(["00"])
