"""The order of the competition's records is complete on up to 512 ranks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.data.test_sampler import TRAIN, find_dropped, read_all_ranks, read_through_loader

VAL, TEST = 3_712, 7_382
"""The numbers of validation and test records in the competition."""

RANKS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 3, 5, 6, 7, 12, 24, 31, 48, 96, 100, 160, 255, 320, 384, 511]
BATCH_SIZES = [1, 8, 16, 32, 128]


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_up_to_512_ranks_train_on_the_competitions_records(batch_size: int) -> None:
    for ranks in RANKS:
        left_out = TRAIN % (ranks * batch_size) if ranks * batch_size <= TRAIN else 0
        assert len(read_all_ranks(TRAIN, ranks, batch_size, shuffle=True)) == TRAIN - left_out


@pytest.mark.parametrize("count", [VAL, TEST])
def test_up_to_512_ranks_evaluate_each_record_once(count: int) -> None:
    for ranks in RANKS:
        for batch_size in BATCH_SIZES:
            assert len(read_all_ranks(count, ranks, batch_size, shuffle=False)) == count


@pytest.mark.parametrize(
    "global_batch_size", sorted({n * b for n in RANKS for b in BATCH_SIZES if n * b <= TRAIN})[::3]
)
def test_the_rotation_drops_no_competition_record_twice(global_batch_size: int) -> None:
    each = TRAIN % global_batch_size
    cycle = TRAIN // each if each else 1
    seen = [find_dropped(np.arange(TRAIN), global_batch_size, epoch) for epoch in range(min(cycle, 40))]
    assert {len(part) for part in seen} == {each}
    together = np.concatenate(seen)
    assert len(np.unique(together)) == len(together)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_gives_the_same_sample_indices() -> None:
    first, *others = (read_through_loader(np.arange(TRAIN), workers) for workers in range(9))
    assert len(first) == 2 * (TRAIN // 32)
    assert others == [first] * 8
