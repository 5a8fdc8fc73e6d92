"""Run a program within this process, with its own streams, environment and handlers."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_here(
    program: str, arguments: Sequence[str], run: Callable[[], object], cwd: Path, environment: dict[str, str]
) -> CompletedProcess[str]:
    """Call `run` as a program with these arguments, and undo what it changes in this process."""
    with tempfile.TemporaryDirectory() as directory:
        streams = Path(directory, "stdout"), Path(directory, "stderr")
        with ExitStack() as stack:
            for change in (
                _arguments([program, *arguments]),
                _import_path(),
                _environment(cwd, environment),
                _signal_handlers(),
                _log_handlers(),
                _hydra(),
                *(_stream(number, path) for number, path in enumerate(streams, 1)),
                _printed_warnings(),  # after the streams: it prints to them
            ):
                stack.enter_context(change)
            status = _exit_status(run)
            _end_of_process()
        stdout, stderr = (path.read_text() for path in streams)
    return CompletedProcess([program, *arguments], status, stdout, stderr)


def _exit_status(run: Callable[[], object]) -> int:
    """Run a program, print what the interpreter would print at its end, and return its exit status."""
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _end_of_process() -> None:
    """Clean up as the end of a process would: stop W&B's service and the workers of data loaders."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
    if multiprocessing.active_children():
        gc.collect()


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _import_path() -> Iterator[None]:
    before = sys.path[:]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _environment(cwd: Path, environment: dict[str, str]) -> Iterator[None]:
    directory, before = Path.cwd(), dict(os.environ)
    os.chdir(cwd)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background jobs ignore SIGINT
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_handlers() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers and isinstance(handler, logging.FileHandler):
                handler.close()  # others may close a stream of pytest's, as absl's does
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _hydra() -> Iterator[None]:
    """Clear Hydra's configuration before and after, as Hydra holds one per process."""
    _clear_hydra()
    try:
        yield
    finally:
        _clear_hydra()


def _clear_hydra() -> None:
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@contextmanager
def _stream(number: int, path: Path) -> Iterator[None]:
    """Redirect a stream into a file, by file descriptor so that the output of workers is included."""
    name = {1: "stdout", 2: "stderr"}[number]
    before = getattr(sys, name)
    before.flush()
    saved = os.dup(number)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
    # Never closed, as log handlers may hold it: later they write to whatever the descriptor then refers to.
    stream = open(number, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)
    try:
        yield
    finally:
        stream.flush()
        setattr(sys, name, before)
        os.dup2(saved, number)
        os.close(saved)


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print warnings as an interpreter does, instead of letting pytest collect them."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = _print_warning
        yield


def _print_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)
