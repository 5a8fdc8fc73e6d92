"""Search for settings: what `python src/search.py` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.search.space import Space, parse_space, write_overrides
from flowers.search.study import Claim, SeededSampler, claim_trial, open_study
from flowers.search.training import Outcome, output_log, train_trial
from flowers.settings import Node, Positive, PositiveFloat, Rule, load_settings
from flowers.training.monitor import Monitor
from flowers.training.runs import Run
from flowers.training.train import RULES as TRAIN_RULES
from flowers.training.train import TrainSettings, check_settings

FAILURES = 3
"""How many failures in a row end a search."""

WAIT_SECONDS = 1.0

RULES = {"sampler": Rule(reserved=("seed",))}


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """The settings of `python src/search.py`, beside those of `python src/train.py`.

    space: the values to try, by override; see `flowers.search.space`.
    sampler: a sampler of Optuna, which chooses the next values. Its seed is derived from `seed`.
    pruner: a pruner of Optuna, which stops bad trials early; None to train all to their end.
    trials: the number of trials in total, also of earlier processes. Pruned and failed ones count.
    timeout: after this number of seconds the process starts no further trial.
    output: the directory. A search in it goes on.
    sweep: write a W&B sweep to this file instead of searching.
    """

    space: dict[str, dict[str, Any] | None]
    sampler: Node
    pruner: Node | None
    trials: Positive
    timeout: PositiveFloat | None
    output: str
    sweep: str | None


OWN = tuple(field.name for field in fields(SearchSettings))
"""The keys that `train.py` does not have."""


@dataclass(frozen=True, slots=True)
class Training:
    """The command line of a search's trainings, and their configuration.

    command: the program and its options.
    overrides: the overrides of all trials.
    compose: composes the training's configuration with overrides.
    """

    command: Sequence[str]
    overrides: Sequence[str]
    compose: Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked search."""

    settings: SearchSettings
    space: Space
    training: Training
    monitor: Monitor
    seed: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The trials of a search, and its directory."""

    study: optuna.Study
    directory: Path
    plan: Plan


def plan_search(config: DictConfig, training: Training) -> Plan:
    """Check the settings of a search and of its trainings: each choice, and both ends of each range.

    Raises:
        InputError: bad settings; see the message.
    """
    if "space" not in config:
        raise InputError("hparams_search: expected a choice with a search space, found another. Set it to optuna.")
    own = {name: config[name] for name in OWN if name in config}
    settings = load_settings(SearchSettings, _resolve(own), RULES)
    space = parse_space(settings.space)
    base = _check_training(training, [])
    _check_base(base, settings)
    SeededSampler(settings.sampler, base.seed)
    _make_pruner(settings)
    for key, entry in space.items():
        for value in entry.edges():
            tried = _check_training(training, write_overrides({key: value}), key)
            if tried.monitor != base.monitor:
                raise InputError(f"space.{key}: expected one monitored metric for all trials. Leave it out.")
    return Plan(settings, space, training, base.monitor, base.seed)


def _resolve(values: dict[str, Any]) -> DictConfig:
    resolved: DictConfig = OmegaConf.create({name: _resolve_value(value) for name, value in values.items()})
    return resolved


def _resolve_value(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _check_training(training: Training, overrides: Sequence[str], searched: str = "") -> TrainSettings:
    try:
        config = training.compose([*training.overrides, *overrides, "paths.output_dir=DIR"])
        settings = load_settings(TrainSettings, config, TRAIN_RULES)
        check_settings(settings)
        return settings
    except (InputError, HydraException) as error:
        if not searched:
            raise
        problem = " ".join(str(error).split())
        if "Could not override" in problem:  # Hydra advises to add it, which the model or the data would refuse
            problem = f"expected a setting of the training, found another. 'space={{{searched}:null}}' leaves it out."
        raise InputError(f"space.{searched}: {' '.join(overrides)}: {problem}") from error


def _check_base(base: TrainSettings, settings: SearchSettings) -> None:
    """Raise `InputError` for settings of a training that a search cannot use."""
    if base.ckpt_path is not None:
        raise InputError("ckpt_path: expected none, because the search resumes its trials itself. Leave it out.")
    if base.resume:
        raise InputError("resume=true: expected false, as output=DIR continues a search. Leave it out.")
    if base.trainer.get("fast_dev_run"):
        raise InputError("trainer.fast_dev_run: expected false, because such a run has no metrics. Leave it out.")
    loggers = (base.logger or {}).values()
    if settings.pruner is not None and not any(node and node["_target_"].endswith("CSVLogger") for node in loggers):
        raise InputError(
            "logger: expected one that writes metrics.csv, which the pruner reads, found none. "
            "Set logger=csv, or pruner=null."
        )


def _make_pruner(settings: SearchSettings) -> optuna.pruners.BasePruner:
    if settings.pruner is None:
        return optuna.pruners.NopPruner()
    pruner: optuna.pruners.BasePruner = instantiate("pruner", settings.pruner)
    return pruner


def search(
    plan: Plan, report_start: Callable[[FrozenTrial], None], report_end: Callable[[FrozenTrial], None]
) -> SearchResult:
    """Run trials until the search has as many as it should, or its time is over.

    Several processes may search in one directory. Each waits for the trials of the others at the end, and takes over
    those of a process that dies.

    Args:
        plan: the checked search.
        report_start: called with each trial before its training.
        report_end: called with each trial after it.

    Raises:
        InputError: the directory has another search, or three trials in a row failed.
    """
    started, deadline = datetime.now(), time.monotonic() + (plan.settings.timeout or float("inf"))
    directory = Path(plan.settings.output).absolute()
    study = _open(plan, directory)
    while time.monotonic() < deadline:
        claim = claim_trial(directory, study, plan.settings.trials)
        if isinstance(claim, Claim):
            with claim.lock:
                _run_trial(plan, directory, study, claim.trial, report_start, report_end)
            _check_failures(directory, study, started)
        elif claim:
            time.sleep(WAIT_SECONDS)
        else:
            break
    return SearchResult(study, directory, plan)


def _open(plan: Plan, directory: Path) -> optuna.Study:
    recipe = {
        "metric": plan.monitor.metric,
        "mode": plan.monitor.mode,
        "space": {key: entry for key, entry in plan.settings.space.items() if entry is not None},
        "overrides": list(plan.training.overrides),
    }
    sampler = SeededSampler(plan.settings.sampler, plan.seed)
    return open_study(directory, plan.monitor.mode, sampler, _make_pruner(plan.settings), recipe)


def _run_trial(
    plan: Plan,
    directory: Path,
    study: optuna.Study,
    trial: optuna.Trial,
    report_start: Callable[[FrozenTrial], None],
    report_end: Callable[[FrozenTrial], None],
) -> None:
    values = {key: entry.sample(trial, key) for key, entry in plan.space.items()}
    report_start(_frozen(study, trial))
    reported = set(_frozen(study, trial).intermediate_values)

    def should_prune(epoch: int, value: float) -> bool:
        if epoch not in reported:
            trial.report(value, epoch)
        return bool(trial.should_prune())

    command = [*plan.training.command, *plan.training.overrides, *write_overrides(values)]
    run = Run(directory / f"trial-{trial.number}")
    outcome = train_trial(run, command, plan.monitor.metric, should_prune)
    _tell(study, trial, outcome)
    report_end(_frozen(study, trial))


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome) -> None:
    if outcome.problem:
        trial.set_user_attr("problem", outcome.problem)
        study.tell(trial, state=TrialState.FAIL)
    elif outcome.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, outcome.value)


def _frozen(study: optuna.Study, trial: optuna.Trial) -> FrozenTrial:
    (found,) = (known for known in study.get_trials() if known.number == trial.number)
    return found


def _check_failures(directory: Path, study: optuna.Study, started: datetime) -> None:
    """Raise `InputError` if the last trials that ended since the start of this process all failed."""
    trials = study.get_trials(deepcopy=False)
    ends = [(trial.datetime_complete, trial.number) for trial in trials if trial.datetime_complete is not None]
    last = [trials[number] for end, number in sorted(ends)[-FAILURES:] if end >= started]
    if len(last) == FAILURES and all(trial.state == TrialState.FAIL for trial in last):
        log = output_log(Run(directory / f"trial-{last[-1].number}"))
        raise InputError(
            f"{log}: {FAILURES} trials in a row failed, the last with: {last[-1].user_attrs['problem']} "
            "Fix that, and run the command again: the search goes on."
        )
