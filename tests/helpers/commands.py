"""Run commands in processes forked from one that has imported everything: faster than new interpreters."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).parents[2]
PRELOADED = [
    "tests.helpers.killing",
    "flowers.training.train",
    "flowers.inference.predict",
    "flowers.reporting.summary",
]


class Command:
    """A command that runs: `python src/NAME.py SETTINGS` in `cwd`, its output kept in files."""

    def __init__(self, name: str, *settings: str, cwd: Path = ROOT, **environment: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._output = Path(tempfile.mkdtemp())
        self.process: ForkServerProcess = context.Process(
            target=_run, args=(name, settings, cwd, environment, self._output), name=name
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
        """Wait for the end. A process that a signal has ended has its negative number as returncode."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"{self.process.name} ran for more than {timeout} s:\n{self.stderr}")
        return CompletedProcess([], self.process.exitcode, self.stdout, self.stderr)


def run_command(
    name: str, *settings: str, cwd: Path = ROOT, timeout: float = 240, **environment: str
) -> CompletedProcess[str]:
    """Run a command to its end."""
    return Command(name, *settings, cwd=cwd, **environment).wait(timeout)


def _run(name: str, settings: tuple[str, ...], cwd: Path, environment: dict[str, str], output: Path) -> None:
    os.setsid()  # a process group of its own, as a shell gives to a command
    signal.signal(signal.SIGINT, signal.default_int_handler)  # though the tests may run in a script's background
    os.chdir(cwd)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of its workers, as where a shell starts it
    script = str(ROOT / "src" / f"{name}.py")
    sys.argv = [script, *settings]
    runpy.run_path(script, run_name="__main__")
