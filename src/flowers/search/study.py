"""The search's journal: which trials there are, who runs which, and what is tried next.

The journal is Optuna's. A running trial belongs to the process that holds its lock, which the system releases when the
process ends. A trial that is running but not locked was left by a dead process, and the next one that looks takes it
over, with its number and its values.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import BaseFileLock, FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.settings import Mode, Node
from flowers.system.atomic import write_atomic

NAME = "search"


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial that this process runs while it holds the lock."""

    trial: optuna.Trial
    lock: BaseFileLock


class SeededSampler(BaseSampler):
    """Samples each value with a generator that is seeded by the trial's number and the value's name.

    A killed search then tries the same values as an uninterrupted one. A seeded sampler of Optuna starts its sequence
    again with each process.

    Args:
        node: Optuna's sampler.
        seed: the seed of the search.
    """

    def __init__(self, node: Node, seed: int) -> None:
        self._node = node
        self._seed = seed
        sampler = self._make(0, "")  # its settings are checked here
        if isinstance(sampler, (optuna.samplers.GridSampler, optuna.samplers.BruteForceSampler)):
            raise InputError(
                f"sampler._target_={node['_target_']}: expected a sampler that makes any number of "
                "trials, found one of a grid. Train a grid with python src/train.py --multirun KEY=VALUE,VALUE."
            )

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space: dict[str, BaseDistribution] = self._make(trial.number, "").infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sampled: dict[str, Any] = self._make(trial.number, "").sample_relative(study, trial, search_space)
        return sampled

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler = self._make(trial.number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _make(self, number: int, name: str) -> BaseSampler:
        seeds = np.random.SeedSequence([self._seed, number, zlib.crc32(name.encode())])
        sampler: BaseSampler = instantiate("sampler", self._node, seed=int(seeds.generate_state(1)[0]))
        return sampler


class _JournalLock(JournalFileOpenLock):
    """Locks the journal by a lock that ends with its process, and removes an incomplete last line.

    Optuna's own locks stay for 30 seconds if their process is killed. An incomplete line is left by a full disk.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._file_lock = FileLock(f"{journal}.flock")

    def acquire(self) -> bool:
        self._file_lock.acquire()
        _remove_incomplete_line(self._journal)
        return True

    def release(self) -> None:
        self._file_lock.release()


def _remove_incomplete_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def open_study(
    directory: Path, mode: Mode, sampler: BaseSampler, pruner: optuna.pruners.BasePruner, recipe: Mapping[str, Any]
) -> optuna.Study:
    """Open the study in a directory, or create it.

    Args:
        directory: the search's directory.
        mode: whether the lowest or the highest value is the best.
        sampler: chooses the values to try.
        pruner: chooses the trials to stop early.
        recipe: what all values of the study depend on.

    Raises:
        InputError: the directory has a search with another recipe.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (directory / "locks").mkdir(parents=True, exist_ok=True)
    with search_lock(directory):
        check_recipe(directory / "search.json", recipe)
        journal = directory / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_JournalLock(journal)))
        direction = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}[mode]
        return optuna.create_study(
            storage=storage, sampler=sampler, pruner=pruner, study_name=NAME, direction=direction, load_if_exists=True
        )


def check_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe, or compare it with the one that is there.

    Raises:
        InputError: they differ, so that the values of new trials could not be compared with those of earlier ones.
    """
    if not path.exists():
        write_atomic(path, json.dumps(recipe, indent=2) + "\n")
        return
    earlier = json.loads(path.read_text())
    for name, value in json.loads(json.dumps(recipe)).items():
        if earlier.get(name) != value:
            raise InputError(
                f"{path.parent}: expected the settings of the search in this directory, {name} = {earlier.get(name)}, "
                f"found {value}. Use the same settings, or set output to another directory."
            )


def search_lock(directory: Path) -> BaseFileLock:
    """Return the lock under which trials are claimed."""
    return FileLock(directory / "locks" / "search.lock")


def claim_trial(directory: Path, study: optuna.Study, trials: int) -> Claim | list[int]:
    """Take over a dead process's trial, or else start a new one if there are fewer than `trials`.

    If there is neither, return the numbers of the trials that other processes run.
    """
    with search_lock(directory):
        known = study.get_trials(deepcopy=False)
        running = [trial for trial in known if trial.state == TrialState.RUNNING]
        for trial in running:
            if (lock := _try_lock(directory, trial.number)) is not None:
                return Claim(optuna.Trial(study, trial._trial_id), lock)
        if len(known) >= trials:
            return [trial.number for trial in running]
        new = study.ask()
        lock = _try_lock(directory, new.number)
        assert lock is not None, "the number is new"
        return Claim(new, lock)


def _try_lock(directory: Path, number: int) -> BaseFileLock | None:
    try:
        lock = FileLock(directory / "locks" / f"trial-{number}.lock", timeout=0)
        lock.acquire()
    except Timeout:
        return None
    return lock
