"""The order: each record once, whatever the ranks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowers.data.sampling import PADDING, EpochSampler, epoch_order

counts, ranks, epochs = st.integers(0, 3000), st.integers(1, 64), st.integers(0, 50)


@given(count=counts, ranks=ranks, epoch=epochs)
def test_shuffled_ranks_are_disjoint_equal_and_nearly_all(count: int, ranks: int, epoch: int) -> None:
    parts = [epoch_order(count, seed=1, epoch=epoch, shuffle=True, rank=r, ranks=ranks) for r in range(ranks)]
    together = np.concatenate(parts)
    assert len({len(part) for part in parts}) == 1
    assert len(set(together.tolist())) == len(together) == count - count % ranks


@given(count=counts, ranks=ranks)
def test_in_order_the_ranks_read_each_record_once(count: int, ranks: int) -> None:
    parts = [epoch_order(count, seed=1, epoch=0, shuffle=False, rank=r, ranks=ranks) for r in range(ranks)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))


def test_epochs_differ_and_repeat() -> None:
    sampler = EpochSampler(100, seed=3, shuffle=True)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert [draw.number for draw in first] != [draw.number for draw in second]
    assert {draw.epoch for draw in second} == {1}
    assert len(sampler) == 100


@given(count=counts, ranks=ranks, shuffle=st.booleans())
def test_every_rank_has_as_many_draws(count: int, ranks: int, shuffle: bool) -> None:
    samplers = [EpochSampler(count, seed=1, shuffle=shuffle, rank=rank, ranks=ranks) for rank in range(ranks)]
    draws = [[draw.number for draw in sampler] for sampler in samplers]
    assert {len(part) for part in draws} == {len(sampler) for sampler in samplers} == {len(draws[0])}
    records = [number for part in draws for number in part if number != PADDING]
    assert len(records) == len(set(records)) == (count - count % ranks if shuffle else count)
