"""Choose the fastest way to run a network's steps from timings: candidates, rules and the table. Nothing is timed here.

`tuning.py` times the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rich.table import Table

KEY = "autotune"
"""The key of the choice in a checkpoint."""

MARGIN = 0.03
"""The gain in time below which a default is kept: timings differ by that much."""

COMPILE_SECONDS = 60.0
"""The time that compiling is assumed to take before it is measured. EfficientNet-Lite0 took it on two cores."""

COMPILE_GAIN = 0.25
"""The fraction of a step's time that compiling is assumed to save, before it is measured."""

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to run the steps of a network. A run's checkpoints and its autotune.json have the chosen one.

    precision: Lightning's name of the precision.
    channels_last: whether the network is in the channels-last memory format.
    compile: whether the network is compiled.
    threads: the number of threads on the CPU; None: PyTorch's default.
    workers: the number of processes that decode; None: as configured.
    """

    precision: str
    channels_last: bool
    compile: bool = False
    threads: int | None = None
    workers: int | None = None

    def __str__(self) -> str:
        """Return the choice as settings of a command line."""
        values = {
            "trainer.precision": self.precision,
            "trainer.channels_last": str(self.channels_last).lower(),
            "trainer.compile": str(self.compile).lower(),
            "trainer.threads": self.threads,
            "data.num_workers": self.workers,
        }
        return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a candidate.

    seconds: the time of a step; None if there is none.
    start_seconds: the extra time of the first step, mostly for compilation.
    note: why there is no time.
    """

    choice: Choice
    seconds: float | None
    start_seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of an autotuning.

    choice: the fastest candidate, with its threads and workers.
    timings: all timings, the configured candidate first.
    images: the images of a step.
    loader_seconds: the time that one worker takes for a batch; None if it was not measured.
    """

    choice: Choice
    timings: Sequence[Timing]
    images: int
    loader_seconds: float | None

    def record(self) -> dict[str, Any]:
        """Return plain values, for autotune.json."""
        return asdict(self)


def list_candidates(precision: str, channels_last: bool, threads: int | None, *, formats: bool) -> list[Choice]:
    """Return the candidates that are not compiled, the configured one first.

    Args:
        precision: the configured precision. With 64 bits, no other precision is a candidate.
        channels_last: the configured memory format.
        threads: the configured number of threads.
        formats: whether the model's memory format can be chosen.
    """
    precisions = [precision] if "64" in precision else [precision, "32-true", "bf16-mixed"]
    layouts = [channels_last, not channels_last] if formats else [channels_last]
    return [Choice(name, layout, threads=threads) for layout in layouts for name in dict.fromkeys(precisions)]


def find_fastest(seconds: Mapping[Key, float]) -> Key:
    """Return the key of the least time, or the first key if that is less than `MARGIN` slower."""
    first = next(iter(seconds))
    best = min(seconds, key=lambda key: seconds[key])
    return best if seconds[best] < seconds[first] * (1 - MARGIN) else first


def may_gain_by_compiling(steps: int | None, step_seconds: float) -> bool:
    """Return whether a run is long enough for compiling to be tried; False for a run of unknown length."""
    return steps is not None and steps * step_seconds * COMPILE_GAIN > COMPILE_SECONDS


def gains_by_compiling(steps: int, eager_seconds: float, compiled: Timing) -> bool:
    """Return whether a run is faster compiled, with the time of the compilation."""
    return compiled.seconds is not None and steps * (eager_seconds - compiled.seconds) > compiled.start_seconds


def expected_seconds(step: float, loader: float, threads: int, workers: int, cores: int) -> float:
    """Return the expected time of a step with its batch, if the step and the workers share the cores.

    Args:
        step: the time of a step alone, with `threads` threads.
        loader: the time that one worker takes for a batch.
        threads: the threads of a step; 1 if a device other than the CPU computes it.
        workers: the number of workers; with 0, this process makes the batches between the steps.
        cores: the number of cores.
    """
    if workers == 0:
        return step + loader
    work = (step * min(threads, cores) + loader) / cores
    return max(step, loader / workers, work)


def choose_workers(steps: Mapping[int, float], loader: float, default: int, most: int, cores: int) -> tuple[int, int]:
    """Return the threads and the workers with the least expected time, the defaults if nothing is clearly faster.

    Args:
        steps: the time of a step by its number of threads, the default first.
        loader: the time that one worker takes for a batch.
        default: the default number of workers.
        most: the largest number of workers.
        cores: the number of cores.
    """
    workers = dict.fromkeys([default, *range(1, most + 1)])
    return find_fastest(
        {
            (threads, count): expected_seconds(step, loader, threads, count, cores)
            for threads, step in steps.items()
            for count in workers
        }
    )


def make_table(tuning: Tuning) -> Table:
    """Return the table of an autotuning, with the chosen row in bold."""
    table = Table("precision", "memory format", "compiled", "threads", "images/s", "step ms", "", title="autotune")
    for timing in tuning.timings:
        choice, seconds = timing.choice, timing.seconds
        speed = ("", "") if seconds is None else (f"{tuning.images / seconds:.1f}", f"{seconds * 1e3:.1f}")
        start = f"{timing.start_seconds:.0f} s to compile" if choice.compile and seconds is not None else ""
        table.add_row(
            choice.precision,
            "channels last" if choice.channels_last else "contiguous",
            "yes" if choice.compile else "no",
            "" if choice.threads is None else str(choice.threads),
            *speed,
            ", ".join(part for part in (start, timing.note) if part),
            style="bold" if _is_chosen(choice, tuning.choice) else None,
        )
    return table


def _is_chosen(candidate: Choice, chosen: Choice) -> bool:
    return (candidate.precision, candidate.channels_last, candidate.compile, candidate.threads) == (
        *(chosen.precision, chosen.channels_last, chosen.compile),
        chosen.threads,
    )


def loader_headroom(waited: float | None) -> float | None:
    """Return how many times as fast a training would be that never waits for a batch; None if it is not known.

    Args:
        waited: the fraction of the time that was spent waiting, `train/loader_wait`.
    """
    if waited is None or not math.isfinite(waited) or not 0 <= waited < 1:
        return None
    return 1 / (1 - waited)
