"""Search with a stand-in for `src/train.py`, which takes milliseconds and leaves the same files."""

from __future__ import annotations

import functools
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from flowers.cli import compose
from flowers.search.search import OWN, Plan, SearchResult, SearchSettings, Training, search
from flowers.search.space import parse_space
from flowers.settings import load_settings
from flowers.training.monitor import Monitor
from tests.helpers.configuration import compose_config, resolve_values

STAND_IN = Path(__file__).with_name("stand_in_training.py")
SPACE = {"x": {"low": 0.0, "high": 1.0}, "y": {"choices": ["a", "b"]}}


def make_plan(directory: Path, *overrides: str, trials: int = 4, pruner: bool = False) -> Plan:
    """Return the plan of a search over SPACE, whose trainings get these overrides."""
    config = compose_config("search", f"trials={trials}", f"output={directory}", "seed=7")
    own = {name: value for name, value in resolve_values(config).items() if name in OWN}
    own |= {"space": SPACE, "sampler": {**own["sampler"], "n_startup_trials": 2}}
    own["pruner"] = {**own["pruner"], "n_startup_trials": 1} if pruner else None
    settings = load_settings(SearchSettings, OmegaConf.create(own))
    training = Training([sys.executable, "-S", str(STAND_IN)], overrides, functools.partial(compose, "train"))
    return Plan(settings, parse_space(settings.space), training, Monitor("val/macro_f1", "max"), 7)


def run_search(plan: Plan) -> SearchResult:
    """Run a search to its end."""
    return search(plan, _ignore, _ignore)


def start_search(directory: Path, overrides: Sequence[str] = (), trials: int = 4) -> ForkProcess:
    """Start a search in a process of its own."""
    context = multiprocessing.get_context("fork")  # everything is imported
    process = context.Process(target=_search, args=(directory, tuple(overrides), trials))
    process.start()
    return process


def table(result: SearchResult) -> list[tuple[int, str, dict[str, object], float | None]]:
    """Return each trial's number, state, values and result."""
    return [(trial.number, trial.state.name, trial.params, trial.value) for trial in result.study.get_trials()]


def _search(directory: Path, overrides: tuple[str, ...], trials: int) -> None:
    def report(trial: FrozenTrial) -> None:
        with (directory / "reported").open("a") as file:
            file.write(f"finished-{trial.number}\n")

    search(make_plan(directory, *overrides, trials=trials), _ignore, report)


def _ignore(trial: FrozenTrial) -> None:
    pass
