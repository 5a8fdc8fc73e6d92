"""Time the candidates of `autotune.py` with a run's own model, batch and trainer, and record the chosen one.

Timing works on copies of the model, so that a run starts as it would have started without it.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.console import Console
from torch import nn

from flowers.data.workers import default_workers
from flowers.errors import InputError
from flowers.interfaces import HasNetwork
from flowers.settings import Node, split_own
from flowers.system.atomic import write_atomic
from flowers.system.processor import available_cores, cpu_model
from flowers.training.autotune import (
    KEY,
    Choice,
    Timing,
    Tuning,
    choose_workers,
    find_fastest,
    gains_by_compiling,
    list_candidates,
    make_table,
    may_gain_by_compiling,
)
from flowers.training.callbacks import count_images
from flowers.training.execution import (
    Execution,
    check_execution,
    first_line,
    has_compiler,
    set_precision,
)
from flowers.training.step_timing import Stage, quiet, time_loader, time_steps

log = logging.getLogger(__name__)

ModelOf = Callable[[Any], nn.Module]
"""Returns the model that the module of a stage runs."""

FILE = "autotune.json"
"""The file of all timings in a run's directory."""

SECONDS = 16.0
"""The time for all candidates that are not compiled. Each makes at least two steps, also if they take longer."""

LOADER_SECONDS = 3.0
"""The time for reading batches."""

WIDTH = 110
"""The least width of the table, in characters."""

LIGHT_LOADER = 0.05
"""The time of a batch as a fraction of a step's, below which the number of threads does not matter to the loader."""


def choose_execution(
    stage: Stage,
    node: Node,
    trainer: L.Trainer,
    module: L.LightningModule,
    datamodule: L.LightningDataModule,
    make_loader: Callable[[], Iterable[Any]],
    steps: int | None = None,
    model_of: ModelOf = lambda module: module,
) -> tuple[Execution, Tuning | None]:
    """Return how to run a stage's steps: as configured, or the fastest way with `trainer.autotune=true`.

    The chosen precision and number of workers are set in the trainer and the data module.

    Args:
        stage: Lightning's name of the stage.
        node: the trainer's settings.
        trainer: the trainer of the stage, which has not started.
        module: the module that it will run. It is not changed.
        datamodule: the source of the batches.
        make_loader: returns the loader of the stage.
        steps: the number of steps; None: the length of the loader, if it has one.
        model_of: returns the module's model.

    Raises:
        InputError: the settings do not fit the trainer, or a module cannot be copied.
    """
    _, execution = split_own(node, Execution)
    check_execution(execution, trainer)
    if not execution.autotune or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return execution, None
    log.info("Autotune: timing the steps of %s, for about %.0f s.", stage, SECONDS + LOADER_SECONDS)
    with isolate_rng(), quiet():
        tuning = _Tuner(stage, node, execution, trainer, module, datamodule, model_of).tune(make_loader(), steps)
    Console(width=max(get_console().width, WIDTH)).print(make_table(tuning))
    get_console().print(f"Chosen: {tuning.choice}", soft_wrap=True, highlight=False)
    return apply_choice(tuning.choice, execution, trainer, datamodule), tuning


def keep_execution(
    node: Node, trainer: L.Trainer, datamodule: L.LightningDataModule, path: Path, recorded: Mapping[str, Any] | None
) -> tuple[Execution, Choice | None]:
    """Return how to run the steps of a resumed training, and the choice of its earlier process, if it was tuned.

    It is never tuned again, so that it equals an uninterrupted training.

    Args:
        node: the trainer's settings.
        trainer: the trainer, which has not started.
        datamodule: the source of the batches.
        path: the checkpoint.
        recorded: the choice in the checkpoint; None if its run was not tuned.

    Raises:
        InputError: the checkpoint is of another version.
    """
    _, execution = split_own(node, Execution)
    if not execution.autotune:
        return execution, None
    choice = read_choice(path, recorded)
    if choice is None:
        log.info("Autotune: not done in a resumed run, whose first process was not tuned.")
        return replace(execution, autotune=False), None
    log.info("Autotune: %s, as in %s.", choice, path)
    return apply_choice(choice, execution, trainer, datamodule), choice


def apply_choice(
    choice: Choice, configured: Execution, trainer: L.Trainer, datamodule: L.LightningDataModule
) -> Execution:
    """Set a choice's precision and workers in a trainer and a data module, and return the configured rest with it."""
    set_precision(trainer, choice.precision)
    if choice.workers is not None and getattr(datamodule, "num_workers", 0) is None:
        datamodule.num_workers = choice.workers  # type: ignore[attr-defined]
    return _execute(choice, configured)


def _execute(choice: Choice, configured: Execution) -> Execution:
    """Return a configured execution with the chosen settings."""
    chosen = {name: getattr(choice, name) for name in ("channels_last", "compile", "threads")}
    return replace(configured, autotune=False, **chosen)


def configure_choice(config: DictConfig, choice: Choice) -> DictConfig:
    """Return a training's configuration with the chosen settings of the trainer in it."""
    chosen = config.copy()
    for name in ("precision", "channels_last", "compile", "threads"):
        OmegaConf.update(chosen, f"trainer.{name}", getattr(choice, name), force_add=True)
    return chosen


def write_tuning(directory: Path, tuning: Tuning) -> None:
    """Write all timings to autotune.json in a run's directory."""
    values = tuning.record() | {"processor": cpu_model(), "cores": available_cores()}
    write_atomic(directory / FILE, json.dumps(values, indent=2) + "\n")


def read_choice(path: Path, recorded: Mapping[str, Any] | None) -> Choice | None:
    """Return the choice that a checkpoint has; None if its run was not tuned.

    Raises:
        InputError: the checkpoint is of another version.
    """
    try:
        return None if recorded is None else Choice(**recorded)
    except TypeError as error:
        raise InputError(
            f"{path}: expected a choice of trainer.autotune, found another version's: {error}. Set the settings of "
            "its config.yaml, with trainer.autotune=false."
        ) from error


class RecordChoice(Callback):
    """Saves the chosen execution in each checkpoint, so that a resumed run uses it without timing anything."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = asdict(self._choice)


class _Tuner:
    """Times the candidates of one stage, and chooses among them."""

    def __init__(
        self,
        stage: Stage,
        node: Node,
        execution: Execution,
        trainer: L.Trainer,
        module: L.LightningModule,
        datamodule: L.LightningDataModule,
        model_of: ModelOf,
    ) -> None:
        self._stage = stage
        self._node = node
        self._execution = execution
        self._precision = str(trainer.precision)
        self._device = trainer.strategy.root_device
        self._module = module
        self._datamodule = datamodule
        self._model_of = model_of

    def tune(self, loader: Iterable[Any], steps: int | None) -> Tuning:
        workers = getattr(loader, "num_workers", 0)
        steps = _length(loader) if steps is None else steps
        batch, loader_seconds = time_loader(loader, LOADER_SECONDS)
        timings = self._time_eager(batch)
        seconds = {timing.choice: timing.seconds for timing in timings if timing.seconds is not None}
        choice = find_fastest(seconds)
        compiled = self._time_compiled(batch, choice, steps, seconds[choice])
        timings.append(compiled)
        if compiled.seconds is not None and (
            self._execution.compile or gains_by_compiling(steps or 0, seconds[choice], compiled)
        ):
            choice, seconds[compiled.choice] = compiled.choice, compiled.seconds
        choice = self._add_workers(choice, seconds[choice], batch, loader_seconds, workers, timings)
        return Tuning(choice, timings, count_images(batch), loader_seconds)

    def _time_eager(self, batch: Any) -> list[Timing]:
        candidates = list_candidates(
            self._precision,
            self._execution.channels_last,
            self._execution.threads,
            formats=isinstance(self._model_of(self._module), HasNetwork),
        )
        end, timings = time.perf_counter() + SECONDS, []
        for number, candidate in enumerate(candidates):
            seconds = (end - time.perf_counter()) / (len(candidates) - number)  # two steps are run in any case
            timings.append(self._time(candidate, batch, seconds, keep=number == 0))
        return timings

    def _time_compiled(self, batch: Any, eager: Choice, steps: int | None, seconds: float) -> Timing:
        candidate = replace(eager, compile=True)
        if not (self._execution.compile or may_gain_by_compiling(steps, seconds)):
            length = "of unknown length" if steps is None else f"about {steps * seconds:.0f} s long"
            return Timing(candidate, None, note=f"not tried: the run is {length}")
        if self._device.type == "cpu" and not has_compiler():
            return Timing(candidate, None, note="not tried: there is no C++ compiler")
        try:
            return self._time(candidate, batch, SECONDS / 4)
        finally:
            torch.compiler.reset()

    def _add_workers(
        self,
        choice: Choice,
        seconds: float,
        batch: Any,
        loader_seconds: float | None,
        workers: int,
        timings: list[Timing],
    ) -> Choice:
        """Return a choice with the number of threads and workers, if these are not configured."""
        tuned = getattr(self._datamodule, "num_workers", 0) is None
        if loader_seconds is None or not tuned:
            return choice
        cores, threads, on_cpu = available_cores(), torch.get_num_threads(), self._device.type == "cpu"
        by_threads = {threads if on_cpu else 1: seconds}
        heavy = loader_seconds > LIGHT_LOADER * seconds
        if on_cpu and heavy and threads > 1 and choice.threads is None and not choice.compile:
            timing = self._time(replace(choice, threads=threads - 1), batch, SECONDS / 8)
            timings.append(timing)
            if timing.seconds is not None:
                by_threads[threads - 1] = timing.seconds
        most = max(workers, default_workers(1), min(8, cores))
        chosen, count = choose_workers(by_threads, loader_seconds, workers, most, cores)
        changed = on_cpu and chosen != threads
        return replace(choice, workers=count, threads=chosen if changed else choice.threads)

    def _time(self, choice: Choice, batch: Any, seconds: float, *, keep: bool = False) -> Timing:
        """Time one candidate; with `keep`, raise its errors instead of noting them."""
        execution = _execute(choice, self._execution)
        module = self._copy()
        model = self._model_of(module)
        try:
            times = time_steps(
                self._stage, self._node, choice.precision, execution, module, batch, seconds, model=model
            )
        except (RuntimeError, InputError) as error:
            if keep:
                raise
            return Timing(choice, None, note=f"failed: {first_line(error)}")
        first, *rest = times
        best = min(rest, default=first)
        return Timing(choice, best, max(0.0, first - best))

    def _copy(self) -> L.LightningModule:
        try:
            # A model may refer to its data module, by a method for example: that is not copied.
            return copy.deepcopy(self._module, {id(self._datamodule): self._datamodule})
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise InputError(
                f"trainer.autotune=true: expected a model that copy.deepcopy can copy, found {first_line(error)}. Set "
                "trainer.autotune=false."
            ) from error


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # the loader of a data set without a length
        return None
