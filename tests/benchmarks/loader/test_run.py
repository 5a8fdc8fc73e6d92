"""The loader's benchmark, run as a user runs it, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loader.process import Measured, measure
from benchmarks.loader.run import check_work
from benchmarks.loader.work import Work
from tests.conftest import run_module

QUICK = ("sizes=[192]", "rounds=1", "seconds=0.2", "workers=2")


def test_all_contestants_side_by_side(garden: Path, tmp_path: Path) -> None:
    results = tmp_path / "loader.json"
    done = run_module("benchmarks.loader", *QUICK, f"data.root={garden}", "tasks=[flip,full]", f"results={results}")
    assert done.returncode == 0, done.stderr
    written = json.loads(results.read_text())
    assert written["absent"] == {}
    assert written["settings"]["workers"] == 2
    flip, full = written["comparisons"]
    assert set(flip["rates"]) == {"flowers", "tf.data", "tfrecord", "ceiling"}
    assert set(full["rates"]) == {"flowers", "tf.data", "tfrecord"}
    for comparison in (flip, full):
        assert all(len(rates) == 1 and rates[0] > 10 for rates in comparison["rates"].values())
        ours = comparison["rates"]["flowers"][0]
        for name, ratio in comparison["flowers_over"].items():
            assert ratio == pytest.approx(ours / comparison["rates"][name][0])
    header, *rows = done.stdout.splitlines()[:3]
    assert header.split()[:6] == ["px", "task", "flowers", "tf.data", "tfrecord", "ceiling"]
    for row, comparison in zip(rows, (flip, full), strict=True):
        medians, ratios = comparison["median_images_per_second"], comparison["flowers_over"]
        figures = [f"{value:.0f}" for value in medians.values()] + [f"{ratio:.2f}" for ratio in ratios.values()]
        assert row.split() == ["192", comparison["task"], *figures]
    assert f"Results: {results}" in done.stdout.replace("\n", "")


def test_an_absent_peer_is_named(garden: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no TensorFlow on this machine')\n")
    results = tmp_path / "loader.json"
    done = run_module(
        "benchmarks.loader",
        *QUICK,
        f"data.root={garden}",
        "tasks=[decode]",
        "contestants=[flowers,tf.data]",
        f"results={results}",
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    reason = "no TensorFlow on this machine: pip install tensorflow-cpu"
    written = json.loads(results.read_text())
    assert written["absent"] == {"tf.data": reason}
    assert set(written["comparisons"][0]["rates"]) == {"flowers"}
    assert "absent" in done.stdout.splitlines()[1]
    assert f"tf.data: absent ({reason})" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tasks=[decode,flop]"], "error: tasks.1=flop: expected 'decode', 'flip' or 'full', found 'flop'."),
        (["contestants=[dali]"], "error: contestants.0=dali: expected 'flowers', 'tf.data', 'tfrecord' or 'ceiling'"),
        (["data.root=nowhere"], "error: data.root=nowhere: no such directory. Expected a data set in Kaggle's layout"),
        (
            ["sizes=[192,331]", "data.root=GARDEN"],
            "error: sizes: expected resolutions of GARDEN, which has [192, 224],",
        ),
        (["sizes=[192]", "data.root=GARDEN", "results=README.md"], "error: results=README.md: there is a file already"),
    ],
)
def test_what_is_refused(garden: Path, arguments: list[str], message: str) -> None:
    done = run_module("benchmarks.loader", *(argument.replace("GARDEN", str(garden)) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith(message.replace("GARDEN", str(garden)))


def test_a_damaged_record_is_found_before_anything_is_measured(garden: Path, tmp_path: Path) -> None:
    root = shutil.copytree(garden, tmp_path / "damaged")
    shard = min((root / "tfrecords-jpeg-192x192" / "train").glob("*.tfrec"))
    content = bytearray(shard.read_bytes())
    content[500] ^= 0xFF
    shard.write_bytes(content)
    done = run_module("benchmarks.loader", *QUICK, f"data.root={root}", f"results={tmp_path}/loader.json")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {shard}: record 0: the payload's CRC is wrong")


WORK = Work(Path(), "decode", image_size=8, batch_size=4, workers=1, seed=0)


def measured(shape: tuple[int, ...] = (4, 8, 8, 3), dtype: str = "uint8", different: int = 40) -> Measured:
    return Measured(20, 1.0, frozenset({(dtype, shape)}), pulled=40, different=different)


def test_work_that_was_done_passes() -> None:
    check_work("tf.data", [measured(), measured(different=25)], WORK, records=1000)
    check_work("tf.data", [measured(different=6)], WORK, records=8)  # there are no more


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (measured(shape=(3, 8, 8, 3)), "tf.data: expected batches of .*found .*3, 8, 8, 3"),
        (measured(dtype="float32"), "tf.data: expected batches of .*found .*float32"),
        (measured(different=4), "tf.data: expected at least 20 different ids, found 4"),
    ],
)
def test_other_work_is_refused(wrong: Measured, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        check_work("tf.data", [measured(), wrong], WORK, records=1000)


def test_a_measurement_counts_whole_batches_after_its_warm_up() -> None:
    image = np.zeros((4, 8, 8, 3), np.uint8)
    endless = ([f"{number}a", f"{number}b", f"{number}c", f"{number}d"] for number in iter(int, 1))
    found = measure(((ids, image) for ids in endless), seconds=0.02)
    assert found.seconds >= 0.02
    assert found.images % 4 == found.pulled % 4 == 0
    assert 0 < found.images < found.pulled
    assert found.layouts == {("uint8", (4, 8, 8, 3))}
    assert found.different == 4
