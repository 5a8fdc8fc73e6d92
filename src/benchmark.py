"""Measure on this machine: python src/benchmark.py step|loader [group=NAME ...] [key=VALUE ...]."""

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


def loader(config: DictConfig) -> None:
    """The loader's images a second, beside those of others at the same work."""
    from flowers.data.benchmark.result import write_benchmark
    from flowers.data.benchmark.run import benchmark_loader
    from flowers.reporting.summary import print_comparison, print_loader_benchmark

    file = Path(config.results)
    for result in benchmark_loader(config):
        write_benchmark(file, result)  # each time, so that a run that is stopped leaves what it has
        print_comparison(result)
    print_loader_benchmark(result, file)


if __name__ == "__main__":
    open_command({"step": step, "loader": loader}, "benchmark")
