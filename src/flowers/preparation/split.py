"""Assign images to splits, with near-duplicates together and every class in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BLOCK = 64
"""Rows of the distance table at a time: 64 x 100,000 distances fit into the processor's cache and save memory."""


def hash_words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """Parse hashes of equal length, given as hex digits, into uint64 `[N, W]`."""
    data = bytes.fromhex("".join(hashes))
    return np.frombuffer(data, ">u8").reshape(len(hashes), -1).astype(np.uint64)


def near_duplicate_groups(words: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Group images whose hashes are at most `distance` bits apart, and number the groups in order of appearance.

    All N^2 / 2 pairs are compared, in blocks.

    Args:
        words: the hashes, uint64 `[N, W]`.
        distance: the Hamming distance up to which two images are near-duplicates.

    Returns:
        The groups' numbers, int64 `[N]`: equal for two images if a chain of near-duplicates connects them.
    """
    distinct, where = np.unique(words, axis=0, return_inverse=True)
    columns = np.ascontiguousarray(distinct.T)
    group = np.arange(len(distinct))
    for start in range(0, len(distinct), _BLOCK):
        near = _distances(columns, start) <= distance
        one, other = np.nonzero(near & (group[start : start + _BLOCK, None] != group[None, start:]))
        if len(one):  # pairs within a group were left out: they add nothing, and may be very many
            group = _join(group, one + start, other + start)
    linked = group[where.ravel()]
    _, first, number = np.unique(linked, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def _distances(columns: NDArray[np.uint64], start: int) -> NDArray[np.uint16]:
    """Return the Hamming distances from the block at `start` to all images from there on, `[block, N - start]`.

    Args:
        columns: the hashes, uint64 `[W, N]`.
        start: the block's first image.
    """
    apart = np.zeros((1, 1), np.uint16)
    for column in columns:
        apart = apart + np.bitwise_count(column[start : start + _BLOCK, None] ^ column[None, start:])
    return apart


def _join(group: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups, int64 `[N]`, after joining those of each pair of images."""
    links = coo_array((np.ones(len(one), np.bool_), (group[one], group[other])), (len(group), len(group)))
    joined: NDArray[np.int64] = connected_components(links, directed=False)[1][group].astype(np.int64)
    return joined


def stratified_split(
    labels: NDArray[np.int64], groups: NDArray[np.int64], val: float, test: float, seed: int
) -> NDArray[np.int64]:
    """Assign every image to train (0), val (1) or test (2), each class in proportion, without dividing groups.

    A group of several classes goes to train, because contradictory labels are useless for evaluation. The other groups
    are assigned class by class, large ones first, equal ones in an order drawn from the seed. The first goes to train
    if the class has no image there yet. Each further one goes to the split that lacks most images. Without groups, the
    fractions are exact to the image.

    Args:
        labels: the images' classes, int64 `[N]`, from 0.
        groups: the images' groups, int64 `[N]`, from 0.
        val: the fraction of val.
        test: the fraction of test; together with `val` less than 1.
        seed: the seed of the order.

    Returns:
        Each image's split, int64 `[N]`. Every class has an image in train.
    """
    split = np.zeros(len(labels), np.int64)
    mixed = _groups_of_several_classes(labels, groups)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        own = members[~mixed[groups[members]]]
        rng = np.random.default_rng([seed, int(label)])
        lack = class_quota(len(members), val, test, rng)
        lack[0] -= len(members) - len(own)
        parts = _by_group(own, groups)
        order = sorted(rng.permutation(len(parts)), key=lambda number: -len(parts[number]))
        for place, number in enumerate(order):
            first = place == 0 and len(own) == len(members)
            choice = 0 if first else int(np.argmax(lack))
            split[parts[number]] = choice
            lack[choice] -= len(parts[number])
    return split


def _groups_of_several_classes(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for every group number whether its images have more than one class."""
    pairs = np.unique(np.stack([groups, labels], axis=1), axis=0)
    return np.bincount(pairs[:, 0]) > 1


def _by_group(members: NDArray[np.int64], groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the members of each group, in order of group."""
    _, sizes = np.unique(groups[members], return_counts=True)
    return np.split(members[np.argsort(groups[members], kind="stable")], np.cumsum(sizes)[:-1]) if len(members) else []


def class_quota(count: int, val: float, test: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how many of a class's images go to train, val and test, int64 `[3]`, by the largest-remainder method.

    At least one image goes to train. Ties between remainders are broken at random; otherwise one split would win all
    ties of small classes.
    """
    exact: NDArray[np.float64] = count * np.array([1 - val - test, val, test])
    quota: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    most_left = sorted(rng.permutation(3), key=lambda split: round(float(quota[split] - exact[split]), 9))
    quota[most_left[: count - quota.sum()]] += 1
    if quota[0] == 0:
        quota[np.argmax(quota)] -= 1
        quota[0] += 1
    return quota
