"""Medians and ratios are computed from known rates, and written with them to a file."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.loader.result import Comparison, LoaderBenchmark, write_benchmark

# In the second round, the machine is twice as slow for every loader.
SLOWED = Comparison(
    "decode", 192, {"flowers": [300, 150, 330], "tf.data": [200, 100, 150], "decode_only": [400, 200, 400]}
)


def test_medians_and_ratios_are_taken_over_rounds() -> None:
    assert SLOWED.medians() == {"flowers": 300, "tf.data": 150, "decode_only": 400}
    # Not 300 / 150: rates are compared within a round.
    assert SLOWED.ratios() == {"tf.data": 1.5, "decode_only": 0.75}


def test_without_flowers_there_are_no_ratios() -> None:
    assert Comparison("full", 192, {"tf.data": [1.0], "tfrecord": [2.0]}).ratios() == {}


def test_the_result_file_holds_every_rate(tmp_path: Path) -> None:
    result = LoaderBenchmark("now", "a cpu", 2, "3.11", {"numpy": "2"}, {"rounds": 3}, {"tfrecord": "why"}, [SLOWED])
    write_benchmark(tmp_path / "new" / "result.json", result)
    written = json.loads((tmp_path / "new" / "result.json").read_text())
    assert written["absent"] == {"tfrecord": "why"}
    (comparison,) = written["comparisons"]
    assert comparison["rates"]["flowers"] == [300, 150, 330]
    assert comparison["median_images_per_second"]["flowers"] == 300
    assert comparison["flowers_over"] == {"tf.data": 1.5, "decode_only": 0.75}
