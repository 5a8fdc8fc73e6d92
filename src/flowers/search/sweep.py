"""Write a search space as the configuration of a W&B sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowers.search.space import Choices, Range, Space
from flowers.training.monitor import Monitor


def make_sweep(space: Space, monitor: Monitor, trials: int, stops_early: bool, settings: Sequence[str]) -> Any:
    """Return a W&B sweep over the same space.

    Args:
        space: the search space.
        monitor: the metric to optimize.
        trials: the number of runs.
        stops_early: whether bad runs are stopped early. W&B does so by Hyperband, which has no median rule.
        settings: the other overrides of each run.
    """
    return {
        "program": "src/train.py",
        "method": "bayes",
        "run_cap": trials,
        "metric": {"name": monitor.metric, "goal": {"max": "maximize", "min": "minimize"}[monitor.mode]},
        "parameters": {key: _make_parameter(entry) for key, entry in space.items()},
        **({"early_terminate": {"type": "hyperband", "min_iter": 1}} if stops_early else {}),
        "command": ["${env}", "${interpreter}", "${program}", *settings, "${args_no_hyphens}"],
    }


def _make_parameter(entry: Choices | Range) -> dict[str, Any]:
    if isinstance(entry, Choices):
        return {"values": list(entry.texts)}
    if entry.step is not None:  # W&B's steps start at 0 instead of at low
        count = int((entry.high - entry.low) / entry.step + 1e-9) + 1
        return {"values": [entry.low + number * entry.step for number in range(count)]}
    limits = {"min": entry.low, "max": entry.high}
    if entry.is_integer:
        return {"distribution": "q_log_uniform_values", "q": 1} | limits if entry.log else limits
    return {"distribution": "log_uniform_values" if entry.log else "uniform"} | limits
