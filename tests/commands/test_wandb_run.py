"""All of a training is in its offline W&B run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from flowers.reporting.wandb_workspace import make_workspace
from tests.helpers.commands import run_script
from tests.helpers.ensembles import write_runs
from tests.helpers.wandb_server import read_records


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


@pytest.fixture(scope="module")
def ensemble_records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The records of an ensemble's run."""
    root = tmp_path_factory.mktemp("ensemble")
    settings = [f"runs=[{','.join(write_runs(root))}]", "methods=[mean]", "resamples=100"]
    done = run_script("ensemble", *settings, f"hydra.run.dir={root}/out")
    assert done.returncode == 0, done.stderr
    return read_records(next(root.glob("out/wandb/offline-run-*")))


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(records: list[Record]) -> list[dict[str, Any]]:
    return [values(record.history.item) for record in records if record.HasField("history")]


def config(records: list[Record]) -> dict[str, Any]:
    """Return a run's configuration, with what W&B keeps in it as `_wandb/...`."""
    kept: dict[str, Any] = {}
    for record in records:
        kept |= values(record.config.update) if record.HasField("config") else {}
    return kept


def logged(records: list[Record]) -> set[str]:
    """Return the names that a run has logged, also in its summary; of images and tables their own."""
    names = {name for row in history(records) for name in row}
    names |= {name for record in records for name in values(record.summary.update)}
    return names | {name.removesuffix("/_type") for name in names}


def table(offline: Path, records: list[Record], name: str) -> dict[str, Any]:
    """Return the last table that was logged under a name."""
    paths = [row[f"{name}/path"] for row in history(records) if f"{name}/path" in row]
    read: dict[str, Any] = json.loads((offline / "files" / paths[-1]).read_text())
    return read


def test_its_configuration_is_the_composed_one(run: Path, records: list[Record]) -> None:
    kept, composed = config(records), yaml.safe_load((run / "config.yaml").read_text())
    assert kept["model"]["backbone"] == composed["model"]["backbone"] == "test_efficientnet"
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
    scores = table(offline, records, "val/classes")
    assert len(scores["data"]) == 104
    f1 = [row[scores["columns"].index("f1")] for row in scores["data"]]
    assert f1 == sorted(f1) and f1[0] < f1[-1]
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


SOON = ("train/device_memory", "device")
"""Names in the workspace that no run has logged yet."""

ON_XLA = ("compile/count",)
"""Names that only runs on XLA have."""


def panels() -> list[dict[str, Any]]:
    spec = make_workspace("", "flowers", "flowers")._spec["spec"]
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def shown(panel: dict[str, Any]) -> set[str]:
    """Return the metrics, images and tables that a panel of the workspace shows."""
    settings = panel["config"]
    if panel["viewType"] == "Weave":
        return {settings["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]}
    if panel["viewType"] == "Vega2":
        return {table_key(settings)}
    axis = {settings["xAxis"]} if "xAxis" in settings else set()
    return axis | set(settings.get("metrics", [])) | set(settings.get("mediaKeys", []))


def table_key(settings: dict[str, Any]) -> str:
    """Return the table that a chart of W&B's is drawn from."""
    (query,) = settings["userQuery"]["queryFields"]
    (field,) = (field for field in query["fields"] if field["name"] == "summaryTable")
    key: str = field["args"][0]["value"]
    return key


def test_the_workspace_shows_what_is_logged(records: list[Record], ensemble_records: list[Record]) -> None:
    names = {name for panel in panels() for name in shown(panel)}
    assert len(names) > 20 and all(shown(panel) for panel in panels())
    assert names - logged(records) - logged(ensemble_records) <= {*SOON, *ON_XLA}
    # Those that the two kinds of run are told apart by.
    assert "best/val/macro_f1" in logged(records) - logged(ensemble_records)
    assert {"val/macro_f1_low", "val/gain"} <= logged(ensemble_records) - logged(records)


def test_the_workspace_groups_by_what_is_configured(records: list[Record]) -> None:
    keys = {panel["config"]["groupBy"] for panel in panels() if panel["config"].get("groupBy")} - {"jobType"}
    assert len(keys) == 2
    for key in keys:
        group, _, rest = key.partition(".value")
        found = config(records).get(group, {})
        assert group in SOON if not rest else rest.removeprefix(".") in found


def test_the_workspace_draws_tables_as_the_run_does(records: list[Record]) -> None:
    charts = [panel["config"] for panel in panels() if panel["viewType"] == "Vega2"]
    kept = [value["panel_config"] for name, value in config(records).items() if name.startswith("_wandb/visualize/")]
    parts = ("panelDefId", "fieldSettings", "stringSettings", "transform")
    drawn = [([chart[part] for part in parts], table_key(chart)) for chart in charts]
    assert len(drawn) == 2
    assert all(chart in [([one[part] for part in parts], table_key(one)) for one in kept] for chart in drawn)
