"""Predictions are written and read back, and a submission is made from them."""

from __future__ import annotations

import csv
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flowers.errors import InputError
from flowers.inference import submission
from flowers.inference.submission import write_submission
from flowers.training.predictions import PredictionsWriter, Provenance, read_ids, read_provenance, read_rows

PROVENANCE = Provenance("logs/run", "test", 192, "none", ["rose", "iris", "moon orchid"])


def write_predictions(path: Path, rows: int) -> np.ndarray:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), rows).astype(np.float32)
    with PredictionsWriter(path, PROVENANCE.class_names) as writer:
        for start in range(0, rows, 4):
            part = probabilities[start : start + 4]
            ids = [f"{start + row:09x}" for row in range(len(part))]
            writer.write(ids, [None] * len(part), part)
        writer.finish(PROVENANCE)
        assert writer.count == rows
    return probabilities


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "test.parquet"
    probabilities = write_predictions(path, 10)
    table = pq.read_table(path)
    assert table.column_names == ["id", "label", "rose", "iris", "moon orchid"]
    assert table["id"].to_pylist() == [f"{row:09x}" for row in range(10)]
    assert table["label"].null_count == 10
    np.testing.assert_array_equal(
        np.stack([table[name].to_numpy() for name in PROVENANCE.class_names], 1), probabilities
    )
    assert read_provenance(path) == PROVENANCE


def test_rows_are_stored_in_few_parts_and_in_order_for_small_batches(tmp_path: Path) -> None:
    """Each part takes memory and file metadata for every column."""
    path = tmp_path / "test.parquet"
    probabilities = write_predictions(path, 9999)
    parts = list(read_rows(path, PROVENANCE.class_names))
    np.testing.assert_array_equal(np.concatenate([part.probabilities for part in parts]), probabilities)
    assert read_ids(path).to_pylist() == [f"{row:09x}" for row in range(9999)]
    assert pq.read_metadata(path).num_row_groups <= 3


def test_a_written_batch_may_be_overwritten(tmp_path: Path) -> None:
    batch = np.array([[0.5, 0.25, 0.25], [0, 1, 0]], np.float32, order="F")  # its columns could be used without a copy
    expected = []
    with PredictionsWriter(tmp_path / "test.parquet", PROVENANCE.class_names) as writer:
        for identity in "abc":
            writer.write([identity, identity * 2], [None] * 2, batch)
            expected.append(batch.copy())
            batch[:] = batch[:, [1, 2, 0]]
        writer.finish(PROVENANCE)
    (part,) = read_rows(tmp_path / "test.parquet", PROVENANCE.class_names)
    np.testing.assert_array_equal(part.probabilities, np.concatenate(expected))


def test_a_submission_has_each_id_once_with_its_most_probable_class(tmp_path: Path) -> None:
    probabilities = write_predictions(tmp_path / "test.parquet", 10)
    assert write_submission(tmp_path / "test.parquet", tmp_path / "submission.csv") == 10
    rows = list(csv.reader((tmp_path / "submission.csv").open()))
    assert rows[0] == ["id", "label"]
    assert rows[1:] == [[f"{row:09x}", str(label)] for row, label in enumerate(probabilities.argmax(1))]


def test_a_duplicate_id_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    writing = PredictionsWriter(path, PROVENANCE.class_names)
    with pytest.raises(InputError, match=r"\bid a: "), writing as writer:
        writer.write(["a", "b", "a"], [None] * 3, np.ones((3, 3), np.float32) / 3)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path, batch = tmp_path / "test.parquet", np.full((1, 3), 1 / 3, np.float32)
    with PredictionsWriter(path, PROVENANCE.class_names) as one:
        one.write(["a"], [None], batch)
        with PredictionsWriter(path, PROVENANCE.class_names) as other:
            other.write(["b"], [None], batch)
        assert read_ids(path).to_pylist() == ["b"]
    assert read_ids(path).to_pylist() == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_at_the_end_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    writing = PredictionsWriter(tmp_path / "test.parquet", PROVENANCE.class_names)
    with pytest.raises(OSError, match="No space left"), writing as writer:
        writer.write(["a"], [None], np.full((1, 3), 1 / 3, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_submission_that_cannot_be_finished_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_predictions(tmp_path / "test.parquet", 10)
    (tmp_path / "submission.csv").write_text("earlier")
    monkeypatch.setattr(submission, "read_rows", lambda *_: iter([None]))
    with pytest.raises(AttributeError):
        write_submission(tmp_path / "test.parquet", tmp_path / "submission.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["submission.csv", "test.parquet"]
    assert (tmp_path / "submission.csv").read_text() == "earlier"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_probability_is_refused_and_keeps_the_earlier_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "test.parquet"
    write_predictions(path, 4)
    before = path.read_bytes()
    batch = np.ones((2, 3), np.float32) / 3
    batch[1, 2] = value
    with pytest.raises(InputError, match="id b: "), PredictionsWriter(path, PROVENANCE.class_names) as writer:
        writer.write(["a", "b"], [None] * 2, batch)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_file_that_holds_no_predictions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("text.parquet", "nowhere.parquet"):
        with pytest.raises(InputError, match=f"{name}: .*predictions file"):
            read_provenance(tmp_path / name)
