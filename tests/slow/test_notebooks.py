"""The notebooks for Kaggle's and Colab's TPUs run on XLA's CPU runtime, including their commands."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.commands import ROOT
from tests.helpers.on_xla import xla_environment


def run_notebook(name: str, cwd: Path, settings: dict[str, str], **environment: str) -> str:
    """Run a notebook in `cwd` as a user does, including its commands, and return what it printed."""
    command = [sys.executable, "-m", "tests.helpers.run_notebook", str(ROOT / "notebooks" / f"{name}.ipynb")]
    environment = {
        **os.environ,
        **environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        [*command, json.dumps(settings)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=480
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_on_kaggle_a_second_session_continues_to_the_submission(
    garden: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "kaggle"
    competition = root / "input" / "competitions" / "flower-classification-with-tpus"
    competition.parent.mkdir(parents=True)
    competition.symlink_to(garden)
    tiny = [setting for setting in tiny_settings if not setting.startswith(("data=", "data.root", "trainer"))]
    short = ["data.image_size=192", "data.batch_size=16", "logger=csv", "trainer.max_epochs=2"]
    settings = {
        "REPOSITORY": str(ROOT),
        "SETTINGS": shlex.join([*tiny, *short, "+trainer.limit_train_batches=3", "+trainer.limit_val_batches=1"]),
    }
    environment = {**xla_environment(2), "FLOWERS_KAGGLE": str(root)}
    run = root / "working" / "logs" / "flowers"

    (tmp_path / "first").mkdir()
    printed = run_notebook("kaggle_tpu", tmp_path / "first", settings | {"TIME": "00:00:00:01"}, **environment)
    assert "trainer.max_time" in printed
    stopped = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 1 <= stopped < 6

    saved = root / "input" / "notebook" / "logs" / "flowers"
    saved.parent.mkdir(parents=True)
    run.rename(saved)
    (root / "working" / "submission.csv").unlink()
    (tmp_path / "second").mkdir()
    run_notebook("kaggle_tpu", tmp_path / "second", settings | {"EARLIER": str(saved)}, **environment)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    lines = (root / "working" / "submission.csv").read_text().splitlines()
    assert lines[0] == "id,label"
    assert len(lines) > 2


def test_on_colab_the_run_of_an_earlier_session_is_continued(tiny_settings: list[str], tmp_path: Path) -> None:
    tiny = [setting for setting in tiny_settings if not setting.startswith("trainer")]
    tiny += [
        "+trainer.limit_train_batches=2",
        "+trainer.limit_val_batches=1",
        "trainer.max_epochs=2",
        "data.batch_size=16",
        "logger=csv",
    ]
    run = tmp_path / "run"
    for session, limit in (("first", ["+trainer.max_time=00:00:00:01"]), ("second", [])):
        (tmp_path / session).mkdir()
        settings = {"REPOSITORY": str(ROOT), "SETTINGS": shlex.join([*tiny, *limit]), "RUN": str(run)}
        printed = run_notebook("colab_tpu", tmp_path / session, settings, **xla_environment(1))
        steps = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        assert 1 <= steps < 4 if limit else steps == 4
        assert ("Resuming from" in printed) == (not limit)
    assert (run / "submission.csv").read_text().startswith("id,label")
