"""The benchmark of recipes is run as a user runs it, continued, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from benchmarks.recipes.baselines.timm_train import run
from benchmarks.recipes.images import read_images
from benchmarks.recipes.result import Recorder, read_predictions, read_result
from benchmarks.recipes.task import Task
from flowers.data.layout import shard_name, size_directory
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import write_shard
from tests.helpers.commands import ROOT, run_module_interpreter

CLASSES = 3
COUNTS = {"train": 32, "val": 6}

SCRIPT = """
import argparse
from pathlib import Path
import timm
import torch

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("data", type=Path)
for name in ("model", "pretrained-path", "num-classes", "epochs", "output", "experiment", "class-map"):
    parser.add_argument(f"--{name}", required=True)
arguments, _ = parser.parse_known_args()
folders = sorted(path.name for path in (arguments.data / "validation").iterdir())
assert Path(arguments.class_map).read_text().split() == folders
overlay = {"file": arguments.pretrained_path, "num_classes": -1}
model = timm.create_model(
    arguments.model, pretrained=True, num_classes=int(arguments.num_classes), pretrained_cfg_overlay=overlay
)
torch.nn.init.zeros_(model.classifier.weight)
directory = Path(arguments.output, arguments.experiment)
directory.mkdir()
for epoch in range(int(arguments.epochs)):
    torch.nn.init.zeros_(model.classifier.bias)
    model.classifier.bias.data[epoch] = 3  # predicts the class of this number
    torch.save({"state_dict": model.state_dict(), "epoch": epoch}, directory / f"checkpoint-{epoch}.pth.tar")
"""


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of three classes, each of one colour with noise."""
    root = tmp_path_factory.mktemp("sets") / "colours"
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        directory = size_directory(root, 192) / split
        directory.mkdir(parents=True)
        records = []
        for number in range(count):
            image = rng.integers(0, 100, (192, 192, 3), np.uint8)
            image[..., number % CLASSES] += 150
            records.append(Record(f"{split}{number}", simplejpeg.encode_jpeg(image), number % CLASSES))
        write_shard(directory / shard_name(0, 192, count), list(map(encode_example, records)))
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root


def test_recipes_are_trained_once_and_compared(colours: Path, tmp_path: Path) -> None:
    arguments = ["benchmarks.recipes", f"data.root={colours}", "epochs=1", "seeds=[3]", f"results={tmp_path}"]
    arguments.append("overrides=['data.train_size=32','data.eval_size=32']")
    done = run_module_interpreter(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    directory = tmp_path / "colours-192px-1-epochs"
    ids = [f"val{number}" for number in range(COUNTS["val"])]
    for name, images in (("plain_loop", 32), ("frozen_features", 32), ("default", 32)):
        path = directory / f"{name}-seed-3.json"
        result, predictions = read_result(path), read_predictions(path)
        assert (result.name, result.seed, result.images_trained) == (name, 3, images)
        assert sorted(predictions.ids) == ids
        assert predictions.probabilities.shape == (COUNTS["val"], CLASSES)
        assert predictions.probabilities.sum(1) == pytest.approx(np.ones(COUNTS["val"]), abs=1e-4)
        assert predictions.scores() == (result.macro_f1, result.accuracy)
        assert [score.epoch for score in result.by_epoch] == ([0, 1] if name == "default" else [1])
        assert all(0 < score.seconds <= result.wall_seconds for score in result.by_epoch)
        assert any(line.split()[1:2] == [name] for line in done.stdout.splitlines())
    assert read_result(directory / "frozen_features-seed-3.json").macro_f1 == 1  # colours are easy
    assert (directory / f"macro-f1-{directory.name}.svg").exists()

    before = {path: path.stat().st_mtime_ns for path in directory.glob("*.json")}
    again = run_module_interpreter(*arguments)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.glob("*.json")} == before

    summary = run_module_interpreter("benchmarks.recipes", "summarise", f"results={tmp_path}", "reference=default")
    assert summary.returncode == 0, summary.stderr
    assert "default" in summary.stdout and "plain_loop" in summary.stdout


def test_checkpoints_of_timm_are_evaluated(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short script replaces timm's. It reads the folders and writes checkpoints in the same way."""
    monkeypatch.setattr("sys.argv", [])
    (tmp_path / "train.py").write_text(SCRIPT)
    task = Task("timm_train", "timm_train", colours, 192, 2, 1, tmp_path, timm_script=tmp_path / "train.py")
    recorder = Recorder(began=time.time())
    ended = run(task, recorder)
    val = read_images(task, "val")
    assert [score.accuracy for score in recorder.by_epoch] == [(val.labels == epoch).mean() for epoch in (0, 1)]
    assert all(0 < score.seconds <= ended - recorder.began for score in recorder.by_epoch)
    assert recorder.predictions is not None
    assert recorder.predictions.ids == val.ids
    assert recorder.images_trained == 2 * 32


def test_a_failed_training_is_reported(colours: Path, tmp_path: Path) -> None:
    done = run_module_interpreter(
        "benchmarks.recipes",
        *(f"data.root={colours}", "recipes=[]", "variants={bad: ['model.nonsense=1']}", "seeds=[1]"),
        f"results={tmp_path}",
    )
    assert done.returncode == 1
    assert "model.nonsense" in done.stdout
    assert "bad-seed-1" in done.stderr
    assert not list(tmp_path.glob("*/*.json"))


def test_a_killed_benchmark_leaves_no_training_behind(colours: Path, tmp_path: Path) -> None:
    arguments = [f"data.root={colours}", "epochs=50", "seeds=[1]", "recipes=[plain_loop]", f"results={tmp_path}"]
    command = [sys.executable, "-m", "benchmarks.recipes", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ.copy())
    try:
        log = tmp_path / "colours-192px-50-epochs" / "plain_loop-seed-1.log"
        _wait_until(log.exists)
        children = _children(process.pid)
        assert children
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert not list(log.parent.glob("*.json"))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
