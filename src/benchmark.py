"""Measure on this machine: python src/benchmark.py step [group=NAME ...] [key=VALUE ...]."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from flowers.door import open_command


def step(config: DictConfig) -> float:
    """The time of a training step."""
    from flowers.reporting.summary import print_step_benchmarks
    from flowers.training.benchmark import benchmark_step, read_results, write_result

    file = Path(config.results)
    earlier = read_results(file)
    result = benchmark_step(config)
    write_result(file, result)
    print_step_benchmarks([*earlier, result], file)
    return result.step_seconds


if __name__ == "__main__":
    open_command({"step": step}, "benchmark")
