"""Measure how long a training waits for Weights & Biases: the seconds within its calls, in one training.

    python -m benchmarks.wandb_calls [OVERRIDE ...]

Overrides are those of src/train.py. Unlike the difference of two trainings, the sum of the calls does not change with
the speed of the machine from one training to the next. It leaves out what W&B's own process takes from the training.
"""

from __future__ import annotations

import functools
import runpy
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb

from flowers.reporting import wandb_results
from flowers.reporting.wandb_images import WandbImages
from flowers.training.loggers import FallbackWandbLogger

SCRIPT = Path(__file__).parents[1] / "src" / "train.py"
CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (FallbackWandbLogger, ("log_hyperparams", "log_metrics", "after_save_checkpoint", "finalize")),
    (WandbImages, ("on_train_batch_start", "on_validation_end")),
    (wandb_results, ("log_results",)),
    (wandb.Run, ("finish",)),
)
"""The calls of a training into W&B, by what has them."""


class Stopwatch:
    """Adds up the seconds within functions, by name. A call within another one counts for the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, and whose seconds are counted."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return function(*arguments, **named)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self._inside = False
                self.seconds[name] += time.perf_counter() - start

        return call


def main(overrides: list[str]) -> None:
    """Run a training in this process, and print the seconds of each call."""
    stopwatch = Stopwatch()
    for owner, names in CALLS:
        for name in names:
            setattr(owner, name, stopwatch.timed(f"{owner.__name__}.{name}", getattr(owner, name)))
    sys.argv = [str(SCRIPT), *overrides]
    start = time.perf_counter()
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    print(describe(stopwatch.seconds, time.perf_counter() - start))


def describe(seconds: Counter[str], total: float) -> str:
    """Return a table of the calls, and their sum as a percentage of the training, which took `total` seconds."""
    lines = [
        "| call | seconds |",
        "|---|---|",
        *(f"| `{name}` | {value:.2f} |" for name, value in seconds.most_common()),
    ]
    spent = sum(seconds.values())
    return "\n".join([*lines, "", f"{spent:.1f} s of {total:.1f} s: {spent / total:.1%} of the training."])


if __name__ == "__main__":
    main(sys.argv[1:])
