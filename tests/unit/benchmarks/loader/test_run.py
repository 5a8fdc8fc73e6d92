"""Wrong or incomplete work is refused, and a measurement counts whole batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.loader.process import Measured, measure
from benchmarks.loader.run import check_work
from benchmarks.loader.work import Work

WORK = Work(Path(), "decode", image_size=8, batch_size=4, workers=1, seed=0)


def make_measurement(shape: tuple[int, ...] = (4, 8, 8, 3), dtype: str = "uint8", different: int = 40) -> Measured:
    return Measured(20, 1.0, frozenset({(dtype, shape)}), pulled=40, different=different)


def test_complete_work_passes() -> None:
    check_work("tf.data", [make_measurement(), make_measurement(different=25)], WORK, records=1000)
    check_work("tf.data", [make_measurement(different=6)], WORK, records=8)  # the data set has no more ids
    with pytest.raises(RuntimeError, match="different ids"):
        check_work("tf.data", [make_measurement(different=6)], WORK, records=1000)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (make_measurement(shape=(3, 8, 8, 3)), "tf.data: .*found .*3, 8, 8, 3"),
        (make_measurement(dtype="float32"), "tf.data: .*found .*float32"),
        (make_measurement(different=4), "tf.data: .* 20 .*found 4"),
    ],
)
def test_wrong_or_incomplete_work_is_refused(wrong: Measured, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        check_work("tf.data", [make_measurement(), wrong], WORK, records=1000)


def test_a_measurement_counts_whole_batches_after_its_warm_up() -> None:
    image = np.zeros((4, 8, 8, 3), np.uint8)
    endless = ([f"{number}a", f"{number}b", f"{number}c", f"{number}d"] for number in iter(int, 1))
    found = measure(((ids, image) for ids in endless), seconds=0.02)
    assert found.seconds >= 0.02
    assert found.images % 4 == found.pulled % 4 == 0
    assert 0 < found.images < found.pulled
    assert found.layouts == {("uint8", (4, 8, 8, 3))}
    assert found.different == 4
