"""Measure a training step: python -m benchmarks.step [group=NAME ...] [key=VALUE ...]; --help lists them."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from flowers.cli import run_command
from flowers.settings import load_settings


def main(config: DictConfig) -> float:
    """Time a training step, add the result to the file of results, and print all of them; return its seconds."""
    from benchmarks.step.report import print_step_benchmarks
    from benchmarks.step.run import RULES, StepSettings, benchmark_step, read_results, write_result

    settings = load_settings(StepSettings, config, RULES)
    file = Path(settings.results)
    earlier = read_results(file)
    result = benchmark_step(settings)
    write_result(file, result)
    print_step_benchmarks([*earlier, result], file)
    return result.step_seconds


if __name__ == "__main__":
    run_command(main, "benchmark_step")
