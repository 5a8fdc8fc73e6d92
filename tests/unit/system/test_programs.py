"""A program's output is logged and shown, and it gets the signals and the end of its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from flowers.system.programs import find_error, run_program
from flowers.system.termination import Terminated, raise_on_signals

WAITING = """
import pathlib, signal, sys, time
def end(number, frame):
    print("ended by", number)
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def start(code: str, log: Path, *arguments: object) -> tuple[int, str]:
    shown: list[str] = []
    status = run_program([sys.executable, "-c", code, *map(str, arguments)], log, shown.append)
    return status, "".join(shown)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_both_streams_are_shown_and_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    status, shown = start("import sys; print('née'); print('bad', file=sys.stderr); sys.exit(7)", log)
    assert (status, shown) == (7, "née\nbad\n")
    assert log.read_text() == "before\nnée\nbad\n"


def test_a_signal_that_ends_the_program_is_its_status(tmp_path: Path) -> None:
    status, _ = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "log")
    assert status == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_raised_when_the_program_has_ended(tmp_path: Path, number: signal.Signals) -> None:
    ready, log = tmp_path / "ready", tmp_path / "log"

    def send() -> None:
        wait_for(ready.exists)
        os.kill(os.getpid(), number)

    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        raise_on_signals()
        thread = threading.Thread(target=send)
        thread.start()
        with pytest.raises(Terminated) as raised:
            start(WAITING, log, ready)
        thread.join()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert raised.value.code == 128 + number
    assert log.read_text() == f"ended by {number.value}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a program that its parent was killed")
def test_a_killed_parent_ends_the_program(tmp_path: Path) -> None:
    ready, log = tmp_path / "ready", tmp_path / "log"
    parent = multiprocessing.get_context("spawn").Process(target=start, args=(WAITING, log, ready))
    parent.start()
    wait_for(ready.exists)
    parent.kill()
    parent.join()
    wait_for(lambda: log.read_text() != "")
    assert log.read_text() == f"ended by {signal.SIGTERM.value}\n"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Epoch 1/3\nerror: data.root: no such directory.\nSet it.\n", "data.root: no such directory.\nSet it."),
        ("error: first\nerror: second\n", "second"),
        ("Traceback\nValueError: no\n\n", "ValueError: no"),
        ("", ""),
    ],
)
def test_the_error_is_the_last_message(output: str, expected: str) -> None:
    assert find_error(output) == expected
