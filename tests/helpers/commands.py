"""Run the scripts in one of three ways. Each returns what was printed and the exit status.

`run_script` runs a script within this process and suits most tests. `run_process` forks from a process that has
imported everything: use it for signals, distributed training and environment variables that are read at import.
`run_interpreter` and `run_module_interpreter` start a new Python interpreter, as a shell does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

from tests.helpers.in_process import run_here

ROOT = Path(__file__).parents[2]
PRELOADED = [
    "tests.helpers.killing",
    "flowers.training.train",
    "flowers.inference.predict",
    "flowers.reporting.summary",
]


# In this process.


def run_script(name: str, *overrides: str, cwd: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """Run `python src/NAME.py OVERRIDES` in this process, and undo what it changes in the process."""
    script = str(ROOT / "src" / f"{name}.py")
    return run_here(script, overrides, lambda: runpy.run_path(script, run_name="__main__"), cwd, environment)


def run_module(name: str, *overrides: str, **environment: str) -> CompletedProcess[str]:
    """Run `python -m NAME OVERRIDES` in this process, from the repository's root."""
    return run_here(name, overrides, lambda: runpy.run_module(name, run_name="__main__"), ROOT, environment)


# In a process of its own.


class ScriptProcess:
    """A running `python src/NAME.py OVERRIDES` in `cwd`, with its output in files."""

    def __init__(self, name: str, *overrides: str, cwd: Path = ROOT, **environment: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._output = Path(tempfile.mkdtemp())
        self.process: ForkServerProcess = context.Process(
            target=_run, args=(name, overrides, cwd, environment, self._output), name=name
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def stdout(self) -> str:
        return (self._output / "stdout").read_text() if (self._output / "stdout").exists() else ""

    @property
    def stderr(self) -> str:
        return (self._output / "stderr").read_text() if (self._output / "stderr").exists() else ""

    def wait(self, timeout: float = 240) -> CompletedProcess[str]:
        """Wait for the process to end. If a signal ended it, the returncode is minus the signal's number."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"{self.process.name} ran for more than {timeout} s:\n{self.stderr}")
        return CompletedProcess([], self.process.exitcode, self.stdout, self.stderr)


def run_process(
    name: str, *overrides: str, cwd: Path = ROOT, timeout: float = 240, **environment: str
) -> CompletedProcess[str]:
    """Run `python src/NAME.py OVERRIDES` in a forked process to its end."""
    return ScriptProcess(name, *overrides, cwd=cwd, **environment).wait(timeout)


def _run(name: str, overrides: tuple[str, ...], cwd: Path, environment: dict[str, str], output: Path) -> None:
    os.setsid()  # a process group of its own, as a shell gives to a command
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background jobs ignore SIGINT
    os.chdir(cwd)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # its workers fork, as they do when a shell starts it
    script = str(ROOT / "src" / f"{name}.py")
    sys.argv = [script, *overrides]
    runpy.run_path(script, run_name="__main__")


# In a new interpreter.


def run_interpreter(name: str, *overrides: str, cwd: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """Run `python src/NAME.py OVERRIDES` as a shell does."""
    return _start([str(ROOT / "src" / f"{name}.py"), *overrides], cwd, environment)


def run_module_interpreter(name: str, *overrides: str, **environment: str) -> CompletedProcess[str]:
    """Run `python -m NAME OVERRIDES` as a shell does, from the repository's root."""
    return _start(["-m", name, *overrides], ROOT, environment)


def _start(arguments: list[str], cwd: Path, environment: dict[str, str]) -> CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
