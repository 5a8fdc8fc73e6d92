"""A grid of trainings finishes after its W&B server vanishes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.wandb_server import WandbServer, read_records, wandb_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """Yield a server that answers, with this process logged in to it and nowhere else."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    with wandb_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_grid_finishes_without_its_server(tiny_settings: list[str], server: WandbServer, tmp_path: Path) -> None:
    """The server vanishes as soon as the first job's run exists, and the second job does not find it."""

    def vanish() -> None:
        while "UpsertBucket" not in server.requests:
            time.sleep(0.05)
        server.vanish()

    Thread(target=vanish, daemon=True).start()
    first_steps = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"]
    overrides = [*tiny_settings, "logger=default", "seed=0,1", *first_steps]
    done = subprocess.run(
        [sys.executable, "src/train.py", "--multirun", *overrides, f"hydra.sweep.dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "1", "WANDB_SILENT": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    online, offline = (next((tmp_path / job / "wandb").glob("*run-*")) for job in "01")
    assert [online.name.partition("-")[0], offline.name.partition("-")[0]] == ["run", "offline"]
    assert all((tmp_path / job / "metrics.json").is_file() for job in "01")
    for directory in (online, offline):
        records = read_records(directory)
        assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    # The table and the directories are printed before the wait for the server.
    lines = done.stdout.splitlines()
    waited = next(number for number, line in enumerate(lines) if line.startswith("W&B: Timed out"))
    assert f"python src/sync.py runs={online}" in lines[waited]
    assert any(str(tmp_path / "0") in line for line in lines[:waited] if line.startswith("Run directory"))
    assert any("macro_f1" in line for line in lines[:waited])
    assert any(
        f"python src/sync.py runs={tmp_path / '1'}" in line for line in lines if line.startswith("Put it online")
    )
