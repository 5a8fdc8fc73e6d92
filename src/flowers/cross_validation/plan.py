"""Check a cross-validation's settings before any fold is trained, and keep them in its directory."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from flowers.errors import InputError, first_few
from flowers.interfaces import LoadsSplits
from flowers.settings import flatten, load_settings
from flowers.system.atomic import final_name, write_atomic
from flowers.targets import locate, parameters_of
from flowers.training.pair import make_data
from flowers.training.runs import Run, recipe_of
from flowers.training.train import RULES, TrainSettings, check_settings

SETTINGS_FILE = "settings.json"

OWN_SETTINGS = ("folds", "output")
"""The settings that are not those of a training."""

Compose = Callable[[str, Sequence[str]], DictConfig]
"""Composes a command's configuration with overrides: see `flowers.cli.compose`."""


@dataclass(frozen=True, slots=True)
class CrossValidationSettings(TrainSettings):
    """The settings of `python src/cross_validate.py`: those of a training, and these.

    folds: the number of folds that train and val together are divided into.
    output: a new directory for all results, or the directory of a cross-validation to continue.
    """

    folds: Annotated[int, Field(ge=2)]
    output: str


@dataclass(frozen=True, slots=True)
class Call:
    """The command line of a cross-validation, and those that follow from it.

    overrides: the overrides of `train.py`, as they were typed.
    command: the command that continues it.
    train: the command that trains, without overrides.
    """

    overrides: list[str]
    command: str
    train: list[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked cross-validation.

    directory: the directory of all results.
    settings: the settings of each fold's training, with those of the cross-validation.
    kept: the configuration without references resolved, which a later call is compared with.
    call: how it was called.
    fold: the composed configuration of the first fold's training.
    compose: composes the configurations of other commands.
    """

    directory: Path
    settings: CrossValidationSettings
    kept: dict[str, Any]
    call: Call
    fold: DictConfig
    compose: Compose

    def run(self, fold: int) -> Run:
        """Return the run of a fold."""
        return Run(self.directory / f"fold-{fold}")

    @property
    def recipe(self) -> str:
        """Return the digest of the configuration, which is the same for all folds."""
        return recipe_of(self.fold)

    def make_data(self) -> L.LightningDataModule:
        """Create the data module of the first fold. It generates and downloads nothing."""
        node: dict[str, Any] = OmegaConf.to_container(self.fold.data, resolve=True)  # type: ignore[assignment]
        return make_data(node | {"prepare": None} if "prepare" in node else node)


def make_plan(config: DictConfig, call: Call, compose: Compose) -> Plan:
    """Check the settings of a cross-validation.

    Args:
        config: the composed `configs/cross_validate.yaml`.
        call: how the command was called.
        compose: composes the configurations of other commands.

    Raises:
        InputError: a setting is invalid, or one that only the cross-validation sets.
    """
    settings = load_settings(CrossValidationSettings, config, RULES)
    _check_own(settings, call.overrides)
    check_settings(settings)
    overrides = [*call.overrides, *fold_overrides(settings.folds, 0), "paths.output_dir=."]
    kept: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    del kept["output"]
    directory = Path(settings.paths.output_dir)
    plan = Plan(directory, settings, kept, call, compose("train", overrides), compose)
    _check_folds(plan.make_data(), settings)
    return plan


def fold_overrides(folds: int, fold: int) -> list[str]:
    """Return the overrides that select a fold."""
    return [f"++data.folds={folds}", f"++data.fold={fold}"]


def _check_own(settings: CrossValidationSettings, overrides: Sequence[str]) -> None:
    """Raise `InputError` if the user has set what the cross-validation sets, or what leaves it without results."""
    for key in ("folds", "fold"):
        if settings.data.get(key) is not None:
            raise InputError(
                f"data.{key}={settings.data[key]}: expected none, as each training is given its own, found one. Leave "
                "it out, and set folds=N."
            )
    if settings.ckpt_path is not None:
        raise InputError(
            f"ckpt_path={settings.ckpt_path}: expected none, found a checkpoint. An interrupted cross-validation "
            "resumes by itself with output=DIR."
        )
    if settings.resume:
        raise InputError("resume=true: expected false, as output=DIR continues a cross-validation. Leave it out.")
    if any(override.lstrip("+~").startswith("paths.output_dir") for override in overrides):
        raise InputError("paths.output_dir: expected none, as each fold has its own, found one. Set output=DIR.")
    if settings.trainer.get("fast_dev_run"):
        raise InputError(
            f"trainer.fast_dev_run={settings.trainer['fast_dev_run']}: expected false, found a run without "
            "checkpoints, which cannot predict. Try the settings with python src/train.py, or with debug=limit."
        )
    _check_data_target(settings)


def _check_data_target(settings: CrossValidationSettings) -> None:
    target = settings.data["_target_"]
    taken, takes_others = parameters_of(locate(target, "data"))
    missing = [name for name in ("folds", "fold") if name not in taken]
    if missing and not takes_others:
        raise InputError(
            f"data._target_={target}: expected a data module with the parameters folds and fold, found none named "
            f"{missing[0]}. Add both: train on all folds but one, and return that one as val."
        )


def _check_folds(datamodule: L.LightningDataModule, settings: CrossValidationSettings) -> None:
    """Raise `InputError` if predictions would fail, or would not be recognised as those of folds."""
    name = type(datamodule).__name__
    if not isinstance(datamodule, LoadsSplits):
        raise InputError(
            f"data: {name} has no loader(split), which predictions need. Add the method: see "
            "flowers.interfaces.LoadsSplits."
        )
    found = getattr(datamodule, "folds", None), getattr(datamodule, "fold", None)
    if found != (settings.folds, 0):
        raise InputError(
            f"data: expected the attributes folds and fold of {name} to be those that it is given, {settings.folds} "
            f"and 0, found {found[0]} and {found[1]}. Set both in its __init__."
        )


@contextmanager
def claim(plan: Plan) -> Iterator[None]:
    """Lock the directory while the block runs, and keep the settings there.

    Raises:
        InputError: another process uses the directory, or it has results with other settings.
    """
    directory = plan.directory
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # The workers of a process that has just been killed may still hold the lock.
        lock = FileLock(directory / ".lock").acquire(timeout=5)
    except Timeout:
        raise InputError(
            f"{directory}: expected a directory that is not in use, found another cross-validation running in it. Wait "
            "for it to end, or set output to another directory."
        ) from None
    with lock:
        path = directory / SETTINGS_FILE
        if path.exists():
            _check_same(path, plan)
        else:
            _check_unused(directory)
            values = {"overrides": plan.call.overrides, "settings": plan.kept}
            write_atomic(path, json.dumps(values, indent=2) + "\n")
        yield


def _check_unused(directory: Path) -> None:
    found = sorted(path.name for path in directory.iterdir() if path.name != ".lock")
    if others := [name for name in found if final_name(name) != SETTINGS_FILE]:
        raise InputError(
            f"{directory}: expected a new directory or that of a cross-validation, with {SETTINGS_FILE}, found "
            f"{first_few(others, ', ')}. Set output to another directory."
        )


def _check_same(path: Path, plan: Plan) -> None:
    """Raise `InputError` with each setting that differs from those of the first call."""
    try:
        kept = json.loads(path.read_text())
        before, overrides = dict(flatten(kept["settings"])), [str(override) for override in kept["overrides"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the settings of a cross-validation, found {type(error).__name__}: {error}. Set output "
            "to a new directory."
        ) from error
    now = dict(flatten(json.loads(json.dumps(plan.kept))))
    keys = [*before, *(key for key in now if key not in before)]
    absent = "none"
    differences = [
        f"{key}: {before.get(key, absent)} there, {now.get(key, absent)} here"
        for key in keys
        if before.get(key, absent) != now.get(key, absent)
    ]
    if differences:
        first = shlex.join([f"folds={before.get('folds')}", *overrides])
        raise InputError(
            f"{path.parent}: expected the settings of the first call there, found others:\n  {first_few(differences)}\n"
            f"Use those of the first call, {first}, or set output to a new directory."
        )
