"""A mixed epoch reads each data set in passes, in proportion to its weight."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowers.data.mixing import Mixture, mix_epoch, split_epoch
from flowers.data.sampler import PADDING, EpochSampler, SampleIndex
from flowers.errors import InputError

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=4)
tenths = st.integers(1, 30)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Draw data sets, each of which has at least two records in an epoch."""
    own = draw(sizes)
    passes = tuple(max(draw(tenths) / 10, 2 / size) for size in own)
    return Mixture(tuple(own), passes)


def numbers_of(mixture: Mixture) -> np.ndarray:
    return np.arange(sum(mixture.sizes)) * 3 + 1


def draw_epoch(mixture: Mixture, epoch: int, kept: int) -> list[int]:
    drawn: list[int] = mix_epoch(numbers_of(mixture), mixture, seed=5, epoch=epoch, kept=kept).tolist()
    return drawn


@settings(max_examples=60)
@given(mixture=mixtures(), dropped=st.integers(0, 20), epochs=st.integers(1, 8))
def test_each_data_set_is_read_in_whole_passes(mixture: Mixture, dropped: int, epochs: int) -> None:
    kept = max(mixture.total() - dropped, mixture.total() // 2, len(mixture.sizes) * 2)
    try:
        counts = split_epoch(mixture, kept)
    except InputError:
        return
    owner = dict(zip(numbers_of(mixture).tolist(), np.repeat(range(len(mixture.sizes)), mixture.sizes), strict=True))
    stream: list[list[int]] = [[] for _ in mixture.sizes]
    for epoch in range(epochs):
        drawn = draw_epoch(mixture, epoch, kept)
        assert Counter(owner[number] for number in drawn) == dict(enumerate(counts))
        for number in drawn:
            stream[owner[number]].append(number)
    for size, own in zip(mixture.sizes, stream, strict=True):
        for start in range(0, len(own), size):  # each pass has each record once; the last pass may be unfinished
            one_pass = own[start : start + size]
            assert len(set(one_pass)) == len(one_pass)


@given(mixture=mixtures(), dropped=st.integers(0, 20))
def test_counts_are_proportional_to_within_one_record(mixture: Mixture, dropped: int) -> None:
    kept = max(mixture.total() - dropped, 1)
    try:
        counts = split_epoch(mixture, kept)
    except InputError:
        return
    assert sum(counts) == kept
    wanted = [Fraction(repr(passes)) * size for size, passes in zip(mixture.sizes, mixture.passes, strict=True)]
    for count, share in zip(counts, wanted, strict=True):
        assert abs(count - share * kept / sum(wanted)) < 1


def test_weights_are_passes() -> None:
    mixture = Mixture((10, 6, 4), (1, 2, 0.5))
    assert mixture.total() == 24
    assert split_epoch(mixture, 24) == [10, 12, 2]
    first, second, third = (draw_epoch(mixture, epoch, 24) for epoch in range(3))
    once, twice = numbers_of(mixture)[:10], numbers_of(mixture)[10:16]
    for drawn in (first, second, third):
        assert sorted(drawn[:10]) == once.tolist()
        assert sorted(drawn[10:22]) == sorted([*twice, *twice])
    assert set(first[22:]).isdisjoint(second[22:])
    assert set(first[22:]) == set(third[22:])


def test_decimal_weights_are_exact() -> None:
    assert Mixture((100,), (0.29,)).total() == 29  # 0.29 * 100 is 28.999999999999996


def test_a_data_set_without_records_in_an_epoch_is_refused() -> None:
    with pytest.raises(InputError, match=r"^data\.weights: .*\bdata\.roots\.1\b"):
        split_epoch(Mixture((100, 3), (1, 0.1)), 100)


def sampler(mixture: Mixture, *, epoch: int = 2, **settings: int) -> EpochSampler:
    return EpochSampler(numbers_of(mixture), seed=1, shuffle=True, epoch=epoch, mixture=mixture, **settings)


@given(mixture=mixtures(), ranks=st.sampled_from([1, 2, 3, 6]))
def test_global_batches_do_not_depend_on_the_number_of_ranks(mixture: Mixture, ranks: int) -> None:
    try:
        whole = list(sampler(mixture, batch_size=6))
    except InputError:
        return
    parts = [list(sampler(mixture, batch_size=6 // ranks, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert [index for together in zip(*parts, strict=True) for index in together] == whole
    assert len(whole) == len(sampler(mixture, batch_size=6))
    assert len(whole) % 6 == 0
    seen: Counter[int] = Counter()
    for index in whole:
        if index.number != PADDING:
            assert index.repeat == seen[index.number]
            seen[index.number] += 1


@given(mixture=mixtures(), start_batch=st.integers(0, 5))
def test_a_resumed_epoch_is_the_rest_of_the_whole_epoch(mixture: Mixture, start_batch: int) -> None:
    try:
        whole: list[SampleIndex] = list(sampler(mixture, batch_size=4))
    except InputError:
        return
    resumed = sampler(mixture, batch_size=4, start_batch=start_batch)
    assert list(resumed) == whole[4 * start_batch :]
    resumed.set_epoch(3)
    assert list(resumed) == list(sampler(mixture, batch_size=4, epoch=3))


def test_one_data_set_at_one_pass_drops_no_record_again_before_all_others() -> None:
    mixture = Mixture((50,), (1,))
    drops: Counter[int] = Counter()
    for epoch in range(20):
        drawn = [index.number for index in sampler(mixture, epoch=epoch, batch_size=8)]
        assert len(drawn) == len(set(drawn)) == 48
        drops.update(set(numbers_of(mixture).tolist()) - set(drawn))
        assert max(drops.values()) == -(-drops.total() // 50)
