"""Pools are weighted means, geometric means and votes, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from flowers.ensembling.pools import LinearPool, LogarithmicPool, Pool, RankPool, equal_weights

MEMBERS = np.random.default_rng(0).dirichlet(np.full(5, 0.5), (3, 40)).astype(np.float32)
WEIGHTS = np.array([0.5, 0.2, 0.3])
POOLS: list[Pool] = [
    LinearPool(WEIGHTS),
    LogarithmicPool(np.repeat(WEIGHTS[:, None], 5, axis=1), np.zeros(5)),
    RankPool(WEIGHTS),
]


def test_the_linear_pool_is_the_weighted_mean() -> None:
    np.testing.assert_allclose(LinearPool(WEIGHTS)(MEMBERS), np.average(MEMBERS, axis=0, weights=WEIGHTS), rtol=1e-5)


def test_the_logarithmic_pool_is_the_weighted_geometric_mean() -> None:
    expected = scipy.stats.gmean(np.maximum(MEMBERS, 1e-7).astype(np.float64), axis=0, weights=WEIGHTS[:, None, None])
    np.testing.assert_allclose(POOLS[1](MEMBERS), expected / expected.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)


def test_the_bias_multiplies_the_odds() -> None:
    exponents = np.ones((1, 5))
    plain, biased = (LogarithmicPool(exponents, bias)(MEMBERS[:1]) for bias in (np.zeros(5), np.log([4.0, 1, 1, 1, 1])))
    np.testing.assert_allclose(biased[:, 0] / biased[:, 1], 4 * plain[:, 0] / plain[:, 1], rtol=1e-3)


def test_the_rank_pool_is_the_mean_of_reciprocal_ranks() -> None:
    ranks = scipy.stats.rankdata(-MEMBERS, axis=2)
    expected = np.average(1 / ranks, axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(RankPool(WEIGHTS)(MEMBERS), expected / expected.sum(1, keepdims=True), rtol=1e-3)


def test_the_rank_pool_breaks_ties_by_probability() -> None:
    two = np.array([[[0.9, 0.08, 0.02]], [[0.45, 0.55, 0.0]]], np.float32)
    for members in (two, two[::-1]):
        assert RankPool(equal_weights(2))(members).argmax() == 0


@pytest.mark.parametrize("pool", POOLS, ids=["linear", "logarithmic", "rank"])
def test_rows_sum_to_one_and_do_not_affect_each_other(pool: Pool) -> None:
    blended = pool(MEMBERS)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(pool(MEMBERS[:, 7:9]), blended[7:9])
    assert pool.weights.sum() == pytest.approx(1)
