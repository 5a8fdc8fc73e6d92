"""The sampler reads each record once, for any ranks and workers and wherever a run resumes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from flowers.data.class_names import kaggle_train_counts
from flowers.data.sampler import (
    PADDING,
    Balance,
    EpochSampler,
    SampleIndex,
    class_weights,
    count_earlier,
    epoch_order,
)

TRAIN = 12_753
"""The number of training records in the competition."""

counts, ranks, epochs = st.integers(1, 3000), st.integers(1, 64), st.integers(0, 50)
batch_sizes = st.integers(1, 40)


def create_samplers(count: int, ranks: int, batch_size: int, *, shuffle: bool, epoch: int = 3) -> list[EpochSampler]:
    """Create the samplers of all ranks for a subset of the records."""
    return [
        EpochSampler(
            np.arange(count) * 2 + 1,
            seed=1,
            shuffle=shuffle,
            batch_size=batch_size,
            rank=rank,
            ranks=ranks,
            epoch=epoch,
        )
        for rank in range(ranks)
    ]


def read_all_ranks(count: int, ranks: int, batch_size: int, *, shuffle: bool) -> NDArray[np.int64]:
    """Return the records that all ranks read, after checking that they fill whole batches without repeats."""
    samplers = create_samplers(count, ranks, batch_size, shuffle=shuffle)
    drawn = [np.array([index.number for index in sampler]) for sampler in samplers]
    (length,) = {len(part) for part in drawn}
    assert {len(sampler) for sampler in samplers} == {length}
    assert length > 0 == length % batch_size
    together = np.concatenate(drawn)
    records = together[together != PADDING]
    assert len(np.unique(records)) == len(records)
    assert np.isin(records, np.arange(count) * 2 + 1).all()
    dropped = count - len(records)
    padded = len(together) - len(records)
    global_batch_size = ranks * batch_size
    assert dropped < global_batch_size
    assert padded < global_batch_size
    assert not dropped or (shuffle and not padded)
    assert not padded or not shuffle or count < global_batch_size == len(together)
    return records


@given(count=counts, ranks=ranks, batch_size=batch_sizes, shuffle=st.booleans())
def test_ranks_divide_the_records_into_whole_batches(count: int, ranks: int, batch_size: int, shuffle: bool) -> None:
    global_batch_size = ranks * batch_size
    dropped = count % global_batch_size if shuffle and count >= global_batch_size else 0
    assert len(read_all_ranks(count, ranks, batch_size, shuffle=shuffle)) == count - dropped


def test_evaluation_reads_records_in_order() -> None:
    samplers = create_samplers(10, ranks=2, batch_size=3, shuffle=False)
    first, second = ([index.number for index in sampler] for sampler in samplers)
    assert first == [1, 5, 9, 13, 17, PADDING]
    assert second == [3, 7, 11, 15, 19, PADDING]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("global_batch_size", [12, 32, 960])
def test_global_batches_do_not_depend_on_the_number_of_ranks(global_batch_size: int, weighted: bool) -> None:
    numbers = np.arange(2000)
    weights = class_weights(numbers % 7 * (numbers % 3), "full") if weighted else None
    seen = []
    for ranks in (divisor for divisor in range(1, global_batch_size + 1) if global_batch_size % divisor == 0):
        batch_size = global_batch_size // ranks
        drawn = [
            list(
                EpochSampler(
                    numbers, seed=1, shuffle=True, batch_size=batch_size, rank=rank, ranks=ranks, weights=weights
                )
            )
            for rank in range(ranks)
        ]
        starts = range(0, len(drawn[0]), batch_size)
        seen.append([{index for part in drawn for index in part[start : start + batch_size]} for start in starts])
    assert all(batches == seen[0] for batches in seen)
    assert {len(batch) for batch in seen[0]} == {global_batch_size}


def find_dropped(numbers: NDArray[np.int64], global_batch_size: int, epoch: int) -> NDArray[np.int64]:
    """Return the record numbers that an epoch leaves out."""
    order = epoch_order(numbers, seed=1, epoch=epoch, shuffle=True, global_batch_size=global_batch_size)
    return np.setdiff1d(numbers, order)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 300), global_batch_size=st.integers(1, 300), cycle=st.integers(0, 3))
def test_no_record_is_dropped_again_before_all_others(count: int, global_batch_size: int, cycle: int) -> None:
    each = count % global_batch_size if count >= global_batch_size else 0
    drops: Counter[int] = Counter()
    for epoch in range(cycle * count // max(each, 1) + 2):
        drops.update(find_dropped(np.arange(count), global_batch_size, epoch).tolist())
        assert drops.total() == (epoch + 1) * each
        assert max(drops.values(), default=0) == -(-drops.total() // count)


def test_epochs_and_seeds_give_different_reproducible_orders() -> None:
    sampler = EpochSampler(np.arange(100), seed=3, shuffle=True, batch_size=10)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert [index.number for index in first] != [index.number for index in second]
    assert {index.epoch for index in second} == {1}
    assert list(EpochSampler(np.arange(100), seed=4, shuffle=True, batch_size=10)) != first


def test_a_resumed_epoch_is_the_rest_of_the_whole_epoch() -> None:
    for rank in range(3):
        whole = create_samplers(130, ranks=3, batch_size=4, shuffle=True, epoch=5)[rank]
        epoch_5 = list(whole)
        whole.set_epoch(6)
        epoch_6 = list(whole)
        for batches in range(len(epoch_5) // 4):
            resumed = create_samplers(130, ranks=3, batch_size=4, shuffle=True, epoch=5)[rank]
            resumed.start_batch = batches
            for _ in range(2):  # Lightning may restart the epoch after workers have received all remaining indices
                resumed.set_epoch(5)
                assert len(resumed) == len(epoch_5)
                assert list(resumed) == epoch_5[batches * 4 :]
            resumed.set_epoch(6)
            assert list(resumed) == epoch_6


def test_epochs_after_the_resumed_one_are_whole() -> None:
    sampler = EpochSampler(np.arange(40), seed=0, shuffle=True, batch_size=4, epoch=2, start_batch=3)
    sampler.set_epoch(3)
    assert len(list(sampler)) == 40
    sampler.set_epoch(2)
    assert len(list(sampler)) == 40


@pytest.mark.parametrize("balance", ["sqrt", "full"])
def test_weights_balance_the_classes(balance: Balance) -> None:
    per_class = np.array(kaggle_train_counts())
    labels = np.repeat(np.arange(104), per_class)
    weights = class_weights(labels, balance)
    target = np.sqrt(per_class) if balance == "sqrt" else np.ones(104)
    total = np.zeros(104)
    for epoch in range(20):
        order = epoch_order(np.arange(TRAIN), seed=1, epoch=epoch, shuffle=True, global_batch_size=128, weights=weights)
        assert len(order) == TRAIN // 128 * 128
        expected = len(order) * weights / weights.sum()
        times = np.bincount(order, minlength=TRAIN)
        assert (np.floor(expected - 1e-9) <= times).all()
        assert (times <= np.ceil(expected + 1e-9)).all()
        total += np.bincount(labels[order], minlength=104)
    np.testing.assert_allclose(total / total.sum(), target / target.sum(), rtol=0.05)


@given(count=counts, ranks=ranks, batch_size=batch_sizes)
def test_weighted_epochs_keep_their_length_and_number_repeats(count: int, ranks: int, batch_size: int) -> None:
    numbers = np.arange(count) + 7
    weights = np.random.default_rng(count).random(count) ** 3
    plain = EpochSampler(numbers, seed=1, shuffle=True, batch_size=batch_size, ranks=ranks)
    samplers = [
        EpochSampler(numbers, seed=1, shuffle=True, batch_size=batch_size, rank=rank, ranks=ranks, weights=weights)
        for rank in range(ranks)
    ]
    drawn = [list(sampler) for sampler in samplers]
    assert {len(part) for part in drawn} == {len(sampler) for sampler in samplers} == {len(plain)}
    in_order = [index for together in zip(*drawn, strict=True) for index in together if index.number != PADDING]
    assert len(in_order) == min(count, count // (ranks * batch_size) * ranks * batch_size or count)
    seen: Counter[int] = Counter()
    for index in in_order:
        assert index.repeat == seen[index.number]
        seen[index.number] += 1


def test_count_earlier_counts_previous_occurrences() -> None:
    assert count_earlier(np.array([5, 5, PADDING, 3, 5, PADDING, 3])).tolist() == [0, 1, 0, 0, 2, 1, 1]


class Echo(Dataset[SampleIndex]):
    """Returns each sample index unchanged."""

    def __getitem__(self, index: SampleIndex) -> SampleIndex:
        return index


def read_through_loader(numbers: NDArray[np.int64], workers: int, *, start_batch: int = 0) -> list[list[SampleIndex]]:
    """Return the batches of epochs 4 and 5 on the second of two ranks, requested as Lightning does."""
    sampler = EpochSampler(
        numbers,
        seed=1,
        shuffle=True,
        batch_size=16,
        rank=1,
        ranks=2,
        epoch=4,
        start_batch=start_batch,
        weights=class_weights(numbers % 5, "sqrt"),
    )
    loader = DataLoader(
        Echo(),
        batch_size=16,
        sampler=sampler,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )
    iterator = iter(loader)  # before the epoch is set: workers receive their first batches here
    sampler.set_epoch(4)
    batches: list[list[SampleIndex]] = list(iterator)
    sampler.set_epoch(5)
    return batches + list(loader)


@pytest.fixture(scope="module")
def without_workers() -> list[list[SampleIndex]]:
    return read_through_loader(np.arange(700), 0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 8])
def test_any_number_of_workers_gives_the_same_sample_indices(
    workers: int, without_workers: list[list[SampleIndex]]
) -> None:
    assert read_through_loader(np.arange(700), workers) == without_workers
    assert read_through_loader(np.arange(700), workers, start_batch=5) == without_workers[5:]
