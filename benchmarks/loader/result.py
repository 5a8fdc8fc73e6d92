"""Store the measurements of the loader benchmark, and compute their medians and ratios."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.loader.work import Name, Task
from flowers.system.atomic import write_atomic


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of the loaders in one task at one resolution.

    rates: the images/s of each loader in each round. The loaders take turns within a round.
    """

    task: Task
    image_size: int
    rates: Mapping[Name, Sequence[float]]

    def medians(self) -> dict[Name, float]:
        """Return each loader's median over the rounds, in images/s."""
        return {name: statistics.median(rates) for name, rates in self.rates.items()}

    def ratios(self) -> dict[Name, float]:
        """Return the speed of `flowers` over that of each other loader: the median of the rounds' ratios.

        The rates of a round are measured seconds apart, so anything that slows the machine for longer affects both.
        """
        ours = self.rates.get("flowers", [])
        return {
            name: statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
            for name, theirs in self.rates.items()
            if ours and name != "flowers"
        }


@dataclass(frozen=True, slots=True)
class LoaderBenchmark:
    """The comparisons of a run so far.

    cores: the number of cores that this process may use.
    packages: the versions of packages.
    settings: the run's settings.
    absent: the loaders that could not be imported, with the reason and the package to install.
    """

    time: str
    cpu: str
    cores: int
    python: str
    packages: Mapping[str, str]
    settings: Mapping[str, Any]
    absent: Mapping[Name, str]
    comparisons: Sequence[Comparison]


def write_benchmark(path: Path, result: LoaderBenchmark) -> None:
    """Write the result as JSON, with the medians and ratios of each comparison."""
    values = asdict(result)
    for entry, comparison in zip(values["comparisons"], result.comparisons, strict=True):
        entry.update(median_images_per_second=comparison.medians(), flowers_over=comparison.ratios())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(values, indent=2) + "\n")
