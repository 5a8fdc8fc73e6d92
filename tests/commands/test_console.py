"""A training prints bars on a terminal, and plain lines without one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, run_script

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EPOCH = re.compile(r"^Epoch (\d+)/(\d+)  [\d.]+ images/s  loss [\d.]+  val loss [\d.]+  macro F1 [\d.]+  \d+:\d\d$")


def run_on_terminal(command: list[str], columns: int) -> list[str]:
    """Run a command on a terminal, and return the lines that it has drawn, in each of their states."""
    own, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    drawn = b""
    try:
        while part := os.read(own, 65536):
            drawn += part
    except OSError:  # how Linux reports that the other end is closed
        pass
    assert process.wait(60) == 0, drawn.decode()
    return re.split(r"[\r\n]+", ESCAPE.sub("", drawn.decode()))


@pytest.mark.slow
def test_a_terminal_of_80_columns_shows_bars_that_fit(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [*tiny_settings, "+trainer.limit_train_batches=3", "+trainer.limit_val_batches=1", "logger=csv"]
    command = [sys.executable, "src/train.py", *settings, "callbacks.progress_bar.refresh_rate=1"]
    lines = run_on_terminal([*command, f"hydra.run.dir={tmp_path}/run"], columns=80)
    bars = [line for line in lines if "━" in line and "/3" in line]
    assert any("images/s" in line for line in bars)
    assert max(map(len, bars)) <= 80
    assert sum(bool(EPOCH.match(line)) for line in lines) == 1


def test_without_a_terminal_plain_lines_are_printed(trained: Path) -> None:
    printed = (trained / "stdout.txt").read_text()
    assert not ESCAPE.search(printed)
    lines = printed.splitlines()
    assert [match.groups() for line in lines if (match := EPOCH.match(line))] == [("1", "1")]
    bars = [line for line in lines if re.search(r"\d+/\d+ .*(it/s|--:--)", line)]
    assert bars == []


def read_summary(printed: str) -> dict[str, str]:
    """Return the rows of a training's summary, by name."""
    lines = [line.strip() for line in printed.splitlines()]
    rows = dict(line.split("  ", maxsplit=1) for line in lines if re.match(r"[A-Z][a-z]+  ", line))
    return {name: text.strip() for name, text in rows.items()}


def test_the_summary_names_data_model_device_and_schedule(trained: Path) -> None:
    rows = read_summary((trained / "stdout.txt").read_text())
    assert {"208", "104", "192"} <= set(re.findall(r"\d+", rows["Data"]))
    assert rows["Model"].startswith("test_efficientnet, ") and "GFLOPs" in rows["Model"]
    assert rows["Device"].startswith("cpu, ")
    assert rows["Schedule"].startswith("1 epoch of ")
    assert rows["Logs"] == "CSV, Wandb"
    assert "".join(rows["Run"].split()) in str(trained)


def test_the_summary_of_a_trial_run_has_no_loggers(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_script("train", *tiny_settings, "debug=fdr", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    rows = read_summary(done.stdout)
    assert rows["Logs"] == "none" and "Run" not in rows
    assert rows["Schedule"].startswith("1 epoch of 1 step, ")


def test_no_library_warns(trained: Path) -> None:
    assert (trained / "stderr.txt").read_text() == ""


def test_a_run_resumed_within_an_epoch_reports_that_epoch_without_warnings(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    run = [*tiny_settings, "data.batch_size=52", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}"]
    assert run_script("train", *run, "trainer.max_steps=6").returncode == 0
    done = run_script("train", *run, f"ckpt_path={tmp_path}/checkpoints/last.ckpt")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Epoch")]
    assert line.startswith("Epoch 2/2 ")
    minutes, seconds = line.split()[-1].split(":")
    assert int(minutes) < 5 and int(seconds) < 60  # of this process, not since the machine started
