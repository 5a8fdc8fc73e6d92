"""Print a search: each trial, the best ones, and the command that trains with the best settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from flowers.search.search import Plan, SearchResult
from flowers.search.space import write_overrides
from flowers.search.sweep import make_sweep
from flowers.settings import typed
from flowers.system.atomic import write_atomic
from flowers.system.paths import shorten
from flowers.training.monitor import metric_label

SHOWN_TRIALS = 10
"""Trials of the table."""

ENOUGH_TRIALS = 10
"""Complete trials without which the importance of the settings is noise."""

_console = Console(soft_wrap=True, highlight=False)


def print_directory(plan: Plan) -> None:
    """Print how many trials there will be, and the setting that continues the search if it is stopped."""
    output = typed("output", plan.settings.output)
    _console.print(f"Search: {plan.settings.trials} trials. Continue it with {output}", markup=False)


def print_start(trial: FrozenTrial) -> None:
    """Print the settings of a trial that starts."""
    _console.print(f"Trial {trial.number}: {' '.join(_settings(trial))}", markup=False)


def print_end(metric: str, trial: FrozenTrial) -> None:
    """Print how a trial ended."""
    if trial.state == TrialState.COMPLETE:
        shown = f"{metric} {_value(trial):.4f}"
    elif trial.state == TrialState.PRUNED:
        shown = f"pruned after epoch {trial.last_step}"
    else:
        shown = f"failed: {trial.user_attrs['problem']}"
    _console.print(f"Trial {trial.number}: {shown}", markup=False)


def print_search(result: SearchResult) -> float | None:
    """Print the best trials, how many ended in which way, and the next command. Return the best value, if any."""
    trials = result.study.get_trials()
    best = rank_trials(trials, result.plan)
    _console.print(_make_table(best[:SHOWN_TRIALS], result.plan))
    _console.print(f"Trials:            {_count_states(trials)}", markup=False)
    if importance := measure_importance(result.study):
        shown = ", ".join(f"{key} {part:.2f}" for key, part in importance.items())
        _console.print(f"Importance:        {shown}", markup=False)
    _console.print(f"Search directory:  {shorten(result.directory)}", markup=False)
    if not best:
        return None
    _console.print(f"Train the best:    {best_command(best[0], result.plan)}", markup=False)
    return _value(best[0])


def rank_trials(trials: list[FrozenTrial], plan: Plan) -> list[FrozenTrial]:
    """Return the complete trials, the best first; of equal ones, the earlier first."""
    sign = -1 if plan.monitor.mode == "max" else 1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (sign * _value(trial), trial.number))


def best_command(trial: FrozenTrial, plan: Plan) -> str:
    """Return the shell command that trains with a trial's settings."""
    settings = [*plan.training.overrides, *write_overrides(trial.params)]
    return " ".join(["python src/train.py", *map(shlex.quote, settings)])


def measure_importance(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each setting for the value; empty if there are too few trials to measure it."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < ENOUGH_TRIALS or len({trial.value for trial in complete}) == 1:
        return {}
    importance: dict[str, float] = optuna.importance.get_param_importances(study)
    return importance


def write_sweep(plan: Plan, path: Path) -> None:
    """Write the search as the configuration of a W&B sweep, and print the command that starts it."""
    sweep: Any = make_sweep(
        plan.space, plan.monitor, plan.settings.trials, plan.settings.pruner is not None, plan.training.overrides
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "# Written by src/search.py sweep=FILE.\n" + OmegaConf.to_yaml(OmegaConf.create(sweep)))
    _console.print(f"Written to:  {shorten(path)}", markup=False)
    _console.print(f"Start it:    wandb sweep {shlex.quote(str(path))}", markup=False)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None, "the trial is complete"
    return trial.value


def _make_table(trials: list[FrozenTrial], plan: Plan) -> Table:
    metric = Column(metric_label(plan.monitor.metric), justify="right", no_wrap=True)
    table = Table(Column("trial", justify="right"), metric, Column("settings", overflow="fold"), box=SIMPLE, padding=0)
    for trial in trials:
        table.add_row(str(trial.number), f"{_value(trial):.4f}", " ".join(_settings(trial)))
    return table


def _settings(trial: FrozenTrial) -> list[str]:
    """Return a trial's settings, with numbers shortened."""
    values = {key: value if isinstance(value, str) else f"{value:.4g}" for key, value in trial.params.items()}
    return write_overrides(values)


def _count_states(trials: list[FrozenTrial]) -> str:
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    counts = {state.name.lower(): sum(trial.state == state for trial in trials) for state in states}
    return ", ".join(f"{count} {name.replace('fail', 'failed')}" for name, count in counts.items() if count)
