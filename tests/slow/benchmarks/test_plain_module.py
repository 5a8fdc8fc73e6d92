"""The benchmark prints the speed of training and prediction beside a plain Lightning module."""

from __future__ import annotations

import re

from tests.helpers.commands import run_module_interpreter


def test_training_and_prediction_are_compared() -> None:
    arguments = ["--size=32", "--batch=4", "--steps=10", "--rounds=1", "--seconds=0.5"]
    done = run_module_interpreter("benchmarks.plain_module", "test_efficientnet", *arguments)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(\w+): plain ([\d.]+) images/s, this project ([\d.]+), ratio ([\d.]+)", done.stdout)
    assert [name for name, *_ in found] == ["training", "prediction"]
    for _, plain, own, ratio in found:
        assert abs(float(own) / float(plain) - float(ratio)) < 0.1 * float(ratio) + 0.1
