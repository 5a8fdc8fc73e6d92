"""Train with a trial's settings in a process of its own, and stop it where the pruner says so."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowers.errors import InputError
from flowers.settings import quote
from flowers.system.programs import find_error, start_program
from flowers.training.runs import Run

POLL_SECONDS = 0.5
STOP_SECONDS = 60
"""How long a training that is stopped may take to end its step and save a checkpoint."""

_STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a trial: with a value, pruned, or failed with a problem."""

    value: float | None = None
    pruned: bool = False
    problem: str = ""


def train_trial(run: Run, command: Sequence[str], metric: str, should_prune: Callable[[int, float], bool]) -> Outcome:
    """Train, or continue a training that was killed, and return how it ended.

    Args:
        run: the run's directory.
        command: the training's command line, without that directory.
        metric: the name of the monitored metric.
        should_prune: called with each epoch's number and metric; returns whether to stop the training.

    Raises:
        InputError: a signal stopped the training, or an earlier process still trains in the directory.
    """
    watch = _Watch(run, metric, should_prune)
    status = 0
    log = output_log(run)
    earlier = log.stat().st_size if log.exists() else 0  # what earlier attempts have printed
    if not run.metrics_path.exists():
        run.wait_until_unused()
        arguments = ["resume=true", f"hydra.run.dir={quote(str(run.directory))}"]
        with _running(run, [*command, *arguments]) as process:
            while (ended := process.poll()) is None:
                if watch.prunes():
                    return Outcome(pruned=True)
                time.sleep(POLL_SECONDS)
            status = ended
    if watch.prunes():  # its last epochs may have been quicker than the watch
        return Outcome(pruned=True)
    if run.metrics_path.exists():
        return _read_outcome(run, metric)
    if status in _STOPPED:
        raise InputError(f"{run.directory}: a signal stopped the training. Run the command again: it continues.")
    return Outcome(problem=_find_problem(log, earlier, status))


def output_log(run: Run) -> Path:
    """Return the path of what a trial's training prints."""
    return run.directory.with_name(f"{run.directory.name}.log")


class _Watch:
    """Passes each epoch's metric on once, as it appears in metrics.csv."""

    def __init__(self, run: Run, metric: str, should_prune: Callable[[int, float], bool]) -> None:
        self._run = run
        self._metric = metric
        self._should_prune = should_prune
        self._seen: set[int] = set()

    def prunes(self) -> bool:
        """Return whether the pruner stops the training after one of its new epochs."""
        for epoch, value in read_epochs(self._run, self._metric).items():
            if epoch not in self._seen and not self._is_last(epoch):
                self._seen.add(epoch)
                if self._should_prune(epoch, value):
                    return True
        return False

    def _is_last(self, epoch: int) -> bool:
        """Return whether nothing would be saved by stopping after an epoch."""
        return bool(epoch + 1 == self._run.config().trainer.get("max_epochs"))


def read_epochs(run: Run, metric: str) -> dict[int, float]:
    """Return the finite values of a metric by epoch, from the files of a training that may still be writing them.

    If an epoch has several validations, its value is that of the first.
    """
    values: dict[int, float] = {}
    for path in run.find_metrics_csvs():
        lines = path.read_text().splitlines(keepends=True)
        for row in csv.DictReader(line for line in lines if line.endswith("\n")):
            if row.get(metric) and row.get("epoch") and math.isfinite(float(row[metric])):
                values.setdefault(int(row["epoch"]), float(row[metric]))
    return values


@contextmanager
def _running(run: Run, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a training, and stop it if it still runs when the block ends."""
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    with output_log(run).open("ab") as log:
        process = start_program(command, log)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # also what it started
        process.wait()


def _read_outcome(run: Run, metric: str) -> Outcome:
    metrics = json.loads(run.metrics_path.read_text())
    if metric not in metrics:
        return Outcome(problem=f"{run.metrics_path}: expected {metric}, found {', '.join(metrics) or 'no metrics'}.")
    if metrics[metric] is None:
        return Outcome(problem=f"{run.metrics_path}: expected a finite {metric}, found none.")
    return Outcome(value=float(metrics[metric]))


def _find_problem(log: Path, start: int, status: int) -> str:
    """Return the error that a training printed from byte `start` on, or else its last line, and its exit status."""
    printed = log.read_bytes()[start:].decode(errors="replace")
    return f"{find_error(printed) or 'it printed nothing'} (exit status {status})"
