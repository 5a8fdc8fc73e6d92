"""Measure a training step: python -m benchmarks.step [group=NAME ...] [key=VALUE ...]; --help lists them."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from flowers.cli import run_command


def main(config: DictConfig) -> float:
    from benchmarks.step.report import print_step_benchmarks
    from benchmarks.step.run import benchmark_step, read_results, write_result

    file = Path(config.results)
    earlier = read_results(file)
    result = benchmark_step(config)
    write_result(file, result)
    print_step_benchmarks([*earlier, result], file)
    return result.step_seconds


if __name__ == "__main__":
    run_command(main, "benchmark_step")
