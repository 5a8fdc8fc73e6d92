"""`python src/choose.py` ranks backbones and prints the next command."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

from tests.helpers.commands import run_script
from tests.helpers.configuration import check


def test_backbones_are_ranked_and_those_without_weights_are_skipped(garden: Path, tmp_path: Path) -> None:
    data = ["data=tfrecords", f"data.root={garden}", "data.eval_size=64", "data.num_workers=0", "data/augment=flip"]
    backbones = "backbones=[tf_efficientnet_lite1,resnet18,tf_efficientnet_lite0]"
    done = run_script("choose", *data, backbones, "train_images=200", "trainer=cpu", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "choose.csv").open()))
    results = json.loads((tmp_path / "choose.json").read_text())
    assert {row["backbone"] for row in rows} == {"tf_efficientnet_lite0", "tf_efficientnet_lite1"}
    assert [float(row["cv_accuracy"]) for row in rows] == sorted(
        (float(row["cv_accuracy"]) for row in rows), reverse=True
    )
    assert all(float(row["val_accuracy"]) > 0.05 for row in rows)  # five times as often as by chance
    assert {row["licence"] for row in rows} == {"apache-2.0"}
    assert [candidate["backbone"] for candidate in results["candidates"]] == [row["backbone"] for row in rows]
    assert list(results["passed_over"]) == ["resnet18"]
    assert "resnet18" in done.stdout
    (command,) = (line for line in done.stdout.splitlines() if "src/train.py" in line)
    settings = check("train", *shlex.split(command.partition("src/train.py ")[2]))
    assert settings.data["train_transform"][0]["_target_"] == "albumentations.Resize"
    assert settings.model["backbone"] == rows[0]["backbone"]


def test_a_mistyped_backbone_and_one_without_weights_are_refused(garden: Path, tmp_path: Path) -> None:
    data = ["data=tfrecords", f"data.root={garden}", "data.num_workers=0", "trainer=cpu", f"hydra.run.dir={tmp_path}"]
    for backbone, expected in (("resnet5O", "error: backbones=resnet5O: "), ("resnet18", "error: backbones: ")):
        done = run_script("choose", *data, f"backbones=[{backbone}]")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(expected)
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("choose.csv"))
