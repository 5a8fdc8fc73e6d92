"""Measure the loader: python -m benchmarks.loader [data.root=DIR] [key=VALUE ...]; --help lists them."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from flowers.cli import run_command
from flowers.settings import load_settings


def main(config: DictConfig) -> None:
    """Compare the loaders, and write and print the results."""
    from benchmarks.loader.report import print_comparison, print_loader_benchmark
    from benchmarks.loader.result import write_benchmark
    from benchmarks.loader.run import LoaderSettings, benchmark_loader

    settings = load_settings(LoaderSettings, config)
    file = Path(settings.results)
    for result in benchmark_loader(settings):
        write_benchmark(file, result)  # after each comparison, so that an interrupted run keeps its results
        print_comparison(result)
    print_loader_benchmark(result, file)


if __name__ == "__main__":
    run_command(main, "benchmark_loader")
