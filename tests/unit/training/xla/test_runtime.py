"""Chips that another process holds are waited for, and a runtime that does not start is reported."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flowers.errors import InputError
from flowers.training.xla import runtime
from flowers.training.xla.runtime import check_tpu_starts, wait_for_chips


@pytest.fixture
def chips(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "vfio0", tmp_path / "vfio1", tmp_path / "not_there"]
    for path in paths[:2]:
        path.touch()
    return paths


def hold(chip: Path, opens: int, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Make the first `opens` attempts to open a device file fail as if it were in use, and return the attempts."""
    opened: list[Path] = []
    real = os.open

    def fail(path: Any, *arguments: Any, **settings: Any) -> int:
        if path == chip:
            opened.append(path)
            if len(opened) <= opens:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        return real(path, *arguments, **settings)

    monkeypatch.setattr(runtime.os, "open", fail)
    return opened


def test_chips_in_use_are_waited_for(
    chips: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = hold(chips[1], 2, monkeypatch)
    before = len(list(Path("/proc/self/fd").iterdir()))
    wait_for_chips(chips, 0.4)
    assert len(opened) == 3
    assert [str(chips[1]) in record.getMessage() for record in caplog.records] == [True, True]
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "the chips are closed again for the runtime"


def test_chips_that_stay_in_use_are_reported_after_the_wait(chips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hold(chips[0], 1000, monkeypatch)
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"{chips[0]}: .*\b0\.2 s"):
        wait_for_chips(chips, 0.2)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("import time; time.sleep(60)", r"\b0\.5 s"),
        ("raise OSError('libtpu not found')", "libtpu not found"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
def test_a_tpu_that_does_not_start_is_reported(script: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_tpu_starts([sys.executable, "-c", script], 0.5 if "sleep" in script else 20)


def test_a_tpu_that_starts_is_accepted(tmp_path: Path) -> None:
    check_tpu_starts([sys.executable, "-c", f"open({str(tmp_path / 'tried')!r}, 'w')"], 20)
    assert (tmp_path / "tried").exists()
