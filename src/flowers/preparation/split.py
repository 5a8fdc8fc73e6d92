"""Assign images to splits: near-duplicates together, every class in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BLOCK = (
    64  # rows of the distance table at a time: 64 x 100,000 distances stay in the processor's cache and memory small
)


def hash_words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """Parse hashes, of as many hex digits each, as uint64 `[N, W]`."""
    data = bytes.fromhex("".join(hashes))
    return np.frombuffer(data, ">u8").reshape(len(hashes), -1).astype(np.uint64)


def near_duplicate_groups(words: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Number the groups of images that are linked by hashes at most `distance` bits apart, in order of appearance.

    Compares every pair: N^2 / 2 of them, in blocks.

    Args:
        words: the hashes, uint64 `[N, W]`.
        distance: the Hamming distance up to which two images are near-duplicates.

    Returns:
        int64 `[N]`: equal for two images if a chain of near-duplicates leads from one to the other.
    """
    distinct, where = np.unique(words, axis=0, return_inverse=True)
    columns = np.ascontiguousarray(distinct.T)
    group = np.arange(len(distinct))
    for start in range(0, len(distinct), _BLOCK):
        near = _distances(columns, start) <= distance
        one, other = np.nonzero(near & (group[start : start + _BLOCK, None] != group[None, start:]))
        if len(one):  # pairs within a group add nothing, and there may be very many
            group = _join(group, one + start, other + start)
    linked = group[where.ravel()]
    _, first, number = np.unique(linked, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def _distances(columns: NDArray[np.uint64], start: int) -> NDArray[np.uint16]:
    """Return the bits between each image in the block at `start` and each from there on, `[block, N - start]`.

    Args:
        columns: a hash each, uint64 `[W, N]`.
        start: the block's first image.
    """
    apart = np.zeros((1, 1), np.uint16)
    for column in columns:
        apart = apart + np.bitwise_count(column[start : start + _BLOCK, None] ^ column[None, start:])
    return apart


def _join(group: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups, int64 `[N]`, when those of each pair of images are joined."""
    links = coo_array((np.ones(len(one), np.bool_), (group[one], group[other])), (len(group), len(group)))
    joined: NDArray[np.int64] = connected_components(links, directed=False)[1][group].astype(np.int64)
    return joined


def stratified_split(
    labels: NDArray[np.int64], groups: NDArray[np.int64], val: float, test: float, seed: int
) -> NDArray[np.int64]:
    """Give every image to train (0), val (1) or test (2), each class in proportion, groups whole.

    A group of several classes goes to train: contradictory labels measure nothing. Of the others, class by class, the
    largest goes to train if the class has nothing there yet, and each next one to the split that lacks most: large
    groups first, equal ones in an order drawn from the seed. Without groups the shares are exact to the image.

    Args:
        labels: the images' classes, int64 `[N]`, from 0.
        groups: the images' groups, int64 `[N]`, from 0.
        val, test: the shares of these splits, together less than 1.
        seed: of the draw.

    Returns:
        int64 `[N]`. Every class has an image in train.
    """
    split = np.zeros(len(labels), np.int64)
    mixed = _groups_of_several_classes(labels, groups)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        own = members[~mixed[groups[members]]]
        rng = np.random.default_rng([seed, int(label)])
        lack = class_quota(len(members), val, test, rng)
        lack[0] -= len(members) - len(own)
        alike = _by_group(own, groups)
        drawn = sorted(rng.permutation(len(alike)), key=lambda number: -len(alike[number]))
        for place, number in enumerate(drawn):
            first = place == 0 and len(own) == len(members)
            choice = 0 if first else int(np.argmax(lack))
            split[alike[number]] = choice
            lack[choice] -= len(alike[number])
    return split


def _groups_of_several_classes(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For every group number whether its images have more than one class."""
    pairs = np.unique(np.stack([groups, labels], axis=1), axis=0)
    return np.bincount(pairs[:, 0]) > 1


def _by_group(members: NDArray[np.int64], groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the members of each group, in order of group."""
    _, sizes = np.unique(groups[members], return_counts=True)
    return np.split(members[np.argsort(groups[members], kind="stable")], np.cumsum(sizes)[:-1]) if len(members) else []


def class_quota(count: int, val: float, test: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how many of a class's images go to train, val and test: by largest remainders, and at least one to train.

    Equal remainders are drawn for: where many classes are small, no split wins them all.
    """
    shares: NDArray[np.float64] = count * np.array([1 - val - test, val, test])
    quota: NDArray[np.int64] = np.floor(shares + 1e-9).astype(np.int64)
    most_left = sorted(rng.permutation(3), key=lambda split: round(float(quota[split] - shares[split]), 9))
    quota[most_left[: count - quota.sum()]] += 1
    if quota[0] == 0:
        quota[np.argmax(quota)] -= 1
        quota[0] += 1
    return quota
