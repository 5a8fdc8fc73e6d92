"""A killed preparation of photographs is continued to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, run_script
from tests.helpers.photographs import read_files, write_class_folders


def arguments(source: Path, output: Path) -> list[str]:
    return ["folder", f"source={source}", f"output={output}", "sizes=[256,384]"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("many") / "many", {"a": 110, "b": 110}, 480, 360)


@pytest.fixture(scope="module")
def uninterrupted(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "output"
    done = run_script("prepare", *arguments(many, output))
    assert done.returncode == 0, done.stderr
    assert f"Wrote {output}: 154 train" in done.stdout
    return output


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in Linux's /proc")
@pytest.mark.parametrize("moment", ["scan/*.csv", "*/train/*.tfrec"])
def test_a_killed_preparation_is_continued_to_the_same_bytes(
    many: Path, uninterrupted: Path, tmp_path: Path, moment: str
) -> None:
    output = tmp_path / "output"
    command = [sys.executable, str(ROOT / "src" / "prepare.py"), *arguments(many, output)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(output.glob(moment)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "manifest.csv").exists()
    assert workers
    while any(_is_alive(pid) for pid in workers):  # they end with their parent
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = {path: path.stat().st_mtime_ns for path in output.glob(moment)}
    done = run_script("prepare", *arguments(many, output))
    assert done.returncode == 0, done.stderr
    assert read_files(output) == read_files(uninterrupted)
    if moment.endswith("tfrec"):
        assert {path: path.stat().st_mtime_ns for path in before} == before


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
