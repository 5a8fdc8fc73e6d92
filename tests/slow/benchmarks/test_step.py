"""The step benchmark compares the plain CPU and XLA's CPU runtime in a table and a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.step.run import read_results
from tests.helpers.commands import run_module_interpreter
from tests.helpers.on_xla import xla_environment


def test_one_table_compares_devices(tmp_path: Path) -> None:
    results = tmp_path / "step.jsonl"
    for trainer, environment in (("cpu", {}), ("tpu", xla_environment(2))):
        done = run_module_interpreter(
            "benchmarks.step",
            f"trainer={trainer}",
            "model.backbone=test_efficientnet",
            "model.pretrained=false",
            "image_size=64",
            "batch_size=8",
            "steps=10",
            f"results={results}",
            **environment,
        )
        assert done.returncode == 0, done.stderr
    on_cpu, on_xla = read_results(results)
    assert (on_cpu.compilations, on_cpu.fallbacks) == (None, None)
    assert on_cpu.device.startswith("CPU") and on_xla.device == "XLA on CPU x 2"
    assert on_xla.compilations is not None and on_xla.compilations >= 2
    assert (on_xla.late_compilations, on_xla.fallbacks) == (0, 0)
    assert on_xla.start_seconds > 10 * on_xla.step_seconds  # the step does not include compilation
    for result in (on_cpu, on_xla):
        assert result.images_per_second == pytest.approx(8 / result.step_seconds)
        assert f"{result.images_per_second:.1f}" in done.stdout
        assert result.device in done.stdout


def test_several_processes_write_one_line(tmp_path: Path) -> None:
    done = run_module_interpreter(
        "benchmarks.step",
        "trainer=cpu",
        "trainer.devices=2",
        "model.backbone=test_efficientnet",
        "model.pretrained=false",
        "image_size=64",
        "batch_size=8",
        "steps=5",
        f"results={tmp_path}/step.jsonl",
    )
    assert done.returncode == 0, done.stderr
    (result,) = read_results(tmp_path / "step.jsonl")
    assert result.batch_size == 16
    assert result.device.endswith("x 2")
    assert done.stdout.count("Results:") == 1
