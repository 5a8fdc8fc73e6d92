"""Run another program as a child process, with its output in a file."""

from __future__ import annotations

import codecs
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from flowers.system.termination import Terminated

_INTERVAL = 0.1
"""Seconds between two looks at a program's output."""

_PR_SET_PDEATHSIG = 1
"""The number of Linux's `prctl` that asks for a signal at the end of the parent."""


def start_program(command: Sequence[str], output: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a program, with its output and its errors in a file, line by line.

    If this process is killed, Linux sends SIGTERM to the program. It has a process group of its own, as a terminal's
    Ctrl-C would otherwise reach it twice. It stays in the session, because Linux gives each session a priority of its
    own: a program that is started under `nice` would have the normal one.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        process_group=0,
        preexec_fn=_end_with_parent(),
    )


def run_program(command: Sequence[str], log: Path, echo: Callable[[str], object]) -> int:
    """Run a program to its end, and return its exit status, or minus the number of the signal that ended it.

    SIGTERM and Ctrl-C (`Terminated`) are passed on to the program, and raised when it has ended.

    Args:
        command: the program and its arguments.
        log: the file that its output and its errors are appended to.
        echo: called with each part of the output.
    """
    with log.open("ab") as output, log.open("rb") as written:
        written.seek(0, os.SEEK_END)
        process = start_program(command, output)
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        try:
            _follow(process, lambda: echo(decode(written.read())))
        except BaseException as error:
            number = error.number if isinstance(error, Terminated) else signal.SIGTERM
            _end(process, number, lambda: echo(decode(written.read())))
            raise
    return process.returncode


def find_error(output: str) -> str:
    """Return the message that a command has ended with, or else its last line of output."""
    _, found, end = f"\n{output}".rpartition("\nerror: ")
    return end.strip() if found else end.rstrip().rpartition("\n")[2]


def _follow(process: subprocess.Popen[bytes], show: Callable[[], object]) -> None:
    """Show the output of a program until it ends."""
    while process.poll() is None:
        show()
        time.sleep(_INTERVAL)
    show()


def _end(process: subprocess.Popen[bytes], number: int, show: Callable[[], object]) -> None:
    """Send a signal to a program and wait for its end. Further signals are passed on as well."""
    while True:
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            with suppress(OSError):  # the output that is shown may have been closed
                _follow(process, show)
            process.wait()
            return
        except Terminated as again:
            number = again.number


def _end_with_parent() -> Callable[[], None] | None:
    """Return what a new process calls to get SIGTERM when its parent ends; None where the system cannot."""
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
