"""The result of a training is written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.recipes.result import Recorder, read_predictions, read_result, result_path
from flowers.errors import InputError
from tests.unit.benchmarks.recipes.helpers import make_predictions, make_result, make_task, write

LABELS = np.array([0, 0, 1, 1, 2, 2])
BETTER, WORSE = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 1, 1, 1, 0, 0])


def test_scores_are_those_of_the_last_epoch() -> None:
    result = make_result(make_task(), *(make_predictions(LABELS, one, 3) for one in (WORSE, BETTER)))
    assert [score.seconds for score in result.by_epoch] == [10, 20]
    assert result.wall_seconds == 30
    for score, predicted in zip(result.by_epoch, (WORSE, BETTER), strict=True):
        assert score.macro_f1 == pytest.approx(f1_score(LABELS, predicted, average="macro"))
        assert score.accuracy == accuracy_score(LABELS, predicted)
    assert (result.macro_f1, result.accuracy) == (result.by_epoch[1].macro_f1, result.by_epoch[1].accuracy)


def test_a_training_without_predictions_has_no_result() -> None:
    with pytest.raises(RuntimeError):
        Recorder(began=0.0).finish(make_task(), {}, ended=1.0)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    predictions = make_predictions(LABELS, BETTER, 3)
    path = write(tmp_path, make_task(overrides=("seed=1",)), predictions)
    assert path == tmp_path / "flowers3-192px-2-epochs" / "plain_loop-seed-1.json"
    assert read_result(path) == make_result(make_task(overrides=("seed=1",)), predictions)
    read = read_predictions(path)
    assert read.ids == predictions.ids
    np.testing.assert_array_equal(read.labels, predictions.labels)
    np.testing.assert_array_equal(read.probabilities, predictions.probabilities)
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".npz"]


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"PK\x03\x04"])
def test_a_damaged_file_is_reported(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = write(tmp_path, make_task(), make_predictions(LABELS, BETTER, 3))
    damaged = path.with_suffix(suffix)
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    with pytest.raises(InputError, match=str(damaged)):
        read_result(path)
        read_predictions(path)


def test_each_training_has_its_own_file() -> None:
    tasks = [make_task(), make_task(seed=2), make_task(name="default")]
    assert len({result_path(Path(), task) for task in tasks}) == 3
