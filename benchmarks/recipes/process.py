"""Run one training in its own process, which ends when this process does."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.recipes.task import Task
from flowers.errors import InputError
from flowers.system.processes import exit_with_parent

PACKAGES = ("torch", "timm", "lightning", "numpy", "scikit-learn", "fastai")


class TrainingFailed(Exception):
    """The process of a training ended with an error; its log has the details."""


def run_task(task: Task, path: Path) -> None:
    """Run a task to its end, and write its result to `path` and its output beside it as NAME.log.

    Raises:
        TrainingFailed: the training failed; the message has the last line of its log.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(task, path, log, time.time()))
    process.start()
    try:
        process.join()
    finally:  # at Ctrl-C or SIGTERM
        process.terminate()
        process.join(timeout=10)
        process.kill()
        process.join()
    if process.exitcode != 0 or not path.exists():
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), f"exit status {process.exitcode}")
        raise TrainingFailed(f"{task.key}: {last.strip()} See {log}.")


def _work(task: Task, path: Path, log: Path, began: float) -> None:
    """Train and write the result, as the main function of the process."""
    exit_with_parent()
    multiprocessing.set_start_method(None, force=True)  # DataLoader workers start as usual, not as this process did
    _print_to(log)
    from benchmarks.recipes.result import Recorder, write_result

    recorder = Recorder(began)
    try:
        ended = import_module(f"benchmarks.recipes.baselines.{task.recipe}").run(task, recorder) or time.time()
        result = recorder.finish(task, describe_machine(), ended)
    except InputError as error:
        sys.exit(f"error: {error}")
    except SystemExit:
        raise
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"error: {type(error).__name__}: {error}")
    assert recorder.predictions is not None
    write_result(path, result, recorder.predictions)


def _print_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def describe_machine() -> dict[str, Any]:
    """Return the processor, the cores and threads that a training may use, and the versions of packages."""
    import torch

    from benchmarks.loader.run import installed_versions
    from flowers.system.processor import available_cores, cpu_model

    return {
        "cpu": cpu_model(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": installed_versions(PACKAGES),
    }
