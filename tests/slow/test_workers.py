"""Workers end with their parent process."""

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
