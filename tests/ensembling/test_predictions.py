"""The predictions file and the submission made of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flowers.ensembling.predictions import PredictionsWriter, Provenance, read_provenance
from flowers.ensembling.submission import write_submission
from flowers.errors import InputError

PROVENANCE = Provenance("logs/run", "test", 192, "none", ["rose", "iris", "moon orchid"])


def written(path: Path, rows: int) -> np.ndarray:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), rows).astype(np.float32)
    with PredictionsWriter(path, PROVENANCE.class_names) as writer:
        for start in range(0, rows, 4):
            part = probabilities[start : start + 4]
            ids = [f"{start + row:09x}" for row in range(len(part))]
            writer.write(ids, [None] * len(part), part)
        writer.finish(PROVENANCE)
        assert writer.count == rows
    return probabilities


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "test.parquet"
    probabilities = written(path, 10)
    table = pq.read_table(path)
    assert table.column_names == ["id", "label", "rose", "iris", "moon orchid"]
    assert table["id"].to_pylist() == [f"{row:09x}" for row in range(10)]
    assert table["label"].null_count == 10
    np.testing.assert_array_equal(
        np.stack([table[name].to_numpy() for name in PROVENANCE.class_names], 1), probabilities
    )
    assert read_provenance(path) == PROVENANCE


def test_a_submission_has_each_id_once_with_its_most_probable_class(tmp_path: Path) -> None:
    probabilities = written(tmp_path / "test.parquet", 10)
    assert write_submission(tmp_path / "test.parquet", tmp_path / "submission.csv") == 10
    rows = list(csv.reader((tmp_path / "submission.csv").open()))
    assert rows[0] == ["id", "label"]
    assert rows[1:] == [[f"{row:09x}", str(label)] for row, label in enumerate(probabilities.argmax(1))]


def test_an_id_twice_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    writing = PredictionsWriter(path, PROVENANCE.class_names)
    with pytest.raises(InputError, match="id a: expected each id once"), writing as writer:
        writer.write(["a", "b", "a"], [None] * 3, np.ones((3, 3), np.float32) / 3)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("text.parquet", "nowhere.parquet"):
        with pytest.raises(InputError, match=f"{name}: expected a predictions file"):
            read_provenance(tmp_path / name)
