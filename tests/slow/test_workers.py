"""Workers end with their parent process, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from torch.utils.data import DataLoader
from flowers.data.workers import start_worker
if __name__ == "__main__":
    loader = DataLoader(range(8), num_workers=2, worker_init_fn=start_worker, multiprocessing_context=sys.argv[1])
    batches = iter(loader)
    next(batches)
    print("started", flush=True)
    time.sleep(60)
"""


def find_processes(mark: str) -> list[str]:
    """Return the processes with this mark in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes():
                found.append(environment.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_a_killed_process_leaves_no_workers(context: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    mark = uuid.uuid4().hex
    command = [sys.executable, str(tmp_path / "script.py"), context]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "MARK": mark}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        assert len(find_processes(mark)) >= 3
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while find_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert find_processes(mark) == []


SLOW_START = """
import multiprocessing, signal, sys, time
from flowers.data.workers import WorkerLoader, fork_server, start_worker
from flowers.system.termination import handle_signals, raise_on_signals

def start_slowly(worker):
    time.sleep(2)
    start_worker(worker)

def read():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background jobs ignore SIGINT
    if sys.argv[2] == "training":  # it finishes its step
        handle_signals(lambda number, frame: None)
    else:
        raise_on_signals()
    context = fork_server() if sys.argv[1] == "forkserver" else "fork"
    loader = WorkerLoader(range(8), num_workers=2, worker_init_fn=start_slowly, multiprocessing_context=context)
    batches = iter(loader)
    print("starting", flush=True)
    print(len(list(batches)), flush=True)

if __name__ == "__main__":
    if sys.argv[2] == "child":  # as on XLA devices
        handle_signals(lambda number, frame: None)
        process = multiprocessing.get_context("fork").Process(target=read)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    read()
"""


@pytest.mark.parametrize("context", ["fork", "forkserver"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["command", "training", "child"])
def test_a_signal_does_not_end_workers_that_start(
    kind: str, context: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SLOW_START)
    command = [sys.executable, str(tmp_path / "script.py"), context, kind]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == ((0, "8\n") if kind == "training" else (128 + number, "")), stderr
    assert stderr == ""
