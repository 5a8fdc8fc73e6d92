"""The benchmark of the loaders is run as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.commands import run_module_interpreter

QUICK = ("sizes=[192]", "rounds=1", "seconds=0.2", "workers=2")


def test_all_loaders_are_compared(garden: Path, tmp_path: Path) -> None:
    results = tmp_path / "loader.json"
    done = run_module_interpreter(
        "benchmarks.loader", *QUICK, f"data.root={garden}", "tasks=[flip,full]", f"results={results}"
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(results.read_text())
    assert written["absent"] == {}
    assert written["settings"]["workers"] == 2
    flip, full = written["comparisons"]
    assert set(flip["rates"]) == {"flowers", "tf.data", "tfrecord", "torchvision", "decode_only"}
    assert set(full["rates"]) == {"flowers", "tf.data", "tfrecord", "torchvision"}
    for comparison in (flip, full):
        assert all(len(rates) == 1 and rates[0] > 10 for rates in comparison["rates"].values())
        ours = comparison["rates"]["flowers"][0]
        for name, ratio in comparison["flowers_over"].items():
            assert ratio == pytest.approx(ours / comparison["rates"][name][0])
    header, *rows = done.stdout.splitlines()[:3]
    assert header.split()[:7] == ["px", "task", "flowers", "tf.data", "tfrecord", "torchvision", "decode_only"]
    for row, comparison in zip(rows, (flip, full), strict=True):
        medians, ratios = comparison["median_images_per_second"], comparison["flowers_over"]
        values = [f"{value:.0f}" for value in medians.values()] + [f"{ratio:.2f}" for ratio in ratios.values()]
        assert row.split() == ["192", comparison["task"], *values]
    assert f"Results: {results}" in done.stdout.replace("\n", "")


def test_an_absent_baseline_is_reported(garden: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no TensorFlow on this machine')\n")
    results = tmp_path / "loader.json"
    done = run_module_interpreter(
        "benchmarks.loader",
        *QUICK,
        f"data.root={garden}",
        "tasks=[decode]",
        "loaders=[flowers,tf.data]",
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
