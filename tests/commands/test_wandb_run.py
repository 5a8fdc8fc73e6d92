"""All of a training is in its offline W&B run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from tests.helpers.commands import run_script
from tests.helpers.wandb_server import read_records, wandb_server


@pytest.fixture(scope="module")
def run(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two epochs that mixes its images."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    settings = ["report=true", "model.mixup_alpha=1", "trainer.max_epochs=2", "trainer.log_every_n_steps=2"]
    done = run_script("train", *tiny_settings, *settings, "data.batch_size=26", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def offline(run: Path) -> Path:
    (directory,) = run.glob("wandb/offline-run-*")
    return directory


@pytest.fixture(scope="module")
def records(offline: Path) -> list[Record]:
    return read_records(offline)


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(records: list[Record]) -> list[dict[str, Any]]:
    return [values(record.history.item) for record in records if record.HasField("history")]


def table(offline: Path, records: list[Record], name: str) -> dict[str, Any]:
    """Return the last table that was logged under a name."""
    paths = [row[f"{name}/path"] for row in history(records) if f"{name}/path" in row]
    read: dict[str, Any] = json.loads((offline / "files" / paths[-1]).read_text())
    return read


def test_its_configuration_is_the_composed_one(run: Path, records: list[Record]) -> None:
    kept = {}
    for record in records:
        kept |= values(record.config.update) if record.HasField("config") else {}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["model"]["backbone"] == config["model"]["backbone"] == "test_efficientnet"
    assert kept["trainer"]["max_epochs"] == 2


def test_its_steps_have_the_metrics_of_a_step(records: list[Record]) -> None:
    rows = [row for row in history(records) if "train/loss_step" in row]
    assert [row["trainer/global_step"] for row in rows] == list(range(1, 16, 2))
    assert all(row["train/learning_rate"] > 0 and row["train/gradient_norm"] > 0 for row in rows)


def test_its_epochs_have_the_metrics_of_an_epoch(records: list[Record]) -> None:
    rows = [row for row in history(records) if "train/loader_wait" in row]
    assert len(rows) == 2
    assert all(0 <= row["train/loader_wait"] < 1 and row["train/images_per_second"] > 0 for row in rows)
    assert sum("val/macro_f1" in row for row in history(records)) == 2


def test_its_summary_has_the_best_metrics(run: Path, records: list[Record]) -> None:
    found = {}
    for record in records:
        found |= values(record.summary.update) if record.HasField("summary") else {}
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: found[f"best/{name}"] for name in metrics} == pytest.approx(metrics)


def test_its_training_images_are_mixed(offline: Path) -> None:
    (path,) = offline.glob("files/media/images/train/images_*.png")
    strip = np.asarray(Image.open(path))
    assert strip.shape == (64, 8 * 64, 3)


def test_each_validation_has_its_mistakes_with_images(offline: Path, records: list[Record]) -> None:
    rows = [row for row in history(records) if "val/mistakes/captions" in row]
    assert len(rows) == 2
    assert len(rows[-1]["val/mistakes/captions"]) == rows[-1]["val/mistakes/count"] == 8
    assert all((offline / "files" / name).is_file() for name in rows[-1]["val/mistakes/filenames"])


def test_its_scores_and_curves_are_by_class(offline: Path, records: list[Record]) -> None:
    assert len(table(offline, records, "val/classes")["data"]) == 104
    curves = table(offline, records, "val/precision_recall_table")["data"]
    assert {row[0] for row in curves} == {row[0] for row in table(offline, records, "val/classes")["data"]}
    confusion = table(offline, records, "val/confusion_table")["data"]
    assert sum(row[2] for row in confusion) == 104


def test_its_worst_mistakes_have_saliency(offline: Path, records: list[Record]) -> None:
    worst = table(offline, records, "val/worst_mistakes")
    assert worst["columns"][1:3] == ["image", "saliency"]
    assert all(row[1] == row[2] == "Image" for row in worst["data"])


def test_its_artifacts_refer_to_data_and_checkpoints(run: Path, garden: Path, records: list[Record]) -> None:
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    (data,) = [artifact for artifact in artifacts if artifact.type == "dataset"]
    shards = {entry.ref for entry in data.manifest.contents}
    assert shards == {path.as_uri() for path in (garden / "tfrecords-jpeg-192x192").rglob("*.tfrec")}
    assert all(entry.digest for entry in data.manifest.contents)
    models = {alias: artifact for artifact in artifacts if artifact.type == "model" for alias in artifact.aliases}
    for alias, name in (("best", "best.ckpt"), ("latest", "last.ckpt")):
        assert [entry.ref for entry in models[alias].manifest.contents] == [
            (run / "checkpoints" / name).resolve().as_uri()
        ]


def test_all_of_it_is_uploaded(
    run: Path, offline: Path, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    shutil.copytree(offline, tmp_path / "wandb" / offline.name)
    with wandb_server() as server:
        done = run_script("sync", f"runs={tmp_path}", **server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        (uploaded,) = server.runs.values()
    assert [row["_step"] for row in uploaded.history()] == [row["_step"] for row in history(records)]
    assert uploaded.config()["model"]["backbone"] == "test_efficientnet"
    assert uploaded.summary()["best/val/macro_f1"] == json.loads((run / "metrics.json").read_text())["val/macro_f1"]
    media = {str(path.relative_to(offline / "files")) for path in offline.glob("files/media/**/*") if path.is_file()}
    assert media and media <= uploaded.files.keys()
    assert "classes.table.json" in " ".join(server.artifacts)


def test_its_images_lie_in_its_directory(run: Path, records: list[Record]) -> None:
    files = [
        Path(entry.local_path)
        for record in records
        if record.HasField("artifact")
        for entry in record.artifact.manifest.contents
        if entry.local_path
    ]
    assert len(files) > 20
    assert all(path.is_file() and run.resolve() in path.parents for path in files)
